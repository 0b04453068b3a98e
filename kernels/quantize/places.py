"""Where vectors of activations and their blocks' scales lie in memory."""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Int32

from kernels.nvfp4_layout import SCALE_COLUMNS, SCALE_ROWS
from kernels.quantize.formats import ELEMENTS

WORDS = ELEMENTS // 2  # of a vector of bf16


def words_of(tensor: cute.Tensor) -> cute.Tensor:
    """The tensor's memory as 32-bit words, one after the other."""
    pointer = cute.recast_ptr(tensor.iterator, dtype=Int32)
    return cute.make_tensor(pointer, cute.make_layout(cute.size(tensor) * tensor.element_type.width // 32))


def bytes_of(tensor: cute.Tensor) -> cute.Tensor:
    return cute.make_tensor(tensor.iterator, cute.make_layout(cute.size(tensor)))


def vector_of(tensor: cute.Tensor, vector: Int32) -> cute.Tensor:
    """Eight bf16, in four words of 16 aligned bytes."""
    pointer = cute.recast_ptr(tensor.iterator, dtype=Int32)
    return cute.make_tensor(pointer + cute.assume(vector * WORDS, divby=WORDS), cute.make_layout(WORDS))


def scale_offset(scales: cute.Tensor, row: Int32, column: Int32) -> Int32:
    """The byte of scale (row, column) in the layout of `kernels.nvfp4.swizzle_scales`."""
    atom = row // SCALE_ROWS * (scales.shape[1] // SCALE_COLUMNS) + column // SCALE_COLUMNS
    row_offset = row % 32 * 16 + row % SCALE_ROWS // 32 * 4
    return atom * (SCALE_ROWS * SCALE_COLUMNS) + row_offset + column % SCALE_COLUMNS

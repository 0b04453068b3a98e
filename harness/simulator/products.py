"""The loops of `products.c` on numpy arrays: products of bf16 operands in shared memory, and of lanes.

numpy widens both operands into arrays of their own, and its products know nothing of the rows that pad a tile
to wgmma's 64. All first launches of a Hopper config with tiles of 8 or 16 tokens take a fifth less time.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator import c_library
from harness.simulator.c_arrays import address
from harness.simulator.shared import ZERO, SharedMemory

CHUNK_ELEMENTS = 8
WIDTH = 16  # rows of a panel of B in products.c
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Chunks:
    """Where an operand of each of G groups lies: the 16-byte chunks `table[which[g]]` [rows, along K]."""

    table: Int64s
    which: Int64s


@cache
def load_products() -> ctypes.CDLL | None:
    """The library, None on a processor that it is not for.

    Raises `ToolchainError` when it cannot be built or loaded.
    """
    library = c_library.load("products")
    if not library.has_products():
        return None
    number, array = ctypes.c_int64, ctypes.c_void_p
    library.add_products.argtypes = (
        array, array, ctypes.c_int, number, number, array, number, array, array, number, array, array, number,
        array, array, array, array,
    )  # fmt: skip
    library.fuse.argtypes = (number, array, number, array, number, array, number, array)
    library.add_products.restype = library.fuse.restype = None
    return library


def add_products(
    shared: SharedMemory,
    rows: npt.NDArray[Any],
    a: Chunks,
    b: Chunks,
    keep: npt.NDArray[np.bool_],
    tiles: npt.NDArray[np.float32],
) -> None:
    """Add A B^T of the CTAs `rows` [G] to `tiles` [G, m, n], or to zeros where not `keep` [G].

    `tiles` are contiguous, n is a multiple of 8, and all chunks are known to lie
    within a CTA's bytes. For processors that `load_products` is for.
    """
    library = load_products()
    assert library is not None
    (_, m, count), (_, n, _) = a.table.shape, b.table.shape
    depth = CHUNK_ELEMENTS * count
    space = np.empty((m + 1) * (depth + WIDTH) + -(-n // WIDTH) * WIDTH * depth, np.float32)
    arrays = (np.ascontiguousarray(array, np.int64) for array in (rows, a.table, a.which, b.table, b.which))
    rows, a_table, a_which, b_table, b_which = arrays
    keep = np.ascontiguousarray(keep)
    slots = np.empty(m, np.int64)
    assert tiles.flags.c_contiguous
    library.add_products(
        address(shared.bytes), address(shared.state), ZERO, shared.size, len(rows), address(rows), m,
        address(a_table), address(a_which), n, address(b_table), address(b_which), count,
        address(keep), address(tiles), address(space), address(slots),
    )  # fmt: skip


def fused(*operands: Any) -> npt.NDArray[np.float32] | None:
    """a * b + c of float32, rounded once; None of shapes or on a processor that the library is not for.

    Without the instruction for it, that takes some ten passes in float64 (`rounding.sum_f32`).
    """
    shapes = {operand.shape for operand in operands if operand.ndim}
    library = load_products()
    if library is None or len(shapes) != 1 or not all(operand.flags.c_contiguous for operand in operands):
        return None
    out = np.empty(shapes.pop(), np.float32)
    arrays = [np.asarray(operand) for operand in operands]  # kept: of numbers, these are copies
    places = [part for array in arrays for part in (address(array), int(array.ndim > 0))]
    library.fuse(out.size, *places, address(out))
    return out

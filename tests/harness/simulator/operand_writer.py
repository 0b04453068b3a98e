"""Writes operands into shared memory element by element, from the tables of the PTX ISA, for the tests.

A layout is stated as the ISA's figures draw it: an atom of rows as wide as the swizzle, in which 16-byte
column c of row r stands at column c XOR (a number that depends on r alone).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Swizzle name: width in bytes, code of wgmma, code of tcgen05, rows per step of the pattern.
SWIZZLES = {"none": (16, 0, 0), "32B": (32, 3, 6), "64B": (64, 2, 4), "128B": (128, 1, 2)}


def permuted_column(swizzle: str, row: int, column: int) -> int:
    """Where 16-byte `column` of `row` of an atom stands (figures of the swizzle modes)."""
    pattern = {"none": 0, "32B": row // 4 % 2, "64B": row // 2 % 4, "128B": row % 8}[swizzle]
    return column ^ pattern


@dataclass(frozen=True)
class Layout:
    """A canonical layout; `leading` and `stride` in bytes, as the descriptor means them."""

    swizzle: str
    mn_major: bool
    start: int
    leading: int
    stride: int

    def address(self, row: int, k_byte: int, element_bytes: int) -> int:
        """Byte address of the element at `row` and K offset `k_byte`."""
        width = SWIZZLES[self.swizzle][0]
        if not self.mn_major:
            row_in_atom, block, along = row % 8, row // 8, k_byte
            column, inside = divmod(along, 16)
            if self.swizzle == "none":
                return self.start + block * self.stride + column * self.leading + row_in_atom * 16 + inside
            place = permuted_column(self.swizzle, row_in_atom, column)
            return self.start + block * self.stride + row_in_atom * width + place * 16 + inside
        k = k_byte // element_bytes
        column, inside = divmod(row * element_bytes, 16)
        if self.swizzle == "none":
            return self.start + column * self.stride + k // 8 * self.leading + k % 8 * 16 + inside
        block, column = divmod(column, width // 16)
        place = permuted_column(self.swizzle, k % 8, column)
        return self.start + block * self.leading + k // 8 * self.stride + k % 8 * width + place * 16 + inside

    def write(self, memory: NDArray[np.uint8], codes: NDArray[np.unsignedinteger]) -> None:
        """Store `codes` [rows, K] of whole-byte elements into one CTA's `memory`."""
        size = codes.dtype.itemsize
        for (row, k), code in np.ndenumerate(codes):
            at = self.address(row, k * size, size)
            memory[at : at + size] = np.frombuffer(code.tobytes(), np.uint8)

    def wgmma_descriptor(self, offset: int = 0) -> int:
        """The 64-bit descriptor (PTX ISA "Matrix Descriptor Format"), its start moved by `offset` bytes."""
        return self._fields(offset) | SWIZZLES[self.swizzle][1] << 62

    def tcgen05_descriptor(self, offset: int = 0) -> int:
        return self._fields(offset) | 1 << 46 | SWIZZLES[self.swizzle][2] << 61

    def _fields(self, offset: int) -> int:
        return (self.start + offset) // 16 | self.leading // 16 << 16 | self.stride // 16 << 32

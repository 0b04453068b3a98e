"""Hopper's warpgroup matrix product `wgmma.mma_async.m64nNk*`: numerics and register fragments.

Numbers are exact products of the formats, summed by numpy in float32; the order of accumulation, and the
fewer bits that Hopper keeps while it sums fp8 products, are not modelled.

Source: PTX ISA "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions" (shapes, types,
register fragments). Register arrays are uint32 [G, registers, 128], the last index the warpgroup's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.matrix_descriptor import Generation
from harness.simulator.number_formats import (
    BF16,
    E4M3,
    E5M2,
    F16,
    F32,
    TF32,
    FloatArray,
    NumberFormat,
    decode,
    encode,
)
from harness.simulator.operand import Operand, SharedArray

M = 64
THREADS = 128
RegisterArray = NDArray[np.uint32]

# Types of D for each pair of types of A and B (PTX ISA, "wgmma.mma_async", .atype and .dtype).
_RESULTS = {
    (F16, F16): (F16, F32),
    (BF16, BF16): (F32,),
    (TF32, TF32): (F32,),
    **{(a, b): (F16, F32) for a in (E4M3, E5M2) for b in (E4M3, E5M2)},
}


@dataclass(frozen=True)
class Wgmma:
    """One `wgmma.mma_async` instruction; K follows from the type: 32 bytes of it."""

    n: int
    a_format: NumberFormat
    b_format: NumberFormat
    d_format: NumberFormat = F32
    transpose_a: bool = False
    transpose_b: bool = False
    negate_a: bool = False
    negate_b: bool = False

    def __post_init__(self) -> None:
        types = f"{self.d_format.name}.{self.a_format.name}.{self.b_format.name}"
        if self.d_format not in _RESULTS.get((self.a_format, self.b_format), ()):
            raise SimulationError(f"wgmma has no types {types}")
        if self.n % 8 or not 8 <= self.n <= 256:
            raise SimulationError(f"wgmma has no shape with n = {self.n}: a multiple of 8 from 8 to 256")
        if (self.transpose_a or self.transpose_b) and self.a_format.bits != 16:
            raise SimulationError(f"wgmma transposes 16-bit types only, not {types}")

    @property
    def k(self) -> int:
        return 256 // self.a_format.bits

    @property
    def a(self) -> Operand:
        """A in shared memory."""
        return Operand(M, self.k, self.a_format, self.transpose_a, Generation.WGMMA)

    @property
    def b(self) -> Operand:
        return Operand(self.n, self.k, self.b_format, self.transpose_b, Generation.WGMMA)

    def multiply(
        self, shared: SharedArray, cta: NDArray[Any], a: NDArray[Any] | FloatArray, b: NDArray[Any]
    ) -> FloatArray:
        """A B^T of S instructions whose K follow one another, summed: float32 [G, 64, n].

        `shared` uint8 [C, bytes]; `cta` int [G]; `a` descriptors uint64 [G, S], or A itself from registers,
        float32 [G, 64, S * k] (`a_from_registers`); `b` descriptors uint64 [G, S].
        """
        a_matrix = a if a.dtype == np.float32 else self.a.read(shared, cta, a)
        b_matrix = self.b.read(shared, cta, b)
        if self.negate_a != self.negate_b:
            b_matrix = -b_matrix
        product: FloatArray = np.matmul(a_matrix, b_matrix.swapaxes(1, 2))
        return product

    def a_from_registers(self, registers: RegisterArray) -> FloatArray:
        """A, float32 [G, 64, k], of its fragments: four registers a thread, uint32 [G, 4, 128].

        In bytes the fragment is the same for all types: register 2 c + h of lane 4 q + l in warp w holds
        bytes 16 c + 4 l to 16 c + 4 l + 3 of row 16 w + 8 h + q.
        """
        split = registers.reshape(-1, 2, 2, 4, 8, 4)  # [G, c, h, w, q, l]
        rows = np.ascontiguousarray(split.transpose(0, 3, 2, 4, 1, 5)).reshape(-1, M, 8)
        return decode(rows.view(np.dtype(f"u{self.a_format.bits // 8}")), self.a_format)

    def d_from_registers(self, registers: RegisterArray) -> FloatArray:
        """D, float32 [G, 64, n], of its fragments: uint32 [G, n / 2, 128], or [G, n / 4, 128] for f16.

        Value 4 j + 2 h + p of lane 4 q + l in warp w is row 16 w + 8 h + q, column 8 j + 2 l + p; an f16
        register holds the two values of a pair p, the even one in its low half.
        """
        values = registers.view(np.uint16) if self.d_format is F16 else registers
        split = values.reshape(-1, self.n // 8, 2, *self._pair_axes)
        axes = self._tile_axes
        return decode(split.transpose(axes).reshape(-1, M, self.n), self.d_format)

    def d_to_registers(self, tile: FloatArray) -> RegisterArray:
        """The fragments of D, float32 [G, 64, n]; the inverse of `d_from_registers`, rounding to D's type."""
        codes: NDArray[Any] = (
            tile.view(np.uint32) if self.d_format is F32 else encode(tile, F16).astype(np.uint16)
        )
        split = codes.reshape(-1, 4, 2, 8, self.n // 8, 4, 2)
        values = np.ascontiguousarray(split.transpose(np.argsort(self._tile_axes)))
        if self.d_format is F16:
            return values.reshape(-1, self.n // 4, THREADS * 2).view(np.uint32)
        return values.reshape(-1, self.n // 2, THREADS)

    @property
    def _pair_axes(self) -> tuple[int, ...]:
        """Lengths of the axes after [G, j, h]: (w, q, l, p) in f16, (p, w, q, l) in f32."""
        return (4, 8, 4, 2) if self.d_format is F16 else (2, 4, 8, 4)

    @property
    def _tile_axes(self) -> tuple[int, ...]:
        """The order that takes register axes to [G, w, h, q, j, l, p]."""
        return (0, 3, 2, 4, 1, 5, 6) if self.d_format is F16 else (0, 4, 2, 5, 1, 6, 3)

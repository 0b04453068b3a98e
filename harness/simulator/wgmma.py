"""Hopper's warpgroup matrix product `wgmma.mma_async.m64nNk*`: numerics and register fragments.

Numbers are exact products of the formats, summed in float32, of bf16 by `products` in the order of K and else
by numpy; the order of accumulation, and the fewer bits that Hopper keeps while it sums fp8 products, are not
modelled.

Source: PTX ISA "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions" (shapes, types,
register fragments). Register arrays are uint32 [G, registers, 128], the last index the warpgroup's thread.
"""

from __future__ import annotations

from collections.abc import Callable
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
from harness.simulator.products import add_products, load_products
from harness.simulator.shared import SharedMemory

M = 64
THREADS = 128
# So many tiles that operands of 64 x 128 are still in the cache when they are multiplied.
TILES_AT_ONCE = 16
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

    @property
    def of_bf16(self) -> bool:
        """Whether `products` does it: plain products of operands in shared memory that lie along K."""
        plain = not (self.transpose_a or self.transpose_b or self.negate_a != self.negate_b)
        return plain and self.a_format is BF16 and self.b_format is BF16

    def add_product(
        self,
        shared: SharedMemory,
        cta: NDArray[Any],
        a: NDArray[Any],
        b: NDArray[Any],
        keep: NDArray[np.bool_],
        tiles: FloatArray,
    ) -> None:
        """`multiply`, added in place to `tiles` [G, 64, n], or to zeros where not `keep` [G]."""
        if a.dtype != np.float32 and self.of_bf16 and load_products() is not None:
            places = self.a.places(shared.bytes, a), self.b.places(shared.bytes, b)
            add_products(shared, cta, *places, keep, tiles)
            return
        product = self.multiply(shared.bytes, cta, a, b)
        # Not a product with zero: what is discarded may be an infinity.
        old = tiles if keep.all() else np.where(keep[:, None, None], tiles, np.float32(0))
        np.add(old, product, out=tiles)

    def multiply(
        self, shared: SharedArray, cta: NDArray[Any], a: NDArray[Any] | FloatArray, b: NDArray[Any]
    ) -> FloatArray:
        """A B^T of S instructions whose K follow one another, summed: float32 [G, 64, n].

        `shared` uint8 [C, bytes]; `cta` int [G]; `a` descriptors uint64 [G, S], or A itself from registers,
        float32 [G, 64, S * k] (`a_from_registers`); `b` descriptors uint64 [G, S].
        """
        each = _of_one_cta(cta)
        a_of = _reader(self.a, shared, cta, a, each)
        b_of = _reader(self.b, shared, cta, b, each)
        product = np.empty((len(cta) // each, each, M, self.n), np.float32)
        at_once = max(1, TILES_AT_ONCE // each)
        for first in range(0, len(product), at_once):
            some = slice(first, first + at_once)
            a_matrix, b_matrix = a_of(some), b_of(some)
            if self.negate_a != self.negate_b:
                b_matrix = -b_matrix
            np.matmul(a_matrix, b_matrix.swapaxes(2, 3), out=product[some])
        return product.reshape(-1, M, self.n)

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


def _of_one_cta(cta: NDArray[Any]) -> int:
    """How many neighbours among `cta` [G] are equal, everywhere alike; 1 where they are not."""
    each = int((cta == cta[0]).sum())
    if len(cta) % each:
        return 1
    groups = cta.reshape(-1, each)
    return each if (groups == groups[:, :1]).all() else 1


def _reader(
    operand: Operand, shared: SharedArray, cta: NDArray[Any], source: NDArray[Any], each: int
) -> Callable[[slice], FloatArray]:
    """What some of the CTAs read: float32 [c, each, rows, K], or [c, 1, rows, K], read once, where that is
    the same for `each` of a CTA's warpgroups.

    `cta` int [c * each]; `source` descriptors uint64 [c * each, S], or the matrices themselves.
    """
    if source.dtype == np.float32:
        matrices: FloatArray = source.reshape(-1, each, *source.shape[1:])
        return matrices.__getitem__
    split = source.reshape(-1, each, source.shape[1])
    if (split == split[:, :1]).all():
        cta, source, each = cta[::each], split[:, 0], 1
    read_some = operand.reader(shared, cta, operand.chunks(source))

    def read(some: slice) -> FloatArray:
        values = read_some(slice(some.start * each, some.stop * each))
        return values.reshape(-1, each, *values.shape[1:])

    return read

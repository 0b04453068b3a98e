"""Reading a tensor-core operand from shared memory: descriptors in, float32 matrices out.

Several K steps are read at once, so that a whole commit group of MMA instructions becomes one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.simulator import moves
from harness.simulator.errors import SimulationError
from harness.simulator.matrix_descriptor import (
    CHUNK,
    Generation,
    IndexArray,
    chunks_k_major,
    chunks_mn_major,
)
from harness.simulator.number_formats import BF16, FloatArray, NumberFormat, decode
from harness.simulator.products import Chunks

SharedArray = NDArray[np.uint8]


class Packing(Enum):
    """How elements smaller than a byte lie in shared memory (PTX ISA "Packing format for matrix A and B")."""

    NONE = "elements of whole bytes"
    DENSE = "two 4-bit elements a byte, the lower k in the low nibble (.kind::mxf4, .kind::mxf4nvf4)"
    PADDED = (
        "16 elements contiguous at the start of every 16 bytes, the rest unused (.kind::f8f6f4, mxf8f6f4)"
    )


@dataclass(frozen=True)
class Operand:
    """One operand of an MMA instruction: R `rows` (M of A or N of B) by `k` elements of `number_format`."""

    rows: int
    k: int
    number_format: NumberFormat
    mn_major: bool
    generation: Generation
    packing: Packing = Packing.NONE

    @property
    def bits(self) -> int:
        """Bits an element occupies in shared memory, padding included."""
        return 4 if self.packing is Packing.DENSE else self.number_format.container_bits

    def chunk_indices(self, descriptor: int) -> IndexArray:
        """16-byte chunks of a CTA's shared memory that one instruction reads: [rows, chunks along K], or
        [k, chunks along the rows] where the operand is MN-major."""
        if self.mn_major:
            return chunks_mn_major(descriptor, self.generation, self.k, self.rows * self.bits // 8 // CHUNK)
        return chunks_k_major(descriptor, self.generation, self.rows, self.k * self.bits // 8 // CHUNK)

    def read(self, shared: SharedArray, cta: NDArray[Any], descriptors: NDArray[Any]) -> FloatArray:
        """float32 [G, rows, S * k] of S K steps.

        `shared` uint8 [C, bytes] with bytes a multiple of 16, `cta` int [G] rows of it, `descriptors` uint64
        [G, S]. Equal descriptors for all G, the usual case, need one index array.
        """
        return self.reader(shared, cta, self.chunks(descriptors))(slice(0, len(cta)))

    def chunks(self, descriptors: NDArray[Any]) -> IndexArray:
        """The chunks of all steps, side by side along K: [1 or G, ...] of `chunk_indices`."""
        (chunks,) = by_descriptors(descriptors, partial(_step_chunks, self))
        return chunks

    def places(self, shared: SharedArray, descriptors: NDArray[Any]) -> Chunks:
        """`chunks`, each different one once; they are known to lie within a CTA's bytes."""
        first, which = _distinct(descriptors)
        table = np.concatenate([_step_chunks(self, tuple(row))[0] for row in descriptors[first].tolist()])
        _check_chunks(shared, table)
        return Chunks(table, which)

    def reader(
        self, shared: SharedArray, cta: NDArray[Any], chunks: IndexArray
    ) -> Callable[[slice], FloatArray]:
        """`read` of known chunks, some of the G at a time; the next call may overwrite what one has given."""
        if self.number_format is BF16:
            _check_chunks(shared, chunks)
            widened = moves.bf16_reader(shared, cta, chunks)
            return (lambda some: widened(some).swapaxes(1, 2)) if self.mn_major else widened

        def read(some: slice) -> FloatArray:
            return self._elements(
                gather_chunks(shared, cta[some], chunks if len(chunks) == 1 else chunks[some])
            )

        return read

    def words(self, descriptors: NDArray[Any]) -> tuple[IndexArray, IndexArray]:
        """4-byte words of a CTA's shared memory that all steps read, [1 or G, n], and the 256-byte pages they
        lie in, [1 or G, p]; `descriptors` uint64 [G, S]."""
        words, pages = by_descriptors(descriptors, partial(_step_words, self))
        return words, pages

    def pages(self, descriptors: NDArray[Any]) -> IndexArray:
        """The pages of `words`, without those."""
        (pages,) = by_descriptors(descriptors, partial(_step_pages, self))
        return pages

    def _elements(self, chunks: SharedArray) -> FloatArray:
        """Values [G, rows, K] of gathered bytes: [G, rows, bytes along K] or [G, K, bytes along the rows]."""
        if self.mn_major and self.packing is not Packing.NONE:
            raise SimulationError(f"an MN-major operand cannot be {self.number_format.name}")
        values = unpack(chunks, self.number_format, self.packing)
        return values.swapaxes(1, 2) if self.mn_major else values


def by_descriptors(
    descriptors: NDArray[Any], find: Callable[[tuple[int, ...]], tuple[IndexArray, ...]]
) -> tuple[IndexArray, ...]:
    """What `find` gives for the rows of `descriptors` [G, S]: arrays [1, ...] of a row become [G, ...].

    They stay [1, ...] where all rows are the same, the usual case.
    """
    if (descriptors == descriptors[:1]).all():
        return find(tuple(descriptors[0].tolist()))
    first, which = _distinct(descriptors)
    found = [find(tuple(row)) for row in descriptors[first].tolist()]
    return tuple(np.concatenate(arrays)[which] for arrays in zip(*found, strict=True))


def _distinct(descriptors: NDArray[Any]) -> tuple[IndexArray, IndexArray]:
    """The different rows of `descriptors` [G, S], each by the first of its places, and which one each is."""
    if (descriptors == descriptors[:1]).all():
        return np.zeros(1, np.int64), np.zeros(len(descriptors), np.int64)
    # Steps of a stage advance alike: rows differ where their first descriptors do, or not at all.
    _, first, which = np.unique(descriptors[:, 0], return_index=True, return_inverse=True)
    if (descriptors != descriptors[first][which]).any():
        _, first, which = np.unique(descriptors, axis=0, return_index=True, return_inverse=True)
    return first, which.reshape(-1)


@lru_cache(maxsize=4096)
def _step_chunks(operand: Operand, descriptors: tuple[int, ...]) -> tuple[IndexArray]:
    """The chunks [1, ...] of all steps, side by side along K."""
    steps = [operand.chunk_indices(descriptor) for descriptor in descriptors]
    return (np.concatenate(steps, axis=0 if operand.mn_major else 1)[None],)


@lru_cache(maxsize=4096)
def _step_words(operand: Operand, descriptors: tuple[int, ...]) -> tuple[IndexArray, IndexArray]:
    chunks = np.unique(_step_chunks(operand, descriptors)[0])
    words: IndexArray = (chunks[:, None] * (CHUNK // 4) + np.arange(CHUNK // 4)).reshape(1, -1)
    return words, np.unique(chunks // 16)[None]


def _step_pages(operand: Operand, descriptors: tuple[int, ...]) -> tuple[IndexArray]:
    return (_step_words(operand, descriptors)[1],)


def _check_chunks(shared: SharedArray, indices: IndexArray) -> None:
    """Raise unless all chunks `indices` lie within a CTA's bytes."""
    last = int(indices.max(initial=0)) * CHUNK
    if last >= shared.shape[1]:
        raise SimulationError(f"operand at address {last:#x} of {shared.shape[1]:#x} shared bytes")


def gather_chunks(shared: SharedArray, cta: NDArray[Any], indices: IndexArray) -> SharedArray:
    """Bytes uint8 [G, r, 16 c] of chunks `indices` [1 or G, r, c] from rows `cta` [G] of `shared`."""
    _check_chunks(shared, indices)
    per_cta = shared.shape[1] // CHUNK
    # complex128 serves as a 16-byte cell that is only ever copied.
    cells = shared.view(np.complex128).reshape(-1)
    picked: NDArray[Any] = cells[cta.astype(np.intp)[:, None, None] * per_cta + indices]
    return picked.view(np.uint8)


def unpack(data: SharedArray, number_format: NumberFormat, packing: Packing) -> FloatArray:
    """Values [..., elements] of bytes [..., n], in order of K."""
    if packing is Packing.DENSE:
        # One lookup gives the four elements of two bytes: complex128 serves as four float32.
        values: NDArray[Any] = _of_two_bytes(number_format).take(data.view(np.uint16))
        return values.view(np.float32)
    if packing is Packing.NONE:
        return decode(data.view(np.dtype(f"u{number_format.container_bits // 8}")), number_format)
    groups = data.reshape(*data.shape[:-1], -1, CHUNK)
    if number_format.bits == 4:
        codes = np.stack([groups[..., :8] & 15, groups[..., :8] >> 4], axis=-1)
    else:
        triples = groups[..., :12].reshape(*groups.shape[:-1], 4, 3).astype(np.uint32)
        word = triples[..., 0] | triples[..., 1] << 8 | triples[..., 2] << 16
        codes = (word[..., None] >> np.arange(0, 24, 6, dtype=np.uint32) & 63).astype(np.uint8)
    return decode(codes.reshape(*data.shape), number_format)


@cache
def _of_two_bytes(number_format: NumberFormat) -> NDArray[np.complex128]:
    """[65536]: the four values of the nibbles of two bytes, the lowest first, as float32 in one cell each."""
    nibbles = np.arange(2**16)[:, None] >> np.arange(0, 16, 4) & 15
    cells: NDArray[Any] = decode(nibbles, number_format).view(np.complex128)
    return cells[:, 0]

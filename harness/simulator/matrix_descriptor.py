"""Shared-memory matrix descriptors: where each 16-byte chunk of a tensor-core operand lies.

An operand is a matrix of R rows (M of A, N of B) by K. Its chunks are 16 contiguous bytes along the major
dimension: K (`chunks_k_major`) or the rows (`chunks_mn_major`). Chunks are gathered in groups ("core
matrices" of 8 x 16 bytes, or atoms as wide as the swizzle) whose distances the descriptor states; a swizzle
then permutes the chunks of the final address, so a descriptor may start anywhere inside an atom.

Sources: PTX ISA "Asynchronous Warpgroup Level Matrix Shared Memory Layout" (Strides, Matrix Descriptor
Format) for wgmma; "tcgen05 Shared Memory Layout and Swizzling" and "Shared memory descriptor" for tcgen05;
the canonical layouts written out in the comments of CUTLASS's mma_sm90_desc.hpp and mma_sm100_desc.hpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError

CHUNK = 16  # bytes
IndexArray = NDArray[np.intp]


class Generation(Enum):
    """Whose descriptor a 64-bit value is."""

    WGMMA = "wgmma"
    TCGEN05 = "tcgen05"


@dataclass(frozen=True)
class Swizzle:
    """A permutation inside rows of `width` bytes: address bits from 7 are XORed into those from `shift`."""

    width: int
    mask: int
    shift: int = 4

    def apply(self, address: IndexArray) -> IndexArray:
        """Byte addresses (of whole chunks) after the permutation."""
        return address ^ (((address >> 7) & self.mask) << self.shift)


NO_SWIZZLE = Swizzle(width=16, mask=0)
SWIZZLE_32B = Swizzle(width=32, mask=1)
SWIZZLE_64B = Swizzle(width=64, mask=3)
SWIZZLE_128B = Swizzle(width=128, mask=7)
SWIZZLE_128B_BASE32B = Swizzle(width=128, mask=3, shift=5)

_WGMMA_SWIZZLES = {0: NO_SWIZZLE, 1: SWIZZLE_128B, 2: SWIZZLE_64B, 3: SWIZZLE_32B}
_TCGEN05_SWIZZLES = {
    0: NO_SWIZZLE,
    1: SWIZZLE_128B_BASE32B,
    2: SWIZZLE_128B,
    4: SWIZZLE_64B,
    6: SWIZZLE_32B,
}


@dataclass(frozen=True)
class MatrixDescriptor:
    """A decoded descriptor; `start`, `leading` and `stride` in bytes."""

    start: int
    leading: int
    stride: int
    swizzle: Swizzle


def decode_descriptor(descriptor: int, generation: Generation) -> MatrixDescriptor:
    """The fields of a 64-bit descriptor.

    A nonzero base offset and tcgen05's absolute leading-dimension address are refused: neither CUTLASS nor
    the CuTe DSL makes them, and the PTX ISA does not say enough about them to compute an address.
    """

    def field(low: int, bits: int) -> int:
        return descriptor >> low & ((1 << bits) - 1)

    def fail(reason: str) -> SimulationError:
        return SimulationError(f"matrix descriptor {descriptor:#018x}: {reason}")

    if field(14, 2) or field(30, 2):
        raise fail("reserved bits 14-15 or 30-31 are set")
    if field(49, 3):
        raise fail(f"base offset {field(49, 3)} is not supported")
    if generation is Generation.WGMMA:
        if field(46, 3) or field(52, 10):
            raise fail("reserved bits 46-48 or 52-61 are set")
        swizzle = _WGMMA_SWIZZLES[field(62, 2)]
    else:
        if field(46, 3) != 1:
            raise fail(f"bits 46-48 are {field(46, 3):#05b}, not the constant 0b001")
        if field(52, 1):
            raise fail("the absolute leading-dimension mode is not supported")
        if field(53, 8):
            raise fail("bits 53-60 are not zero")
        if field(61, 3) not in _TCGEN05_SWIZZLES:
            raise fail(f"swizzle mode {field(61, 3)} is invalid")
        swizzle = _TCGEN05_SWIZZLES[field(61, 3)]
    return MatrixDescriptor(
        start=field(0, 14) * CHUNK,
        leading=field(16, 14) * CHUNK,
        stride=field(32, 14) * CHUNK,
        swizzle=swizzle,
    )


@lru_cache(maxsize=4096)
def chunks_k_major(descriptor: int, generation: Generation, rows: int, chunks: int) -> IndexArray:
    """Chunk indices [rows, chunks] of a K-major operand: row r's bytes 16c to 16c + 15 along K.

    Eight rows stand at distances of the swizzle's width, the next eight `stride` bytes on. Along K chunks are
    contiguous inside the swizzle's width; without a swizzle they are `leading` bytes apart.
    """
    fields = decode_descriptor(descriptor, generation)
    if fields.swizzle is SWIZZLE_128B_BASE32B:
        raise SimulationError(
            f"matrix descriptor {descriptor:#018x}: a K-major operand has no 32-byte swizzle atom"
        )
    width = fields.swizzle.width
    along_k = CHUNK if width > CHUNK else fields.leading
    if width > CHUNK and fields.start % width + chunks * CHUNK > width:
        raise SimulationError(
            f"matrix descriptor {descriptor:#018x}: K leaves the {width}-byte swizzle row it starts in"
        )
    row = np.arange(rows, dtype=np.intp)[:, None]
    chunk = np.arange(chunks, dtype=np.intp)
    address = fields.start + row % 8 * width + row // 8 * fields.stride + chunk * along_k
    return _frozen(fields.swizzle.apply(address) // CHUNK)


@lru_cache(maxsize=4096)
def chunks_mn_major(descriptor: int, generation: Generation, k: int, chunks: int) -> IndexArray:
    """Chunk indices [k, chunks] of an MN-major operand: chunk c holds 16 bytes along M or N at one k.

    With a swizzle, chunks fill rows of the swizzle's width, eight values of k below one another (four with
    128B_BASE32B); further k are `stride`, further chunks `leading` bytes on. Without one, the eight k of a
    chunk are contiguous; further k are `leading`, further chunks `stride` bytes on.
    """
    fields = decode_descriptor(descriptor, generation)
    swizzle = fields.swizzle
    depth = 4 if swizzle is SWIZZLE_128B_BASE32B else 8
    k_step, chunk_step = fields.stride, fields.leading
    if swizzle is NO_SWIZZLE:
        k_step, chunk_step = chunk_step, k_step
    per_row = swizzle.width // CHUNK
    if fields.start % swizzle.width:
        raise SimulationError(
            f"matrix descriptor {descriptor:#018x}: the start is inside a {swizzle.width}-byte swizzle row"
        )
    at = np.arange(k, dtype=np.intp)[:, None]
    chunk = np.arange(chunks, dtype=np.intp)
    address = fields.start + chunk % per_row * CHUNK + chunk // per_row * chunk_step
    address = address + at % depth * swizzle.width + at // depth * k_step
    return _frozen(swizzle.apply(address) // CHUNK)


def _frozen(indices: IndexArray) -> IndexArray:
    """Cached arrays are shared: nobody may write to them."""
    indices.setflags(write=False)
    return indices

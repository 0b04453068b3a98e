"""Where each piece of a TMA box lies: its place in shared memory and its offset from the box's origin.

A box lies densely in shared memory, dimension 0 fastest, and the swizzle then exchanges chunks of its lines
of 128 bytes, as the bits of their absolute shared address say (PTX ISA, "Tensors", "Swizzling modes"): within
the span, the index of an atom is XORed with the address's bits from bit 7 up.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError
from harness.simulator.tensor_map import DataType, Interleave, Swizzle, TensorMap

Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

# Source elements of a padded packed type that share 16 bytes of shared memory (cuda.h, CUtensorMapDataType).
PACKED_GROUP = 16
LINE_BYTES = 128

# (lowest address bit that changes, how many): XORed with as many bits from bit 7 up.
_SWIZZLE_BITS = {
    Swizzle.NONE: (4, 0),
    Swizzle.BYTES_32: (4, 1),
    Swizzle.BYTES_64: (4, 2),
    Swizzle.BYTES_128: (4, 3),
    Swizzle.BYTES_128_ATOM_32: (5, 2),
    Swizzle.BYTES_128_ATOM_64: (6, 1),
}


def swizzled(address: Indices, swizzle: Swizzle) -> Indices:
    """The address at which a byte lies that would lie at `address` without a swizzle; its own inverse."""
    lowest, bits = _SWIZZLE_BITS[swizzle]
    return address ^ ((address >> 7 & (1 << bits) - 1) << lowest)


def swizzle_phase(address: Indices, swizzle: Swizzle) -> Indices:
    """What of a box's shared address its pattern depends on, as the lowest address of that pattern."""
    return address & ((1 << _SWIZZLE_BITS[swizzle][1]) - 1 << 7)


@functools.lru_cache(maxsize=256)
def counts(m: TensorMap) -> tuple[int, ...]:
    """Elements that a box takes along each dimension (cuda.h, cuTensorMapEncodeTiled, `elementStrides`).

    Without interleave the element stride of dimension 0 is ignored.
    """
    outer = zip(m.box[1:], m.element_strides[1:], strict=True)
    return (m.box[0], *(-(-extent // stride) for extent, stride in outer))


@functools.lru_cache(maxsize=256)
def shared_bytes(m: TensorMap) -> int:
    """Bytes of shared memory that a box covers, gaps of padded types included."""
    return math.prod(counts(m)) * m.data_type.shared_bits // 8


@functools.lru_cache(maxsize=256)
def transaction_bytes(m: TensorMap) -> int:
    """What a load of one box adds to its mbarrier's transaction count: the whole box, whatever is in bounds.

    Padded types count their data only: CUTLASS expects so many bytes (sm100_mma_warpspecialized.hpp,
    `TmaTransactionBytes`, in bits of the element in global memory).
    """
    return math.prod(counts(m)) * m.data_type.global_bits // 8


@dataclass(frozen=True)
class Box:
    """A box cut into units of equal size; arrays [n] in the order in which the units lie in shared memory.

    `row` counts the box's rows (dimension 1 fastest), `inner` is a unit's offset along dimension 0 in global
    memory, `offset` that from the box's origin, both in units. `gap` marks units that hold no data; None
    where there are none. `row_coordinates` int [rows, rank - 1] are a row's coordinates from the origin.
    """

    row: Indices
    inner: Indices
    offset: Indices
    gap: Mask | None
    row_coordinates: Indices

    @functools.cached_property
    def last(self) -> int:
        """The largest offset."""
        return int(self.offset.max())


@functools.lru_cache(maxsize=256)
def box_of(m: TensorMap, unit: int, phase: int) -> Box:
    """The box of `m` in units of `unit` bytes at a shared address with that `swizzle_phase`."""
    outer = np.array(counts(m)[1:], np.intp)
    rows_before = np.array([math.prod(counts(m)[1:d]) for d in range(1, m.rank)], np.intp)
    rows = np.arange(math.prod(counts(m)[1:]))
    row_coordinates = rows[:, None] // rows_before % outer * np.array(m.element_strides[1:], np.intp)
    row_bytes = row_coordinates @ np.array(m.strides, np.intp)

    inner_bytes = m.box[0] * m.data_type.shared_bits // 8
    places = np.arange(0, shared_bytes(m), unit)
    logical = swizzled(places + phase, m.swizzle) - phase
    row, column = np.divmod(logical, inner_bytes)
    gap = None
    if m.data_type.padded:
        group_bytes = PACKED_GROUP * m.data_type.global_bits // 8
        group, byte = np.divmod(column, PACKED_GROUP)
        gap = byte >= group_bytes
        column = np.where(gap, 0, group * group_bytes + byte)
    return Box(row, column // unit, (row_bytes[row] + column) // unit, gap, row_coordinates)


@functools.lru_cache(maxsize=256)
def check_supported(m: TensorMap) -> None:
    """Raises `SimulationError` for what the simulator does not copy rather than guessing."""
    if m.interleave is not Interleave.NONE:
        raise SimulationError(f"TMA with interleave {m.interleave.name} is not simulated")
    if m.swizzle not in _SWIZZLE_BITS:
        raise SimulationError(f"TMA with swizzle {m.swizzle.name} is not simulated")
    if m.data_type in (DataType.FLOAT32_FTZ, DataType.TFLOAT32_FTZ):
        raise SimulationError(f"TMA of {m.data_type.name} is not simulated")
    inner_bytes = m.box[0] * m.data_type.shared_bits // 8
    if m.swizzle is not Swizzle.NONE and inner_bytes != m.swizzle.span_bytes:
        raise SimulationError(
            f"box of {inner_bytes} bytes under a swizzle of {m.swizzle.span_bytes}: narrower is not simulated"
        )

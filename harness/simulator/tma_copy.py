"""TMA tile copies between global and shared memory, for many issues of one tensor map at a time.

PTX ISA, "cp.async.bulk.tensor" and "cp.reduce.async.bulk.tensor", `.tile` mode: a box whose origin is given
in elements, dimension 0 first. Elements outside the tensor load as zero (or NaN, as the map says) and are not
stored. Shared memory is seen as the bytes [G, shared_bytes] from each issue's shared address on.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError
from harness.simulator.tensor_map import DataType, TensorMap
from harness.simulator.tma_box import (
    LINE_BYTES,
    PACKED_GROUP,
    Box,
    Indices,
    Mask,
    box_of,
    check_supported,
    counts,
    shared_bytes,
    swizzle_phase,
)

Bytes = npt.NDArray[np.uint8]

# What is gathered at once. complex128 is a 16-byte item that numpy moves without looking at it.
_UNITS: dict[int, npt.DTypeLike] = {16: np.complex128, 8: np.uint64, 4: np.uint32, 2: np.uint16, 1: np.uint8}

_REDUCED = {
    DataType.UINT32: np.uint32,
    DataType.INT32: np.int32,
    DataType.UINT64: np.uint64,
    DataType.FLOAT16: np.float16,
    DataType.FLOAT32: np.float32,
    DataType.FLOAT64: np.float64,
}


class GlobalMemory(Protocol):
    """Registered allocations, by their real addresses."""

    def array(self, address: int, nbytes: int) -> Bytes:
        """The bytes at `address`, as a view; raises `SimulationError` outside of every allocation."""


@dataclass(frozen=True)
class Part:
    """Some of the issues, alike in the swizzle's phase and in whether their whole box is copied.

    `origins` int [g] are the boxes' offsets from the tensor's start, in units; `valid` [g, n] marks the units
    that are copied, None when that is all.
    """

    issues: Indices
    origins: Indices
    box: Box
    valid: Mask | None


def load(m: TensorMap, memory: GlobalMemory, coordinates: Indices, destinations: Indices) -> Bytes:
    """What G loads write: uint8 [G, shared_bytes], for origins `coordinates` int [G, rank].

    `destinations` int [G] are the shared addresses, which the swizzle depends on. The gaps of padded types
    are zero. See `transaction_bytes` for what they add to the mbarrier.
    """
    coordinates = coordinates.astype(np.intp, copy=False)
    unit = _unit(m, coordinates)
    parts = _parts(m, unit, coordinates, destinations)
    loaded = [_gather(m, memory, unit, part) for part in parts]
    if len(loaded) == 1:
        out = loaded[0]
    else:
        out = np.empty((len(coordinates), shared_bytes(m) // unit), _UNITS[unit])
        for part, units in zip(parts, loaded, strict=True):
            out[part.issues] = units
    _check_tf32(m, out)
    return out.view(np.uint8)


def store(m: TensorMap, memory: GlobalMemory, coordinates: Indices, sources: Indices, data: Bytes) -> None:
    """Store G boxes `data` uint8 [G, shared_bytes] that lay at the shared addresses `sources` int [G].

    Raises `SimulationError` for negative coordinates (PTX ISA, restrictions on tensor copies).
    """
    coordinates = coordinates.astype(np.intp, copy=False)
    _check_store(m, coordinates)
    unit = _unit(m, coordinates)
    units = np.ascontiguousarray(data).view(_UNITS[unit])
    _check_tf32(m, units)
    for part in _parts(m, unit, coordinates, sources):
        offsets, valid = _copied(part)
        if offsets.size:
            window, low = _window(m, memory, unit, int(offsets.min()), int(offsets.max()))
            window[offsets - low] = units[part.issues][valid]


def reduce_add(
    m: TensorMap, memory: GlobalMemory, coordinates: Indices, sources: Indices, data: Bytes
) -> None:
    """Add G boxes to global memory, one issue after the other, each sum rounded to the element's type.

    Raises `SimulationError` as `store` does, and for a type that this does not add.
    """
    coordinates = coordinates.astype(np.intp, copy=False)
    _check_store(m, coordinates)
    if m.data_type not in _REDUCED:
        raise SimulationError(f"TMA reduction of {m.data_type.name} is not simulated")
    kind = np.dtype(_REDUCED[m.data_type])
    elements = np.ascontiguousarray(data).view(kind)
    for part in _parts(m, kind.itemsize, coordinates, sources):
        for i, issue in enumerate(part.issues):
            valid = None if part.valid is None else part.valid[i : i + 1]
            offsets, inside = _copied(Part(part.issues[i : i + 1], part.origins[i : i + 1], part.box, valid))
            if offsets.size:
                window, low = _window(m, memory, kind.itemsize, int(offsets.min()), int(offsets.max()))
                window.view(kind)[offsets - low] += elements[issue : issue + 1][inside]


def _gather(m: TensorMap, memory: GlobalMemory, unit: int, part: Part) -> npt.NDArray[Any]:
    """What the issues of `part` load, in units [g, n]."""
    if part.valid is None:
        first, last = int(part.origins.min()), int(part.origins.max()) + part.box.last
        window, low = _window(m, memory, unit, first, last)
        whole: npt.NDArray[Any] = window.take((part.origins - low)[:, None] + part.box.offset)
        return whole
    out = _outside(m, unit, part.valid.shape)
    offsets, valid = _copied(part)
    if offsets.size:
        window, low = _window(m, memory, unit, int(offsets.min()), int(offsets.max()))
        out[valid] = window.take(offsets - low)
    return out


def _copied(part: Part) -> tuple[Indices, Mask]:
    """Offsets of the units that are copied, from the tensor's start, and which of [g, n] those are."""
    offsets = part.origins[:, None] + part.box.offset
    valid = np.ones(offsets.shape, bool) if part.valid is None else part.valid
    return offsets[valid], valid


def _unit(m: TensorMap, coordinates: Indices) -> int:
    """Bytes of the largest unit that neither a box's origin nor an edge of the tensor cuts.

    Raises `SimulationError` for an origin inside a byte, or inside 128 elements of a padded type (PTX ISA,
    restrictions on tensor copies).
    """
    bits, start = m.data_type.global_bits, coordinates[:, 0]
    multiple = 128 if m.data_type.padded else max(1, 8 // bits)
    if (start % multiple).any():
        first = int(start[(start % multiple).argmax()])
        raise SimulationError(f"first coordinate {first} of {m.data_type.name}: a multiple of {multiple}")
    group_bytes = PACKED_GROUP * bits // 8 if m.data_type.padded else 16
    cuts = int(np.bitwise_or.reduce(start * bits // 8)) | m.extents[0] * bits // 8 | group_bytes
    return cuts & -cuts


def _parts(m: TensorMap, unit: int, coordinates: Indices, addresses: Indices) -> list[Part]:
    check_supported(m)
    if coordinates.shape[1] != m.rank:
        raise SimulationError(f"{coordinates.shape[1]} coordinates for a tensor map of rank {m.rank}")
    if (addresses % LINE_BYTES).any():
        first = int(addresses[(addresses % LINE_BYTES).argmax()])
        raise SimulationError(f"shared address {first} of a TMA box: a multiple of {LINE_BYTES}")
    phases = swizzle_phase(addresses, m.swizzle).astype(np.intp, copy=False)
    start = coordinates[:, 0]
    if start.min() < 0 or start.max() + m.box[0] > m.extents[0]:
        return _cut(m, unit, coordinates, phases)
    # Copies of a K loop differ in their first coordinate only.
    units = start * m.data_type.global_bits // 8 // unit
    rows = cut_rows(m, unit, coordinates[:, 1:].tobytes(), phases.tobytes())
    return [Part(one.issues, one.origins + units[one.issues], one.box, one.valid) for one in rows]


@functools.lru_cache(maxsize=64)
def cut_rows(m: TensorMap, unit: int, outer: bytes, phases: bytes) -> list[Part]:
    """`_cut` of boxes at 0 in dimension 0, and at `outer` in the others."""
    phase = np.frombuffer(phases, np.intp)
    coordinates = np.zeros((len(phase), m.rank), np.intp)
    coordinates[:, 1:] = np.frombuffer(outer, np.intp).reshape(-1, m.rank - 1)
    return _cut(m, unit, coordinates, phase)


def _cut(m: TensorMap, unit: int, coordinates: Indices, phases: Indices) -> list[Part]:
    """Boxes at `coordinates` [n, rank], parted by their swizzle's phase and by whether the tensor's edge cuts
    them."""
    start_bytes = coordinates[:, 0] * m.data_type.global_bits // 8
    origins = (start_bytes + coordinates[:, 1:] @ np.array(m.strides, np.intp)) // unit
    inside = (coordinates >= 0) & (coordinates + _reach(m) <= np.array(m.extents, np.intp))
    whole: Mask = np.all(inside, axis=1)
    parts = []
    for phase, complete in sorted(set(zip(phases.tolist(), whole.tolist(), strict=True))):
        issues = np.flatnonzero((phases == phase) & (whole == complete))
        box = box_of(m, unit, phase)
        valid = None if complete else _inside(m, unit, box, coordinates[issues])
        if box.gap is not None:
            data = np.broadcast_to(~box.gap, (len(issues), len(box.gap)))
            valid = data if valid is None else valid & data
        parts.append(Part(issues, origins[issues], box, valid))
    return parts


def _reach(m: TensorMap) -> Indices:
    """Extent of a box in the tensor along each dimension, element strides counted in."""
    steps = np.array([1, *m.element_strides[1:]], np.intp)
    return (np.array(counts(m), np.intp) - 1) * steps + 1


def _inside(m: TensorMap, unit: int, box: Box, coordinates: Indices) -> Mask:
    """Which units [g, n] of the boxes at `coordinates` [g, rank] lie within the tensor."""
    rows = coordinates[:, None, 1:] + box.row_coordinates
    row_inside: Mask = np.all((rows >= 0) & (rows < np.array(m.extents[1:], np.intp)), axis=2)
    bits = m.data_type.global_bits
    inner = (coordinates[:, :1] * bits // 8) // unit + box.inner
    inside: Mask = row_inside[:, box.row] & (inner >= 0) & (inner < m.extents[0] * bits // 8 // unit)
    return inside


def _window(
    m: TensorMap, memory: GlobalMemory, unit: int, first: int, last: int
) -> tuple[npt.NDArray[Any], int]:
    """Global memory from unit `first` to unit `last` of the tensor, as units, and `first`."""
    return memory.array(m.address + first * unit, (last + 1 - first) * unit).view(_UNITS[unit]), first


def _outside(m: TensorMap, unit: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Units [g, n] of out-of-bounds elements: zeros, or NaN with all bits but the sign set, as CUDA's are."""
    if not m.nan_fill:
        return np.zeros(shape, _UNITS[unit])
    element = b"\xff" * (m.data_type.global_bits // 8 - 1) + b"\x7f"
    row = np.frombuffer(element * (shape[1] * unit // len(element)), np.uint8)
    return np.tile(row, (shape[0], 1)).view(_UNITS[unit])


def _check_tf32(m: TensorMap, moved: npt.NDArray[Any]) -> None:
    """How TMA rounds to tf32 is not documented: only values that need no rounding pass."""
    if m.data_type is DataType.TFLOAT32:
        words = moved.view(np.uint32)
        if (inexact := words[words & 0x1FFF != 0]).size:
            value = inexact[:1].view(np.float32)[0]
            raise SimulationError(
                f"TMA rounds {value} to tf32 in a way that is not documented: use values that tf32 has"
            )


def _check_store(m: TensorMap, coordinates: Indices) -> None:
    if m.data_type is DataType.PACKED_16U4_ALIGN16B:
        raise SimulationError(f"TMA stores no {m.data_type.name} (PTX ISA, restrictions on tensor copies)")
    if (coordinates < 0).any():
        raise SimulationError(f"TMA store to negative coordinates {coordinates.min(axis=0).tolist()}")

"""What the issues of one instruction name: operands of each lane, tensor maps, and the memory behind each.

Tiles of boxes alike are moved together, whichever tensor they belong to: CTAs of several launches have the
same tensor at different addresses.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cohort import LANES, Cohort
from harness.simulator.errors import SimulationError
from harness.simulator.global_memory import GlobalMemory
from harness.simulator.machine_constants import PARAM_BASE
from harness.simulator.tensor_map import BYTES, TensorMap, decode
from harness.simulator.tma_box import shared_bytes, transaction_bytes

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]
# cp.async.bulk.tensor: shared addresses are multiples of 128 bytes (PTX ISA, alignment of tensor copies).
SHARED_ALIGNMENT = 128


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor map, the memory behind it, and the numbers of the issues that use it."""

    address: int
    map: TensorMap
    memory: GlobalMemory
    issues: Array


def issued(c: Cohort, m: Any, *operands: Any) -> tuple[Array, list[Array]]:
    """(warp of the cohort, operands as int64) of every active lane: each lane issues a copy of its own."""
    places = c.places(m)
    return places // LANES, [c.at_places(operand, places) for operand in operands]


def corner_of(places: list[Array], rank: int) -> Array:
    """Signed coordinates [n, rank] of the tiles' first elements."""
    if len(places) != rank:
        raise SimulationError(f"{len(places)} coordinates for a tensor of rank {rank}")
    return np.stack(places, 1).astype(np.int32).astype(np.int64)


def check_alignment(addresses: Array, what: str) -> None:
    if (addresses % SHARED_ALIGNMENT).any():
        raise SimulationError(
            f"{what} shared address {int(addresses[0]):#x}: want a multiple of {SHARED_ALIGNMENT}"
        )


def tensors_used(c: Cohort, warps: Array, maps: Array, rank: int | None = None) -> list[list[Tensor]]:
    """The tensor maps at `maps` [n] that issues of `warps` [n] use, those of boxes alike together.

    `rank`: how many coordinates the instruction gives. Raises `SimulationError` for a map of another rank.
    """
    machine = c.machine
    if maps.min() < PARAM_BASE:  # in memory, where maps may change
        return _tensors(machine, c.rows[warps], maps, rank)
    known = machine.tensors_used
    key = maps.tobytes(), c.warps[warps].tobytes(), rank
    if key not in known:
        known[key] = _tensors(machine, c.rows[warps], maps, rank)
    return known[key]


def _tensors(machine: Machine, rows: Array, maps: Array, rank: int | None) -> list[list[Tensor]]:
    _, keys = np.unique(maps, return_inverse=True)
    if len(machine.grids.launches) > 1:
        keys = keys * len(machine.grids.launches) + machine.launch_of_row[rows]
    alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    for key in np.unique(keys):
        issues = np.flatnonzero(keys == key)
        address, row = int(maps[issues[0]]), int(rows[issues[0]])
        tensor_map = tensor_map_at(machine, address, row)
        if rank is not None and tensor_map.rank != rank:
            raise SimulationError(f"{rank} coordinates for a tensor map of rank {tensor_map.rank}")
        sizes = shared_bytes(tensor_map), transaction_bytes(tensor_map)
        alike[sizes].append(Tensor(address, tensor_map, machine.memory_of(row), issues))
    return list(alike.values())


def each(tensors: list[Tensor]) -> list[tuple[Tensor, slice]]:
    """Each tensor with its part of the issues, once these are in the order of the tensors."""
    ends = np.cumsum([len(tensor.issues) for tensor in tensors]).tolist()
    return [(tensor, slice(end - len(tensor.issues), end)) for tensor, end in zip(tensors, ends, strict=True)]


def tensor_map_at(machine: Machine, address: int, row: int) -> TensorMap:
    """The descriptor at a parameter's or a global address, as the CTA `row` sees it."""
    if address % 64:
        raise SimulationError(f"tensor map at {address:#x}: want a multiple of 64")
    if address >= PARAM_BASE:
        raw = machine.grids.parameter_bytes(address, BYTES)
    else:
        raw = machine.memory_of(row).array(address, BYTES).tobytes()
    return _decoded(raw)


@lru_cache(maxsize=256)
def _decoded(raw: bytes) -> TensorMap:
    return decode(raw)

"""Special registers (PTX ISA, "Special registers") of every warp of a machine, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

AXES = "xyz"


@dataclass(frozen=True)
class CtaNames:
    """A CTA's coordinates in the grid, for messages, by its row.

    Attributes:
        places: [rows, 3].
        launch_of_row: [rows], of `launches` in all.
    """

    places: npt.NDArray[Any]
    launch_of_row: npt.NDArray[Any]
    launches: int

    @classmethod
    def of(cls, machine: Machine) -> CtaNames:
        columns = [machine.special(f"%ctaid.{axis}")[:: machine.warps_per_cta, 0] for axis in AXES]
        return cls(np.stack(columns, 1), machine.launch_of_row, len(machine.grids.launches))

    def __call__(self, row: int) -> str:
        place = str(tuple(self.places[row].tolist()))
        return place if self.launches == 1 else f"{place} of launch {self.launch_of_row[row]}"


def special_registers(machine: Machine) -> dict[str, Any]:
    """Scalars where all warps agree, else uint32 [warps, 1] or [warps, 32]."""
    launch = machine.grids.one
    block, cluster = launch.block, launch.cluster
    rows = machine.row_of_warp
    values: dict[str, Any] = {}

    lanes = np.arange(32, dtype=np.uint32)
    thread = (machine.warp_in_cta[:, None] * 32 + lanes).astype(np.uint32)
    # Threads of a block are numbered x first; warps cut that order into 32s.
    values["%tid.x"] = thread % np.uint32(block[0])
    values["%tid.y"] = thread // np.uint32(block[0]) % np.uint32(block[1])
    values["%tid.z"] = thread // np.uint32(block[0] * block[1])
    if block[1] * block[2] == 1:
        values["%tid.y"] = values["%tid.z"] = np.uint32(0)
    values["%laneid"] = np.broadcast_to(lanes, thread.shape)
    values["%warpid"] = machine.warp_in_cta.astype(np.uint32)[:, None]
    values["%nwarpid"] = np.uint32(machine.warps_per_cta)
    for name, mask in {
        "eq": 1 << lanes,
        "lt": (1 << lanes.astype(np.uint64)) - 1,
        "le": (2 << lanes.astype(np.uint64)) - 1,
        "gt": ~((2 << lanes.astype(np.uint64)) - 1) & 0xFFFFFFFF,
        "ge": ~((1 << lanes.astype(np.uint64)) - 1) & 0xFFFFFFFF,
    }.items():
        values[f"%lanemask_{name}"] = np.broadcast_to(mask.astype(np.uint32), thread.shape)

    launches = machine.launch_of_row[rows]
    grid = [
        machine.grids.per_launch([one.grid[axis] for one in machine.grids.launches], launches)
        for axis in range(len(AXES))
    ]
    clusters_in_grid = [extent // size for extent, size in zip(grid, cluster, strict=True)]
    number = machine.clusters[machine.cluster_of_row[rows]]
    cluster_number = number - machine.grids.first_cluster[launches]
    rank = machine.rank_of_row[rows]
    cluster_place = _coordinates(cluster_number, clusters_in_grid)
    rank_place = _coordinates(rank, list(cluster))
    for axis, name in enumerate(AXES):
        ctaid = cluster_place[axis] * cluster[axis] + rank_place[axis]
        values[f"%ctaid.{name}"] = _column(ctaid)
        values[f"%clusterid.{name}"] = _column(cluster_place[axis])
        values[f"%cluster_ctaid.{name}"] = _column(rank_place[axis])
        values[f"%ntid.{name}"] = np.uint32(block[axis])
        values[f"%nctaid.{name}"] = _column(grid[axis])
        values[f"%nclusterid.{name}"] = _column(clusters_in_grid[axis])
        values[f"%cluster_nctaid.{name}"] = np.uint32(cluster[axis])
    values["%cluster_ctarank"] = _column(rank)
    values["%cluster_nctarank"] = np.uint32(machine.cluster_size)
    values["%is_explicit_cluster"] = np.bool_(machine.cluster_size > 1)
    values["%smid"] = _column(machine.sm_of_row[rows])
    values["%nsmid"] = np.uint32(machine.units.target.sms)
    values["%dynamic_smem_size"] = np.uint32(launch.dynamic_smem_bytes)
    values["%total_smem_size"] = np.uint32(machine.kernel.shared_bytes(launch))
    values["%gridid"] = launches.astype(np.uint64)[:, None] + np.uint64(1)
    return values


def _column(values: Any) -> Any:
    """uint32 [warps, 1], or the scalar that all warps agree on."""
    return np.uint32(values) if np.ndim(values) == 0 else values.astype(np.uint32)[:, None]


def _coordinates(number: Any, extents: list[Any]) -> list[Any]:
    """x, y, z of linear numbers, x first."""
    return [number % extents[0], number // extents[0] % extents[1], number // (extents[0] * extents[1])]

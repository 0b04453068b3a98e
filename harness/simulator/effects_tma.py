"""TMA tile loads, with multicast, and prefetches.

PTX ISA, "Data movement and conversion instructions: cp.async.bulk.tensor, cp.async.bulk.prefetch.tensor". A
load's bytes appear, and count on its mbarrier, when its event is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator import tma_copy
from harness.simulator.blame import origin
from harness.simulator.cohort import Cohort
from harness.simulator.copy_targets import check_arrival, check_target
from harness.simulator.effects import Run, effect
from harness.simulator.effects_tma_store import RANKS, store_of
from harness.simulator.errors import SimulationError
from harness.simulator.ptx import Instruction
from harness.simulator.shared import RANK_SHIFT
from harness.simulator.tensor_map import TensorMap
from harness.simulator.tensors_used import Tensor, check_alignment, corner_of, each, issued, tensors_used
from harness.simulator.tma_box import shared_bytes, transaction_bytes

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]
_COPY = (
    f"{RANKS} shared::cta shared::cluster global tile mbarrier::complete_tx::bytes multicast::cluster "
    "cta_group::1 cta_group::2 bulk_group L2::cache_hint"
)


@effect("prefetch", "tensormap", flags="")
def prefetch_tensor_map(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any, address: Any) -> None:
        warps, (maps,) = issued(c, m, address)
        if len(warps):
            tensors_used(c, warps, maps)

    return run


@effect("cp", "async", "bulk", "prefetch", "tensor", flags=f"{RANKS} L2 global tile L2::cache_hint")
def prefetch_tile(instruction: Instruction) -> Run:
    """A tile on its way to the L2: of a tensor that exists, and nothing else can be said of it."""

    def run(c: Cohort, m: Any, source: tuple[Any, tuple[Any, ...]], *hint: Any) -> None:
        warps, (maps,) = issued(c, m, source[0])
        if len(warps):
            tensors_used(c, warps, maps)

    return run


@effect("cp", "async", "bulk", "tensor", flags=_COPY)
def tensor_copy(instruction: Instruction) -> Run:
    parts = instruction.parts
    rank = int(parts[4][0])
    if parts[5] == "global":
        return store_of(instruction, rank, tma_copy.store)
    if "mbarrier::complete_tx::bytes" not in parts:
        raise SimulationError(f"{instruction.opcode} is not known")
    return _load(instruction, rank, "multicast::cluster" in parts, "cta_group::2" in parts)


def _load(instruction: Instruction, rank: int, multicast: bool, pair: bool) -> Run:
    def run(c: Cohort, m: Any, target: Any, source: Any, mbarrier: Any, *rest: Any) -> None:
        machine = c.machine
        mask = rest[0] if multicast else 0
        descriptor, coordinates = source
        warps, (maps, to, bar, masks, *places) = issued(
            c, m, descriptor, target, mbarrier, mask, *coordinates
        )
        corner = corner_of(places, rank)
        if not len(warps):
            return
        check_alignment(to, "tile load to")
        for tensors in tensors_used(c, warps, maps, rank):
            order = np.concatenate([tensor.issues for tensor in tensors])
            _load_tiles(
                machine,
                c,
                tensors,
                warps[order],
                to[order],
                bar[order],
                masks[order],
                corner[order],
                multicast,
                pair,
                origin(machine, c, m, instruction),
            )

    return run


def _load_tiles(
    machine: Machine,
    c: Cohort,
    tensors: list[Tensor],
    warps: Array,
    to: Array,
    bar: Array,
    masks: Array,
    corner: Array,
    multicast: bool,
    pair: bool,
    who: Callable[[], str],
) -> None:
    """Tiles of tensors with boxes alike: one for each issue, to one CTA or to those of a multicast.

    The issues are in the order of the tensors that they use.
    """
    size, transaction = shared_bytes(tensors[0].map), transaction_bytes(tensors[0].map)
    offsets = to & ((1 << RANK_SHIFT) - 1)
    first = machine.first_row_of_cluster[c.rows[warps]]
    issue, ranks = _destinations(machine, to, masks, multicast)
    rows = first[issue] + ranks
    try:
        check_target(machine, rows, offsets[issue], size, "a tile load")
    except SimulationError as error:
        if multicast:  # what it marks are destinations, and no lanes
            error.wrong = None
        raise
    # Where each destination signals: the same offset in itself, or in the CTA of its pair with the
    # parity that the barrier's address names (PTX ISA, .cta_group::2).
    bar_ranks = bar >> RANK_SHIFT
    if pair:
        signalled = (ranks & ~1) | (bar_ranks[issue] & 1)
    elif multicast:
        signalled = ranks
    else:
        signalled = bar_ranks
        if (signalled != ranks).any():
            raise SimulationError("the mbarrier of a tile load lies in another CTA than its destination")
    tensor = machine.unit_state.get("tensor")
    if tensor is not None and machine.functional:
        tensor.check_overwrite(rows, offsets[issue] // 4, (offsets[issue] + size) // 4 - 1)
    keys = machine.mbarriers.keys(first[issue] + signalled, (bar & ((1 << RANK_SHIFT) - 1))[issue])
    # CTAs that multicast to each other all take in what each of them sends to all.
    copies = np.bincount(issue, minlength=len(warps))
    done = _arrivals(machine, c, tensors, warps, corner, copies) if machine.units.timed else c.clock[warps]
    if multicast:
        done = done + machine.units.target.chip["multicast_latency"]

    exits = machine.thread_order
    issuers = c.warps[warps][issue]
    epochs = np.zeros(0) if exits is None else exits.copy(c.warps[warps], issue, rows, keys)[issue]
    if machine.races is not None:
        starts = rows * (machine.shared.size // 4) + offsets[issue] // 4
        machine.races.write_tiles(starts, size // 4, issuers, epochs)
    if machine.functional:
        machine.shared.begin_load(rows, offsets[issue], size)

    def arrive() -> None:
        check_arrival(machine, rows, keys, "a tile load")
        if machine.functional:
            machine.tile_loads.load(tensors, corner, offsets, machine.shared, issue, rows)
            machine.shared.mark_loaded(rows, offsets[issue], size, machine.step)
        if exits is not None:
            exits.complete(issuers, epochs, keys, machine.mbarriers.phase[keys])
        machine.mbarriers.complete_bytes(keys, transaction, done[issue])

    machine.at(float(done.min()), arrive, who)


def _arrivals(
    machine: Machine, c: Cohort, tensors: list[Tensor], warps: Array, corner: Array, copies: Array
) -> Array:
    """When the tiles of each issue, `copies` of each, have arrived (cycles)."""
    done = np.empty(len(warps))
    for tensor, mine in each(tensors):
        size = shared_bytes(tensor.map)
        done[mine] = machine.units.load(
            machine.sm_of_row[c.rows[warps[mine]]],
            size * copies[mine],
            size * inside(tensor.map, corner[mine]),
            c.clock[warps[mine]],
            [(tensor.address, *place) for place in corner[mine].tolist()],
            machine.units.is_shared(tensor.map.address),
        )
    return done


def _destinations(machine: Machine, to: Array, masks: Array, multicast: bool) -> tuple[Array, Array]:
    """(issue, rank) of every CTA that gets a tile."""
    if multicast:
        wanted = (masks[:, None] >> np.arange(16)) & 1
        issue, ranks = np.nonzero(wanted)
        if (wanted.sum(1) == 0).any():
            raise SimulationError("multicast to no CTA at all")
    else:
        issue, ranks = np.arange(len(to)), to >> RANK_SHIFT
    if ranks.max() >= machine.cluster_size:
        raise SimulationError(
            f"tile load to rank {int(ranks.max())} of a cluster of {machine.cluster_size} CTAs"
        )
    return issue, ranks


def inside(tensor_map: TensorMap, corner: Array) -> Array:
    """The part of each tile that lies in the tensor, 0 to 1: what has to be brought from somewhere."""
    extents, box = np.array(tensor_map.extents), np.array(tensor_map.box)
    length = np.minimum(corner + box, extents) - np.maximum(corner, 0)
    part: Array = np.prod(np.maximum(length, 0) / box, 1)
    return part

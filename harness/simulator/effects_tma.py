"""Bulk asynchronous copies: TMA tile loads, with multicast, and stores, in bulk groups.

PTX ISA, "Data movement and conversion instructions: cp.async.bulk.tensor, cp.reduce.async.bulk.tensor,
cp.async.bulk, cp.async.bulk.commit_group, cp.async.bulk.wait_group". A load's bytes appear, and count on its
mbarrier, when its event is due; a store reads its source then, so that a kernel which reuses the source too
early stores what it should not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator import tma_copy
from harness.simulator.blame import origin
from harness.simulator.cohort import Cohort
from harness.simulator.effects import Run, Wait, effect, wait
from harness.simulator.errors import SimulationError
from harness.simulator.ptx import Instruction
from harness.simulator.shared import RANK_SHIFT
from harness.simulator.tensor_map import TensorMap
from harness.simulator.tensors_used import Tensor, each, tensors_used
from harness.simulator.tma_box import shared_bytes, transaction_bytes

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]
# cp.async.bulk.tensor: shared addresses are multiples of 128 bytes (PTX ISA, alignment of tensor copies).
SHARED_ALIGNMENT = 128


def issued(c: Cohort, m: Any, *operands: Any) -> tuple[Array, list[Array]]:
    """(warp of the cohort, operands as int64) of every active lane: each lane issues a copy of its own."""
    active = c.active(m)
    warps = np.broadcast_to(np.arange(len(c.warps))[:, None], active.shape)[active]
    return warps, [c.lanes(np.asarray(operand)).astype(np.int64)[active] for operand in operands]


@effect("prefetch", "tensormap")
def prefetch_tensor_map(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any, address: Any) -> None:
        warps, (maps,) = issued(c, m, address)
        if len(warps):
            tensors_used(c, warps, maps)

    return run


@effect("cp", "async", "bulk", "prefetch", "tensor")
def prefetch_tile(instruction: Instruction) -> Run:
    """A tile on its way to the L2: of a tensor that exists, and nothing else can be said of it."""

    def run(c: Cohort, m: Any, source: tuple[Any, tuple[Any, ...]], *hint: Any) -> None:
        warps, (maps,) = issued(c, m, source[0])
        if len(warps):
            tensors_used(c, warps, maps)

    return run


@effect("cp", "async", "bulk", "tensor")
def tensor_copy(instruction: Instruction) -> Run:
    parts = instruction.parts
    rank = int(parts[4][0])
    for part in parts[5:]:
        if part not in _KNOWN and not part.startswith("L2"):
            raise SimulationError(f"{instruction.opcode} is not known")
    if parts[5] == "global":
        return _store(instruction, rank, tma_copy.store)
    if "mbarrier::complete_tx::bytes" not in parts:
        raise SimulationError(f"{instruction.opcode} is not known")
    return _load(instruction, rank, "multicast::cluster" in parts, "cta_group::2" in parts)


@effect("cp", "reduce", "async", "bulk", "tensor")
def tensor_reduction(instruction: Instruction) -> Run:
    parts = instruction.parts
    if "add" not in parts or parts[6] != "global":
        raise SimulationError(f"{instruction.opcode} is not known")
    return _store(instruction, int(parts[5][0]), tma_copy.reduce_add)


_KNOWN = (
    "shared::cta",
    "shared::cluster",
    "global",
    "tile",
    "mbarrier::complete_tx::bytes",
    "multicast::cluster",
    "cta_group::1",
    "cta_group::2",
    "bulk_group",
)


def _corner(places: list[Array], rank: int) -> Array:
    """Signed coordinates [n, rank] of the tiles' first elements."""
    if len(places) != rank:
        raise SimulationError(f"{len(places)} coordinates for a tensor of rank {rank}")
    return np.stack(places, 1).astype(np.int32).astype(np.int64)


def _check_alignment(addresses: Array, what: str) -> None:
    if (addresses % SHARED_ALIGNMENT).any():
        raise SimulationError(
            f"{what} shared address {int(addresses[0]):#x}: want a multiple of {SHARED_ALIGNMENT}"
        )


def _load(instruction: Instruction, rank: int, multicast: bool, pair: bool) -> Run:
    def run(c: Cohort, m: Any, target: Any, source: Any, mbarrier: Any, *rest: Any) -> None:
        machine = c.machine
        mask = rest[0] if multicast else 0
        descriptor, coordinates = source
        warps, (maps, to, bar, masks, *places) = issued(
            c, m, descriptor, target, mbarrier, mask, *coordinates
        )
        corner = _corner(places, rank)
        if not len(warps):
            return
        _check_alignment(to, "tile load to")
        for tensors in tensors_used(c, warps, maps):
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
    if (offsets + size > machine.shared.limit).any():
        raise SimulationError(
            f"tile load of {size} bytes to shared address {int(offsets.max()):#x} leaves shared memory"
        )
    first = machine.first_row_of_cluster[c.rows[warps]]
    issue, ranks = _destinations(machine, to, masks, multicast)
    rows = first[issue] + ranks
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
    clocks = exits.copy(c.warps[warps], issue, rows) if exits is not None else np.zeros((0, 0))
    if machine.races is not None:
        words = rows[:, None] * (machine.shared.size // 4) + offsets[issue, None] // 4 + np.arange(size // 4)
        machine.races.write_tiles(words, c.warps[warps][issue], clocks.max(1)[issue])
    if machine.functional:
        machine.operand_reads.check_write(rows, offsets[issue], size, "a tile load")
        machine.shared.begin_load(rows, offsets[issue], size)

    def arrive() -> None:
        if machine.functional:
            parts = [
                tma_copy.load(tensor.map, tensor.memory, corner[mine], offsets[mine])
                for tensor, mine in each(tensors)
            ]
            data = parts[0] if len(parts) == 1 else np.concatenate(parts)
            cells = machine.shared.chunks()
            place = offsets[issue, None] // 16 + np.arange(size // 16)
            cells[rows[:, None], place] = data.view(cells.dtype)[issue]
            machine.shared.mark_loaded(rows, offsets[issue], size, machine.step)
        if exits is not None:
            exits.deliver("mbarrier", clocks[issue], keys, machine.mbarriers.phase[keys])
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
    if not multicast:
        return np.arange(len(to)), to >> RANK_SHIFT
    wanted = (masks[:, None] >> np.arange(16)) & 1
    issue, ranks = np.nonzero(wanted)
    if len(ranks) and ranks.max() >= machine.cluster_size:
        raise SimulationError(
            f"multicast to rank {int(ranks.max())} of a cluster of {machine.cluster_size} CTAs"
        )
    if (wanted.sum(1) == 0).any():
        raise SimulationError("multicast to no CTA at all")
    return issue, ranks


def inside(tensor_map: TensorMap, corner: Array) -> Array:
    """The part of each tile that lies in the tensor, 0 to 1: what has to be brought from somewhere."""
    extents, box = np.array(tensor_map.extents), np.array(tensor_map.box)
    length = np.minimum(corner + box, extents) - np.maximum(corner, 0)
    part: Array = np.prod(np.maximum(length, 0) / box, 1)
    return part


@dataclass
class _Group:
    """Bulk stores of one thread between two commits: how many are under way, and when the last one ends."""

    left: int = 0
    done: float = 0.0


@dataclass
class BulkGroups:
    """Each warp's bulk groups, oldest first; the last one is open."""

    of_warp: dict[int, list[_Group]] = field(default_factory=dict)

    def groups(self, warp: int) -> list[_Group]:
        return self.of_warp.setdefault(warp, [_Group()])

    def check_exit(self, rows: Array) -> None:
        """Nothing: stores outlive their CTA's threads, and the launch ends after them."""

    def check_finished(self) -> None:
        """Every store has an event, and the machine runs until no event is left."""


def bulk_groups(machine: Machine) -> BulkGroups:
    state = machine.unit_state.setdefault("bulk", BulkGroups())
    assert isinstance(state, BulkGroups)
    return state


def _store(instruction: Instruction, rank: int, copy: Callable[..., None]) -> Run:
    def run(c: Cohort, m: Any, target: Any, source: Any, *rest: Any) -> None:
        machine = c.machine
        descriptor, coordinates = target
        warps, (maps, start, *places) = issued(c, m, descriptor, source, *coordinates)
        corner = _corner(places, rank)
        if not len(warps):
            return
        _check_alignment(start, "tile store from")
        for tensor in chain.from_iterable(tensors_used(c, warps, maps)):
            mine = tensor.issues
            _store_tiles(
                machine,
                c,
                tensor,
                warps[mine],
                start[mine] & ((1 << RANK_SHIFT) - 1),
                corner[mine],
                copy,
                origin(machine, c, m, instruction),
            )

    return run


def _store_tiles(
    machine: Machine,
    c: Cohort,
    tensor: Tensor,
    warps: Array,
    offsets: Array,
    corner: Array,
    copy: Callable[..., None],
    who: Callable[[], str],
) -> None:
    size = shared_bytes(tensor.map)
    rows = c.rows[warps]
    words = offsets[:, None] // 4 + np.arange(size // 4)
    machine.shared.index(rows, offsets + size - 16, 16, None)
    machine.shared.check_async_read(rows, words)
    if machine.races is not None:
        flat = rows[:, None] * (machine.shared.size // 4) + words
        machine.races.read(flat.reshape(-1), np.repeat(c.warps[warps], words.shape[1]))
    done = machine.units.store(machine.sm_of_row[rows], np.full(len(warps), size), c.clock[warps])
    groups = [bulk_groups(machine).groups(int(warp))[-1] for warp in c.warps[warps]]
    for group, end in zip(groups, done, strict=True):
        group.left += 1
        group.done = max(group.done, float(end))

    def arrive() -> None:
        if machine.functional:
            cells = machine.shared.chunks()
            data = cells[rows[:, None], offsets[:, None] // 16 + np.arange(size // 16)].view(np.uint8)
            copy(tensor.map, tensor.memory, corner, offsets, data)
        for group in groups:
            group.left -= 1

    machine.at(float(done.min()), arrive, who)


@effect("cp", "async", "bulk", "commit_group")
def commit_group(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any) -> None:
        active = c.active(m).any(1)
        for warp in c.warps[active]:
            bulk_groups(c.machine).groups(int(warp)).append(_Group())

    return run


class _GroupWait:
    """cp.async.bulk.wait_group N: all but the latest N groups have ended (.read: have read their source)."""

    def begin(self, c: Cohort, allowed: int) -> tuple[Array, ...]:
        return (np.full(len(c.warps), allowed),)

    def poll(self, c: Cohort, token: tuple[Array, ...]) -> tuple[Array, Array]:
        state = bulk_groups(c.machine)
        ready, clock = np.ones(len(c.warps), np.bool_), np.zeros(len(c.warps))
        for index, (warp, allowed) in enumerate(zip(c.warps, token[0], strict=True)):
            committed = state.groups(int(warp))[:-1]
            for group in committed[: len(committed) - int(allowed)]:
                ready[index] &= group.left == 0
                clock[index] = max(clock[index], group.done)
        return ready, clock

    def describe(self, c: Cohort, token: tuple[Array, ...], warp: int) -> str:
        return f"its bulk stores, all but the latest {int(token[0][warp])} groups"


@wait("cp", "async", "bulk", "wait_group")
def group_wait(instruction: Instruction) -> Wait:
    return _GroupWait()

"""Barriers, fences and the rest of what synchronizes.

PTX ISA, "Parallel synchronization and communication instructions".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.barriers import NAMED
from harness.simulator.cohort import LANES, Cohort, some_lane
from harness.simulator.effects import Run, Wait, effect, wait
from harness.simulator.effects_memory import shared_place, shared_place_of_lanes
from harness.simulator.errors import SimulationError
from harness.simulator.ops_lanes import members_of
from harness.simulator.ptx import Address, Instruction

Array = npt.NDArray[Any]
_MBARRIER = "shared shared::cta shared::cluster release relaxed acquire cta cluster"
# Of a fence: those that order accesses of threads in different CTAs.
_BEYOND_CTA = {"cluster", "gpu", "sys", "gl"}


def barrier_places(c: Cohort, m: Any, address: Any) -> tuple[Array, Array, Array]:
    """(rows, offsets, warps of the cohort) of the mbarrier that each active lane names, flat."""
    places = c.places(m)
    if np.ndim(address) == 2 and address.shape[1] > 1:
        return shared_place_of_lanes(c, address, places)
    # An address that a warp shares is looked at whoever is active.
    rows, offsets = shared_place(c, address, c.active(m))
    return c.at_places(rows, places), c.at_places(offsets, places), places // LANES


def orders_cluster(instruction: Instruction) -> bool:
    """Whether an arrival releases, or a wait acquires, at cluster scope; the default scope is the CTA."""
    return "cluster" in instruction.parts and "relaxed" not in instruction.parts


def flat(c: Cohort, m: Any, value: Any) -> Array:
    """An operand of the active lanes, as int64."""
    return c.at_places(value, c.places(m))


@effect("mbarrier", "init", flags="shared shared::cta")
def mbarrier_init(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any, address: Any, count: Any) -> None:
        rows, offsets, warps = barrier_places(c, m, address)
        mbarriers = c.machine.mbarriers
        mbarriers.initialize(rows, offsets, flat(c, m, count))
        if c.machine.thread_order is not None:
            c.machine.thread_order.inits.initialized(c.warps[warps], mbarriers.keys(rows, offsets))
        words = rows * (c.machine.shared.size // 4) + offsets // 4
        threads = c.machine.thread_of_lane[c.warps][c.active(m)]
        for word in (words, words + 1):
            c.machine.shared.mark(word, threads, c.step)

    return run


@effect("mbarrier", "inval", flags="shared shared::cta")
def mbarrier_inval(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any, address: Any) -> None:
        rows, offsets, _ = barrier_places(c, m, address)
        c.machine.mbarriers.invalidate(rows, offsets)

    return run


def _is_address(instruction: Instruction, position: int) -> bool:
    return len(instruction.operands) > position and isinstance(instruction.operands[position], Address)


class _Arrive:
    """mbarrier.arrive and its relatives: with or without a state as destination, a count, expected bytes."""

    def __init__(self, instruction: Instruction) -> None:
        parts = instruction.parts
        if "noComplete" in parts:
            raise SimulationError(f"{instruction.opcode} is not known")
        self.expects = "expect_tx" in parts
        self.arrives = "arrive" in parts or "arrive_drop" in parts
        self.drops = "arrive_drop" in parts
        self.releases = orders_cluster(instruction)
        self.line = instruction.line

    def run(self, c: Cohort, m: Any, address: Any, value: Any = None) -> Any:
        mbarriers = c.machine.mbarriers
        rows, offsets, warps = barrier_places(c, m, address)
        keys = mbarriers.keys(rows, offsets)
        c.machine.check_initialized(c.warps[warps], keys)
        state = np.zeros((len(c.warps), LANES), np.uint64)
        state[c.active(m)] = mbarriers.phase[keys]
        if self.expects:
            mbarriers.expect(keys, flat(c, m, value), c.warps[warps], self.line)
        if self.arrives:
            counts = flat(c, m, value) if value is not None and not self.expects else 1
            if self.drops:
                np.subtract.at(mbarriers.count, keys, counts)
            away = rows != c.rows[warps]
            phases = mbarriers.phase[keys]
            c.machine.note_arrival("mbarrier", c.warps[warps], keys, phases, away, self.releases)
            latency = c.machine.units.target.latency_of("mbarrier.arrive.remote")
            mbarriers.arrive(keys, counts, c.clock[warps] + away * latency)
        # The state is opaque to the kernel; here it is the number of the phase that was arrived on.
        return state


@effect("mbarrier", "arrive", flags=f"{_MBARRIER} expect_tx", writes=True)
@effect("mbarrier", "arrive_drop", flags=f"{_MBARRIER} expect_tx", writes=True)
def mbarrier_arrive(instruction: Instruction) -> Run:
    return _Arrive(instruction).run


@effect("mbarrier", "expect_tx", flags=_MBARRIER)
def mbarrier_expect(instruction: Instruction) -> Run:
    return _Arrive(instruction).run


@effect("mbarrier", "try_wait", flags=f"{_MBARRIER} parity", writes=True)
@effect("mbarrier", "test_wait", flags=f"{_MBARRIER} parity", writes=True)
def mbarrier_test(instruction: Instruction) -> Run:
    """A look at a barrier without waiting for it. A suspended try_wait may give up at any time."""
    by_parity, acquires = "parity" in instruction.parts, orders_cluster(instruction)

    def run(c: Cohort, m: Any, address: Any, phase: Any, limit: Any = 0) -> Any:
        active = c.active(m)
        rows, offsets = np.broadcast_arrays(*shared_place(c, address, active))
        warps = np.flatnonzero(some_lane(active))
        keys = np.zeros(rows.shape, np.int64)
        keys[warps] = c.machine.mbarriers.keys(rows[warps], offsets[warps])
        if not c.machine.mbarriers.offsets:
            raise SimulationError("no mbarrier was initialized")
        passed = c.machine.mbarriers.passed(keys, np.asarray(phase).astype(np.int64), by_parity)
        passed &= c.machine.mbarriers.completed_at[keys] <= c.clock[:, None]
        seen = np.flatnonzero(some_lane(passed & c.active(m)))
        first = c.per_warp(keys, m)[seen]
        c.machine.check_initialized(c.warps[seen], first)
        phases = c.machine.mbarriers.phase[first]
        c.machine.note_passed("mbarrier", c.warps[seen], first, phases, acquires)
        return passed

    return run


class _MbarrierWait:
    """Wait for a phase: `try_wait` in a loop."""

    def __init__(self, instruction: Instruction) -> None:
        self.by_parity = "parity" in instruction.parts
        self.acquires = orders_cluster(instruction)

    def begin(self, c: Cohort, address: Any, phase: Any, limit: Any = 0) -> tuple[Array, ...]:
        rows, offsets = (
            c.same_in_warp(part, c.mask, "wait for different mbarriers")
            for part in shared_place(c, address, c.active(c.mask))
        )
        keys = c.machine.mbarriers.keys(rows, offsets)
        c.machine.check_initialized(c.warps, keys)
        phase = np.asarray(phase) & 1 if self.by_parity else phase
        return keys, c.same_in_warp(phase, c.mask, "wait for different phases of an mbarrier").astype(
            np.int64
        )

    def poll(self, c: Cohort, token: tuple[Array, ...]) -> tuple[Array, Array]:
        keys, phase = token
        mbarriers = c.machine.mbarriers
        ready = mbarriers.passed(keys, phase, self.by_parity)
        c.machine.note_barrier(c, ready, "mbarrier", keys, mbarriers.phase[keys], self.acquires)
        # Looking at a phase that completed long ago takes as long as being told of one that completes now.
        known = np.maximum(mbarriers.completed_at[keys], c.clock)
        return ready, np.where(ready, known + c.machine.units.target.latency_of("mbarrier.wait"), 0.0)

    def describe(self, c: Cohort, token: tuple[Array, ...], warp: int) -> str:
        what = f"parity {int(token[1][warp]) & 1}" if self.by_parity else f"phase {int(token[1][warp])}"
        return f"{what} of {c.machine.mbarriers.describe(int(token[0][warp]))}"


@wait("mbarrier", "wait", flags=f"{_MBARRIER} parity")
def mbarrier_wait(instruction: Instruction) -> Wait:
    return _MbarrierWait(instruction)


def _barrier_threads(c: Cohort, m: Any, threads: Any) -> Array:
    if threads is None:
        return c.machine.live_warps[c.rows] * LANES
    return c.same_in_warp(threads, m, "name different numbers of threads for a named barrier").astype(
        np.int64
    )


def _arrive_named(c: Cohort, m: Any, number: Any, threads: Any) -> tuple[Array, Array]:
    """(ids, generation that each warp waits for)."""
    ids = c.same_in_warp(number, m, "arrive at different named barriers").astype(np.int64)
    here = c.whole_warps(m, "a named barrier")
    generation = np.zeros(len(ids), np.int64)
    if ((ids < 0) | (ids >= NAMED)).any():
        wrong = (ids < 0) | (ids >= NAMED)
        raise SimulationError(f"named barrier {int(ids[wrong][0])}: from 0 to {NAMED - 1}", wrong)
    before = c.machine.named.generation[c.rows, ids]
    c.machine.note_arrival("named", c.warps[here], (c.rows * NAMED + ids)[here], before[here])
    generation[here] = c.machine.named.arrive(
        c.rows[here],
        ids[here],
        _barrier_threads(c, m, threads)[here],
        np.full(int(here.sum()), LANES),
        c.clock[here],
        threads is None,
    )
    return ids, generation


@effect("bar", "arrive", flags="")
@effect("barrier", "arrive", flags="aligned")
@effect("barrier", "cta", "arrive", flags="aligned")
def named_arrive(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any, number: Any, threads: Any) -> None:
        _arrive_named(c, m, number, threads)

    return run


class _NamedWait:
    def begin(self, c: Cohort, number: Any, threads: Any = None) -> tuple[Array, ...]:
        return _arrive_named(c, c.mask, number, threads)

    def poll(self, c: Cohort, token: tuple[Array, ...]) -> tuple[Array, Array]:
        ids, generation = token
        named = c.machine.named
        ready = named.generation[c.rows, ids] > generation
        c.machine.note_barrier(c, ready, "named", c.rows * NAMED + ids, named.generation[c.rows, ids])
        target = c.machine.units.target
        # Each warp that takes part is counted in turn.
        taking_part = named.threads[c.rows, ids] // LANES
        latency = target.latency_of("bar.sync") + taking_part * target.chip["bar_warp_cycles"]
        return ready, np.where(ready, named.completed_at[c.rows, ids] + latency, 0.0)

    def describe(self, c: Cohort, token: tuple[Array, ...], warp: int) -> str:
        row, number = int(c.rows[warp]), int(token[0][warp])
        named = c.machine.named
        return (
            f"named barrier {number} ({named.arrived[row, number]} of {named.threads[row, number]} threads)"
        )


@wait("bar", "sync", flags="")
@wait("barrier", "sync", flags="aligned")
@wait("barrier", "cta", "sync", flags="aligned")
def named_wait(instruction: Instruction) -> Wait:
    return _NamedWait()


@effect("bar", "warp", "sync", flags="")
def warp_sync(instruction: Instruction) -> Run:
    """Lanes of a cohort are in step anyway; who else is named may execute another one, unseen."""

    def run(c: Cohort, m: Any, members: Any) -> None:
        members_of(np.asarray(members).astype(np.uint32), c.active(m))

    return run


@effect("barrier", "cluster", "arrive", flags="release relaxed aligned")
def cluster_arrive(instruction: Instruction) -> Run:
    releases = "relaxed" not in instruction.parts

    def run(c: Cohort, m: Any) -> None:
        here = c.whole_warps(m, "barrier.cluster.arrive")
        clusters = c.machine.cluster_of_row[c.rows[here]]
        generation = c.machine.cluster_barriers.generation[clusters]
        away = np.ones(len(clusters), np.bool_)
        c.machine.note_arrival("cluster", c.warps[here], clusters, generation, away, releases)
        c.machine.cluster_barriers.arrive(c.warps[here], clusters, c.clock[here])

    return run


class _ClusterWait:
    def begin(self, c: Cohort) -> tuple[Array, ...]:
        barriers = c.machine.cluster_barriers
        generation = barriers.arrived_for[c.warps].copy()
        if (generation < 0).any():
            raise SimulationError("barrier.cluster.wait without an arrive before it", generation < 0)
        barriers.arrived_for[c.warps] = -1
        return (generation,)

    def poll(self, c: Cohort, token: tuple[Array, ...]) -> tuple[Array, Array]:
        barriers = c.machine.cluster_barriers
        clusters = c.machine.cluster_of_row[c.rows]
        ready = barriers.generation[clusters] > token[0]
        c.machine.note_barrier(c, ready, "cluster", clusters, barriers.generation[clusters], acquire=True)
        latency = c.machine.units.target.latency_of("barrier.cluster.wait")
        return ready, np.where(ready, barriers.completed_at[clusters] + latency, 0.0)

    def describe(self, c: Cohort, token: tuple[Array, ...], warp: int) -> str:
        cluster = int(c.machine.cluster_of_row[c.rows[warp]])
        barriers = c.machine.cluster_barriers
        return f"the cluster's barrier ({barriers.arrived[cluster]} of {barriers.expected[cluster]} warps)"


@wait("barrier", "cluster", "wait", flags="acquire aligned")
def cluster_wait(instruction: Instruction) -> Wait:
    return _ClusterWait()


@effect("fence", "proxy", "async", flags="global shared::cta shared::cluster")
def proxy_fence(instruction: Instruction) -> Run:
    if "global" in instruction.parts:  # orders accesses to global memory only
        return lambda c, m: None

    def run(c: Cohort, m: Any) -> None:
        active = c.active(m)
        rows = np.broadcast_to(c.rows[:, None], active.shape)[active]
        c.machine.shared.fence(rows, c.machine.thread_of_lane[c.warps][active], c.step)

    return run


@effect("fence", "mbarrier_init", flags="release cluster")
def init_fence(instruction: Instruction) -> Run:
    """Makes the thread's own mbarrier.init part of what its later arrivals tell other CTAs."""

    def run(c: Cohort, m: Any) -> None:
        if c.machine.thread_order is not None:
            c.machine.thread_order.inits.released(c.warps[c.active(m).any(1)], own=True)

    return run


@effect("fence", "proxy", "async::generic", flags="acquire release sync_restrict::* cluster")
@effect("fence", "proxy", "tensormap::generic", flags="acquire release cta cluster gpu sys")
@effect("fence", "proxy", "alias", flags="")
def other_fence(instruction: Instruction) -> Run:
    """Memory is sequentially consistent here: these order nothing more."""
    return lambda c, m, *operands: None


@effect("fence", flags="sc acq_rel acquire release sync_restrict::* cta cluster gpu sys")
@effect("membar", flags="cta gl sys")
def fence(instruction: Instruction) -> Run:
    """Orders what barriers without a scope of their own do not: see `Scopes`."""
    beyond_cta = bool(_BEYOND_CTA & set(instruction.parts))
    release, acquire = "acquire" not in instruction.parts, "release" not in instruction.parts

    def run(c: Cohort, m: Any) -> None:
        if beyond_cta and c.machine.thread_order is not None:
            c.machine.thread_order.fence(c.warps[c.active(m).any(1)], release, acquire)

    return run


@effect("griddepcontrol", "launch_dependents", flags="")
def launch_dependents(instruction: Instruction) -> Run:
    return lambda c, m: None


class _GridWait:
    """The launches before this one have ended: the simulator runs one at a time."""

    def begin(self, c: Cohort) -> tuple[Array, ...]:
        return (np.zeros(len(c.warps)),)

    def poll(self, c: Cohort, token: tuple[Array, ...]) -> tuple[Array, Array]:
        return np.ones(len(c.warps), np.bool_), c.clock

    def describe(self, c: Cohort, token: tuple[Array, ...], warp: int) -> str:
        return "the grid before"


@wait("griddepcontrol", "wait", flags="")
def grid_wait(instruction: Instruction) -> Wait:
    return _GridWait()


@effect("nanosleep", flags="")
def sleep(instruction: Instruction) -> Run:
    return lambda c, m, time: None


@effect("trap", flags="")
def trap(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any) -> None:
        raise SimulationError("the kernel trapped")

    return run

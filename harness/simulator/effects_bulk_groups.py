"""Bulk groups: the bulk stores of a thread between two commits, and waiting for them.

PTX ISA, "cp.async.bulk.commit_group", "cp.async.bulk.wait_group". A store reads its source, and then writes
to global memory: two events, of which `.read` waits for the first only, and the CTA's exit has to. Groups are
the thread's that commits them: a wait says nothing of another lane's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cohort import Cohort
from harness.simulator.effects import Run, Wait, effect, wait
from harness.simulator.errors import SimulationError
from harness.simulator.ptx import Instruction

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]


@dataclass
class _Progress:
    """How many stores of a group have something still to do, and when the last one has done it."""

    left: int = 0
    done: float = 0.0

    def add(self, done: float) -> None:
        self.left += 1
        self.done = max(self.done, done)


@dataclass
class _Group:
    """Bulk stores of one thread between two commits: reading their source, and writing to global memory."""

    read: _Progress = field(default_factory=_Progress)
    written: _Progress = field(default_factory=_Progress)


def _open_group() -> list[_Group]:
    return [_Group()]


@dataclass
class BulkGroups:
    """The bulk groups of the lanes of each warp that have stored anything, oldest first; the last is open."""

    of_warp: dict[int, dict[int, list[_Group]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(_open_group))
    )

    def open(self, warp: int, lane: int) -> _Group:
        """The group that a lane's stores join."""
        return self.of_warp[warp][lane][-1]

    def groups(self, warp: int, active: Array) -> Iterator[list[_Group]]:
        """Those of each of a warp's `active` lanes [32]. A lane without stores has nothing to wait for."""
        for lane, groups in self.of_warp.get(warp, {}).items():
            if active[lane]:
                yield groups

    def check_exit(self, rows: Array) -> None:
        """Nothing: a store that has still to read its source says so itself, with its own place."""

    def check_finished(self) -> None:
        """Every store has an event, and the machine runs until no event is left."""


def bulk_groups(machine: Machine) -> BulkGroups:
    state = machine.unit_state.setdefault("bulk", BulkGroups())
    assert isinstance(state, BulkGroups)
    return state


def store_in_groups(
    machine: Machine,
    warps: Array,
    lanes: Array,
    began: Array,
    done: Array,
    read: Callable[[], Array],
    write: Callable[[Array], None],
    who: Callable[[], str],
) -> None:
    """Stores by `lanes` [n] of `warps` [n] join their open groups: `read` their sources, then `write` that.

    They began at `began` and have reached the L2 at `done`: on the way there their sources are not needed.
    """
    state = bulk_groups(machine)
    groups = [state.open(warp, lane) for warp, lane in zip(warps.tolist(), lanes.tolist(), strict=True)]
    left = np.maximum(began, done - machine.units.target.chip["l2_latency"])
    for group, first, second in zip(groups, left.tolist(), done.tolist(), strict=True):
        group.read.add(first)
        group.written.add(second)

    def leave() -> None:
        _check_source(machine, machine.row_of_warp[warps])
        data = read()
        for group in groups:
            group.read.left -= 1
        machine.at(float(done.min()), lambda: arrive(data), who)

    def arrive(data: Array) -> None:
        write(data)
        for group in groups:
            group.written.left -= 1

    machine.at(float(left.min()), leave, who)


def _check_source(machine: Machine, rows: Array) -> None:
    """Raise where bulk stores read the shared memory of a CTA of `rows` that has exited."""
    dead = ~machine.shared.alive[rows]
    if dead.any():
        raise SimulationError(
            f"CTA {machine.cta_name(int(rows[dead][0]))} exits before a bulk store has read its shared "
            "memory: want a cp.async.bulk.wait_group.read"
        )


@effect("cp", "async", "bulk", "commit_group", flags="")
def commit_group(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any) -> None:
        state = bulk_groups(c.machine)
        for warp, active in zip(c.warps.tolist(), c.active(m), strict=True):
            for groups in state.groups(warp, active):
                groups.append(_Group())

    return run


class _GroupWait:
    """cp.async.bulk.wait_group N: all but the latest N groups have ended (.read: have read their source)."""

    def __init__(self, instruction: Instruction) -> None:
        self.reads = "read" in instruction.parts

    def begin(self, c: Cohort, allowed: int) -> tuple[Array, ...]:
        return np.full(len(c.warps), allowed), c.active(c.mask)

    def poll(self, c: Cohort, token: tuple[Array, ...]) -> tuple[Array, Array]:
        state = bulk_groups(c.machine)
        ready, clock = np.ones(len(c.warps), np.bool_), np.zeros(len(c.warps))
        for index, (warp, allowed, active) in enumerate(zip(c.warps.tolist(), *token, strict=True)):
            for groups in state.groups(warp, active):
                for group in groups[: max(0, len(groups) - 1 - int(allowed))]:
                    progress = group.read if self.reads else group.written
                    ready[index] &= progress.left == 0
                    clock[index] = max(clock[index], progress.done)
        return ready, clock

    def describe(self, c: Cohort, token: tuple[Array, ...], warp: int) -> str:
        return f"its bulk stores, all but the latest {int(token[0][warp])} groups"


@wait("cp", "async", "bulk", "wait_group", flags="read")
def group_wait(instruction: Instruction) -> Wait:
    return _GroupWait(instruction)

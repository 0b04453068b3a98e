"""Bulk groups: the bulk stores of a thread between two commits, and waiting for them.

PTX ISA, "cp.async.bulk.commit_group", "cp.async.bulk.wait_group".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cohort import Cohort
from harness.simulator.effects import Run, Wait, effect, wait
from harness.simulator.ptx import Instruction

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]


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

"""`cp.async`: copies of 4 to 16 bytes by each thread, in commit groups of its own.

PTX ISA, "Data movement and conversion instructions: cp.async, cp.async.commit_group, cp.async.wait_group,
cp.async.wait_all". A copy reaches shared memory with the wait: a read before that finds that nobody wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cohort import Cohort
from harness.simulator.copy_targets import check_target
from harness.simulator.effects import Run, effect
from harness.simulator.effects_bulk import each_lane
from harness.simulator.effects_memory import shared_place
from harness.simulator.errors import SimulationError
from harness.simulator.ptx import Instruction

Array = npt.NDArray[Any]


@dataclass
class CopyGroups:
    """The `cp.async` groups of each warp, oldest first, the last one open: the copies still to be done."""

    of_warp: dict[int, list[list[tuple[Any, ...]]]] = field(default_factory=dict)

    def groups(self, warp: int) -> list[list[tuple[Any, ...]]]:
        return self.of_warp.setdefault(warp, [[]])

    def check_exit(self, rows: Array) -> None:
        """Nothing: copies that nobody waits for reach nobody."""

    def check_finished(self) -> None:
        """Nothing, likewise."""


def copy_groups(c: Cohort) -> CopyGroups:
    state = c.machine.unit_state.setdefault("cp.async", CopyGroups())
    assert isinstance(state, CopyGroups)
    return state


@effect("cp", "async", flags="ca cg shared shared::cta global L2::*")
def thread_copy(instruction: Instruction) -> Run:
    """`cp.async [to], [from], size{, taken}`: 4, 8 or 16 bytes a lane, zeros behind the first `taken`."""

    def run(c: Cohort, m: Any, to: Any, source: Any, size: int, taken: Any = None, *hint: Any) -> None:
        machine = c.machine
        active = c.active(m)
        rows, offsets = (c.lanes(value) for value in shared_place(c, to, active))
        check_target(machine, rows[active], offsets[active], size, "cp.async")
        threads = machine.thread_of_lane[c.warps].astype(np.int64)
        count = size if taken is None else taken
        for warp, start, used, row, place, thread in each_lane(c, m, source, count, rows, offsets, threads):
            if start % size:
                raise SimulationError(f"cp.async of {size} bytes from {start:#x} is misaligned")
            data = np.zeros(size, np.uint8)
            if used:
                data[:used] = machine.memory_of(c.rows[warp]).array(start, used)
            copy_groups(c).groups(int(c.warps[warp]))[-1].append((row, place, thread, data))

    return run


@effect("cp", "async", "commit_group", flags="")
def thread_commit(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any) -> None:
        for warp in c.warps[c.active(m).any(1)]:
            copy_groups(c).groups(int(warp)).append([])

    return run


def _complete(c: Cohort, warp: int, groups: list[list[tuple[Any, ...]]]) -> None:
    shared = c.machine.shared
    if any(groups):
        c.clock[warp] += c.machine.units.target.chip["l2_latency"]
    for row, place, thread, data in (copy for group in groups for copy in group):
        shared.bytes[row, place : place + len(data)] = data
        words = row * (shared.size // 4) + place // 4 + np.arange(len(data) // 4)
        shared.mark(words, thread, c.step)


@effect("cp", "async", "wait_group", flags="")
def thread_wait(instruction: Instruction) -> Run:
    """Complete all but the latest `allowed` committed groups."""

    def run(c: Cohort, m: Any, allowed: int) -> None:
        for warp in np.flatnonzero(c.active(m).any(1)):
            groups = copy_groups(c).groups(int(c.warps[warp]))
            done = max(0, len(groups) - 1 - allowed)
            finished, groups[:done] = groups[:done], []
            _complete(c, int(warp), finished)

    return run


@effect("cp", "async", "wait_all", flags="")
def thread_wait_all(instruction: Instruction) -> Run:
    """Complete every group, the open one too."""

    def run(c: Cohort, m: Any) -> None:
        for warp in np.flatnonzero(c.active(m).any(1)):
            groups = copy_groups(c).groups(int(c.warps[warp]))
            finished, groups[:] = list(groups), [[]]
            _complete(c, int(warp), finished)

    return run

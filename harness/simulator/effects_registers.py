"""Registers that move between warpgroups: `setmaxnreg`.

PTX ISA, "Miscellaneous instructions: setmaxnreg": registers that `.dec` releases go to a pool of the CTA, and
`.inc` blocks until the pool has enough; all warps of a warpgroup execute the same setmaxnreg, and synchronize
before their next one. The pool has what the CTA was launched with and no warp holds, so it begins empty.
Warps that exit keep theirs: the ISA names no other way back than `.dec`.

Where nobody says with how many registers a kernel is launched (hand-written PTX), the pool is unknown: `.inc`
never blocks, and a CTA may ask for what an SM has.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.blame import warp_at_line
from harness.simulator.cohort import LANES, WARPGROUP, Cohort
from harness.simulator.effects import Run, Wait, effect, wait
from harness.simulator.errors import SimulationError
from harness.simulator.ptx import Instruction

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]
# 32-bit registers of an SM (CUDA C++ Programming Guide, "Compute Capabilities", the same for 9.0 and 10.x).
REGISTER_FILE = 64 * 1024
GRANULE = 8  # registers of a thread: a warp gets multiples of 256
LEAST, MOST = 24, 256


class RegisterPool:
    """The registers of all resident CTAs.

    Attributes:
        launched: of a CTA, all threads together; None: nobody says.
        held: of a thread, by warp; 0: as launched, which nobody says.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.held = machine.registers_per_thread
        self.launched: int | None = None
        if machine.kernel.registers is not None:
            self.held[:] = -(-machine.kernel.registers // GRANULE) * GRANULE
            self.launched = int(self.held[0]) * machine.threads
        by_warp = (machine.rows, machine.warps_per_cta)
        self._released = np.zeros(by_warp, np.int64)
        self._released_at = np.zeros(by_warp)  # cycles; of several releases of a warp the last
        self._taken = np.zeros(machine.rows, np.int64)
        self._turns = np.zeros(len(self.held), np.int64)  # by warp: setmaxnregs executed
        self._line = np.zeros(len(self.held), np.int64)  # by warp: of the last one

    def take_turn(self, instruction: Instruction, warps: Array) -> None:
        """Warps execute a setmaxnreg; raises where their warpgroups do not do so as one."""
        inside = self.machine.warp_in_cta[warps]
        whole = self.machine.warps_per_cta // WARPGROUP * WARPGROUP
        if (inside >= whole).any():
            rest = self.machine.warps_per_cta - whole
            raise SimulationError(f"setmaxnreg by a warpgroup of {rest} warps: want 4", inside >= whole)
        self._turns[warps] += 1
        self._line[warps] = instruction.line
        mates = (warps - inside % WARPGROUP)[:, None] + np.arange(WARPGROUP)
        turns, lines = self._turns[mates], self._line[mates]
        late = (turns < self._turns[warps][:, None] - 1).any(1)
        if late.any():
            raise SimulationError(
                "setmaxnreg again, before all warps of the warpgroup have executed the last one", late
            )
        other = (turns == self._turns[warps][:, None]) & (lines != instruction.line)
        if other.any():
            raise SimulationError(
                f"setmaxnreg by a warp whose warpgroup executes that of PTX line {int(lines[other][0])}",
                other.any(1),
            )

    def release(self, warps: Array, count: int, times: Array) -> None:
        """Warps keep `count` registers a thread, and give the others to the pool of their CTA."""
        if self.launched is not None:
            rows, inside = self.machine.row_of_warp[warps], self.machine.warp_in_cta[warps]
            self._released[rows, inside] += (self.held[warps] - count) * LANES
            self._released_at[rows, inside] = np.maximum(self._released_at[rows, inside], times)
        self.held[warps] = count
        if self.launched is None:
            self._check_file(warps)

    def _check_file(self, warps: Array) -> None:
        of_row = np.zeros(self.machine.rows, np.int64)
        np.add.at(of_row, self.machine.row_of_warp, self.held * LANES)
        total = of_row[self.machine.row_of_warp[warps]]
        if (total > REGISTER_FILE).any():
            raise SimulationError(
                f"setmaxnreg: the CTA's warps ask for {int(total.max())} registers, "
                f"an SM has {REGISTER_FILE}",
                total > REGISTER_FILE,
            )

    def take(self, warps: Array, counts: Array) -> tuple[Array, Array]:
        """Give warps `counts` [n] registers a thread where the pools have them, those that lack least first.

        (bool [n] who got them, since when they were free [n]).
        """
        if self.launched is None:
            self.held[warps] = counts
            self._check_file(warps)
            return np.ones(len(warps), np.bool_), np.zeros(len(warps))
        rows = self.machine.row_of_warp[warps]
        more = (counts - self.held[warps]) * LANES
        needed = self._taken[rows] + _sums_before(rows, more) + more
        first = np.argsort(self._released_at, 1, kind="stable")
        free = np.cumsum(np.take_along_axis(self._released, first, 1), 1)
        got = needed <= free[rows, -1]
        last = np.take_along_axis(first[rows], np.argmax(free[rows] >= needed[:, None], 1)[:, None], 1)
        np.add.at(self._taken, rows[got], more[got])
        self.held[warps[got]] = counts[got]
        return got, np.where(more > 0, self._released_at[rows, last[:, 0]], 0.0)

    def free(self, row: int) -> int:
        return int(self._released[row].sum() - self._taken[row])

    def check_exit(self, rows: Array) -> None:
        """CTAs exit: the warps of each warpgroup have executed the same setmaxnregs."""
        whole = self.machine.warps_per_cta // WARPGROUP * WARPGROUP
        turns = self._turns.reshape(self.machine.rows, -1)[rows, :whole].reshape(-1, WARPGROUP)
        wrong = turns != turns[:, :1]
        if not wrong.any():
            return
        group = int(np.argmax(wrong.any(1)))
        row = int(rows[group // (whole // WARPGROUP)])
        first = group % (whole // WARPGROUP) * WARPGROUP
        most, least = first + int(np.argmax(turns[group])), first + int(np.argmin(turns[group]))
        warp = row * self.machine.warps_per_cta + most
        raise SimulationError(
            f"{warp_at_line(self.machine, warp, int(self._line[warp]))}: "
            f"warp {least} of its warpgroup exits without executing it"
        )

    def check_finished(self) -> None:
        """Every CTA has been checked when it exited."""


def _sums_before(rows: Array, amounts: Array) -> Array:
    """For each of `amounts` [n], the sum of the smaller ones, and of equal ones before it, in its row."""
    order = np.lexsort((amounts, rows))
    sums = np.cumsum(amounts[order]) - amounts[order]
    _, first, place = np.unique(rows[order], return_index=True, return_inverse=True)
    before = np.empty_like(amounts)
    before[order] = sums - sums[first][place]
    return before


def register_pool(machine: Machine) -> RegisterPool:
    """The machine's registers, made at the first use."""
    pool = machine.unit_state.get("registers")
    if pool is None:
        pool = machine.unit_state["registers"] = RegisterPool(weakref.proxy(machine))
    assert isinstance(pool, RegisterPool)
    return pool


def _executing(instruction: Instruction, c: Cohort, m: Any, count: int) -> tuple[RegisterPool, Array]:
    """The registers, and the warps of the cohort (bool [W]) that execute a valid setmaxnreg."""
    if count % GRANULE or not LEAST <= count <= MOST:
        raise SimulationError(f"setmaxnreg {count}: a multiple of {GRANULE} from {LEAST} to {MOST}")
    here = c.whole_warps(m, "setmaxnreg")
    warps = c.warps[here]
    pool = register_pool(c.machine)
    held = pool.held[warps]
    wrong = (held > count) if "inc" in instruction.parts else (held < count)
    wrong &= held > 0
    if wrong.any():
        raise SimulationError(f"setmaxnreg to {count} by a warp that has {held[wrong][0]} registers", wrong)
    pool.take_turn(instruction, warps)
    return pool, here


@effect("setmaxnreg", "dec", flags="sync aligned")
def release_registers(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any, count: int) -> None:
        pool, here = _executing(instruction, c, m, count)
        pool.release(c.warps[here], count, c.clock[here])

    return run


class _Increase:
    """setmaxnreg.inc: blocks until the CTA's pool has what the warp wants."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction

    def begin(self, c: Cohort, count: int) -> tuple[Array, ...]:
        """(the registers that each warp wants; since when it has them, -1 before)."""
        _, here = _executing(self.instruction, c, c.mask, count)
        return np.full(len(here), count), np.where(here, -1.0, 0.0)

    def poll(self, c: Cohort, token: tuple[Array, ...]) -> tuple[Array, Array]:
        counts, since = token
        waiting = np.flatnonzero(since < 0)
        got, times = register_pool(c.machine).take(c.warps[waiting], counts[waiting])
        since[waiting[got]] = times[got]
        target, opcode = c.machine.units.target, self.instruction.opcode
        cycles = target.issue_of(opcode) + target.stall_of(opcode)
        return since >= 0, np.maximum(c.clock, since) + cycles

    def describe(self, c: Cohort, token: tuple[Array, ...], warp: int) -> str:
        pool = register_pool(c.machine)
        more = int(token[0][warp] - pool.held[c.warps[warp]]) * LANES
        return (
            f"{more} registers of its CTA's pool, launched with {pool.launched}, "
            f"of which {pool.free(int(c.rows[warp]))} are free"
        )


@wait("setmaxnreg", "inc", flags="sync aligned")
def request_registers(instruction: Instruction) -> Wait:
    return _Increase(instruction)

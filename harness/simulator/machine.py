"""The machine: CTAs resident at the same time, their memories and barriers, and the loop that runs them.

It advances whichever cohort can go on with all of its warps; when none can, it lets the asynchronous units
finish what is due first; when nothing is in flight, it lets the warps of a cohort that are ready go on alone. A
warp's clock and an asynchronous operation's end are times of their own, so this order changes no result of a
properly synchronized kernel; it only keeps the cohorts large.

Errors come out as `SimulationError` naming the instruction, its PTX line and the kernel; `Deadlock` names what
every waiting warp waits for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from harness.simulator import effects_all  # noqa: F401 - registers every effect
from harness.simulator.barriers import ClusterBarriers, MBarriers, NamedBarriers
from harness.simulator.cohort import LANES, Cohort, Frame
from harness.simulator.errors import Deadlock, NotSimulatedError, SimulationError
from harness.simulator.global_memory import GlobalMemory
from harness.simulator.launch import Launch
from harness.simulator.loaded import LoadedKernel
from harness.simulator.machine_constants import PARAM_BASE
from harness.simulator.ordering import Ordering
from harness.simulator.program import EXIT, Branch, Exit, Jump, Wait
from harness.simulator.ptx import Symbol
from harness.simulator.shared import RANK_SHIFT, SharedMemory
from harness.simulator.specials import special_registers
from harness.simulator.timing import Units

Array = npt.NDArray[Any]
MAX_BLOCKS = 20_000_000


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


class Machine:
    """`clusters` of one launch, resident together.

    Attributes:
        rows: CTAs; row r belongs to cluster r // cluster_size and has rank r % cluster_size in it.
        functional: False skips the arithmetic of asynchronous copies and tensor cores: only times matter.
    """

    def __init__(
        self,
        kernel: LoadedKernel,
        launch: Launch,
        memory: GlobalMemory,
        clusters: Array,
        units: Units,
        functional: bool = True,
    ) -> None:
        self.kernel, self.launch, self.memory, self.units = kernel, launch, memory, units
        self.functional = functional
        self.clusters = clusters
        self.cluster_size = launch.cluster_size
        self.rows = len(clusters) * self.cluster_size
        self.threads = launch.threads
        warps_per_cta = -(-self.threads // LANES)
        if self.threads % LANES:
            raise SimulationError(f"a block of {self.threads} threads: want a multiple of {LANES}")
        count = self.rows * warps_per_cta
        self.row_of_warp = np.repeat(np.arange(self.rows), warps_per_cta)
        self.warp_in_cta = np.tile(np.arange(warps_per_cta), self.rows)
        self.warps_per_cta = warps_per_cta
        # A CTA's thread number of each lane [warps, 32].
        self.thread_of_lane = (self.warp_in_cta[:, None] * LANES + np.arange(LANES)).astype(np.uint16)
        self.registers_per_thread = np.zeros(count, np.int64)  # since the last setmaxnreg; 0: as launched
        self.parameters = kernel.parameter_bytes(launch)
        self.sm_of_row = units.place(self.rows, self.cluster_size)
        self.scheduler_of_warp = self.sm_of_row[self.row_of_warp] * 4 + self.warp_in_cta % 4
        self.cluster_of_row = np.arange(self.rows) // self.cluster_size
        self.rank_of_row = np.arange(self.rows) % self.cluster_size
        self.first_row_of_cluster = np.arange(self.rows) - self.rank_of_row
        self.shared = SharedMemory(self.rows, kernel.shared_bytes(launch), self.threads)
        self.mbarriers = MBarriers(self.rows, self.shared.size)
        self.named = NamedBarriers(self.rows)
        self.cluster_barriers = ClusterBarriers(len(clusters), count, warps_per_cta * self.cluster_size)
        # What is ordered before what matters for tensor memory only.
        self.ordering = (
            Ordering(count, warps_per_cta * self.cluster_size)
            if functional and kernel.uses_tensor_memory
            else None
        )
        self.live_warps = np.full(self.rows, warps_per_cta)
        self.step = 1
        self.unit_state: dict[str, Any] = {}  # what kinds of units keep for the whole machine (tensor memory)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._specials = special_registers(self)
        self._finished = np.zeros(count)
        start = np.repeat(units.start_of(self.sm_of_row), warps_per_cta)
        registers: list[Any] = [None] * len(kernel.code.registers)
        self._parked: list[Cohort] = []
        self._runnable = [Cohort(self, np.arange(count), registers, 0, start.astype(np.float64))]

    # What cohorts and effects ask for.

    def special(self, name: str) -> Any:
        value = self._specials.get(name)
        if value is None:
            raise NotSimulatedError(f"special register {name} is not known")
        return value

    def symbol_address(self, symbol: Symbol) -> Any:
        offset = self.kernel.shared_offsets.get(symbol.name)
        if offset is not None:
            base = np.uint32(offset + symbol.offset)
            if self.cluster_size == 1:
                return base
            return (self.rank_of_row.astype(np.uint32) << np.uint32(RANK_SHIFT)) + base
        parameter = self.kernel.param_offsets.get(symbol.name)
        if parameter is None:
            raise SimulationError(f"no parameter or shared variable is called {symbol.name}")
        return np.uint64(PARAM_BASE + parameter + symbol.offset)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do `action` when everything before `time` (cycles) has happened."""
        heapq.heappush(self._events, (float(time), self._order, action))
        self._order += 1

    def note_barrier(self, c: Cohort, ready: Array, kind: str, keys: Array, phases: Array) -> None:
        """Warps of a cohort have passed barriers, `keys` of a kind, now in `phases` (each [W]).

        What others wrote before it, a fence of theirs now covers; what others know to be over, so do they.
        """
        np.maximum.at(self.shared.barrier_at, c.rows[ready], np.uint64(self.step))
        if self.ordering is not None and ready.any():
            self.ordering.passed(kind, c.warps[ready], keys[ready], phases[ready])

    # The loop.

    def run(self) -> Array:
        """Run every CTA to its end; the clock of each row's end [rows], in cycles."""
        # Many small products: threads would only wait for each other.
        with np.errstate(all="ignore"), _blas().limit(limits=1, user_api="blas"):
            while self._runnable or self._parked or self._events:
                cohort = self._next()
                if cohort is not None:
                    self._advance(cohort)
        self.mbarriers.check_drained(np.arange(self.rows))
        for state in self.unit_state.values():
            state.check_finished()
        return self._finished.reshape(self.rows, self.warps_per_cta).max(1)

    def _next(self) -> Cohort | None:
        if self._runnable:
            return self._runnable.pop()
        best: tuple[int, Array, Array] | None = None
        for index, cohort in enumerate(self._parked):
            ready, clock = self._poll(cohort)
            if ready.all():
                del self._parked[index]
                self._resume(cohort, clock)
                return cohort
            if best is None and ready.any():
                best = (index, ready, clock)
        if self._events:
            _, _, action = heapq.heappop(self._events)
            action()
            return None
        if best is None:
            if not self._parked:
                return None
            raise Deadlock(self._deadlock())
        index, ready, clock = best
        cohort = self._parked[index]
        live = self.kernel.live[self._wait_target(cohort)] if not cohort.stack else None
        first, self._parked[index] = cohort.part(ready, live), cohort.part(~ready, live)
        self._resume(first, clock[ready])
        return first

    def _wait_target(self, cohort: Cohort) -> int:
        end = self.kernel.program.blocks[cohort.block].end
        assert isinstance(end, Wait)
        return end.target

    def _poll(self, cohort: Cohort) -> tuple[Array, Array]:
        wait, _ = self.kernel.code.wait_operands(cohort.block)
        assert cohort.token is not None
        result: tuple[Array, Array] = wait.poll(cohort, cohort.token)
        return result

    def _resume(self, cohort: Cohort, clock: Array) -> None:
        cohort.clock = np.maximum(cohort.clock, clock)
        cohort.token = None
        self._go(cohort, self._wait_target(cohort))

    def _park(self, cohort: Cohort) -> None:
        if not cohort.stack:
            for index, other in enumerate(self._parked):
                if other.block == cohort.block and not other.stack:
                    live = self.kernel.live[self._wait_target(cohort)]
                    self._parked[index] = other.join(cohort, live)
                    return
        self._parked.append(cohort)

    def _advance(self, cohort: Cohort) -> None:
        """Run a cohort until it waits, exits or falls apart."""
        kernel = self.kernel
        blocks, code = kernel.program.blocks, kernel.code
        while True:
            if cohort.block == EXIT:
                self._exit(cohort)
                return
            self.step += 1
            if self.step > MAX_BLOCKS:
                raise SimulationError(f"{MAX_BLOCKS} blocks executed: the kernel does not seem to end")
            index = cohort.block
            self.units.issue(cohort, kernel.costs[index])
            try:
                mask = cohort.mask
                code.function(index, mask is not None)(cohort.registers, cohort, mask)
                end = blocks[index].end
                if isinstance(end, Wait):
                    wait, operands = code.wait_operands(index)
                    cohort.token = wait.begin(cohort, *operands(cohort.registers, cohort, mask))
                    ready, clock = wait.poll(cohort, cohort.token)
                    if not ready.all():
                        self._park(cohort)
                        return
                    self._resume(cohort, clock)
                    continue
            except SimulationError as error:
                raise error.located(self._place(index, error)) from error
            except Exception as error:
                place = self._place(index, error)
                raise SimulationError(f"{place}: {type(error).__name__}: {error}") from error
            if isinstance(end, Jump):
                self._go(cohort, end.target)
            elif isinstance(end, Exit):
                if not self._leave(cohort):
                    return
            else:
                assert isinstance(end, Branch)
                if not self._branch(cohort, end):
                    return

    def _branch(self, cohort: Cohort, end: Branch) -> bool:
        """Follow a branch; False when the cohort fell apart and its parts are queued."""
        register, negated = self.kernel.code.guard_index(end.guard)
        condition = cohort.registers[register]
        if np.ndim(condition) == 0 and condition is not None:
            self._go(cohort, end.taken if bool(condition) != negated else end.fall)
            return True
        taken = np.logical_not(condition) if negated else condition
        taken = cohort.lanes(taken)
        fallen = ~taken
        if cohort.mask is not None:
            taken, fallen = taken & cohort.mask, fallen & cohort.mask
        goes, stays = taken.any(1), fallen.any(1)
        if not stays.any() or not goes.any():
            self._go(cohort, end.taken if goes.any() else end.fall)
            return True
        if self.kernel.program.maskable[cohort.block]:
            self._diverge(cohort, end, taken, fallen)
            return True
        for chosen, target in ((goes & ~stays, end.taken), (stays & ~goes, end.fall), (goes & stays, None)):
            if not chosen.any():
                continue
            whole = chosen.all()
            live = None if cohort.stack or target is None else self.kernel.live[target]
            part = cohort if whole else cohort.part(chosen, live)
            if target is None:
                self._diverge(part, end, taken[chosen], fallen[chosen])
            else:
                self._go(part, target)
            self._runnable.append(part)
        return False

    def _diverge(self, cohort: Cohort, end: Branch, taken: Array, fallen: Array) -> None:
        meet = self.kernel.program.reconvergence(cohort.block)
        sides = [(end.taken, taken), (end.fall, fallen)]
        away = [(block, mask) for block, mask in sides if block != meet]
        everybody = cohort.active(cohort.mask)
        if not (cohort.stack and cohort.stack[-1].reconvergence == meet and len(away) == 1):
            cohort.stack.append(Frame(meet, everybody.copy()))
        cohort.stack[-1].pending += away
        block, cohort.mask = cohort.stack[-1].pending.pop()
        cohort.block = block

    def _go(self, cohort: Cohort, target: int) -> None:
        """Stand at `target`, or wherever lanes that wait there for others have to go first."""
        while cohort.stack and cohort.stack[-1].reconvergence == target:
            frame = cohort.stack[-1]
            if frame.pending:
                target, cohort.mask = frame.pending.pop()
                break
            cohort.stack.pop()
            cohort.mask = frame.mask if cohort.stack else None
            if cohort.mask is not None and not cohort.mask.any():
                continue
        cohort.block = target

    def _leave(self, cohort: Cohort) -> bool:
        """The active lanes are done; True when other lanes of the cohort go on."""
        if cohort.stack:
            self._go(cohort, EXIT)
            if cohort.block != EXIT:
                return True
        self._exit(cohort)
        return False

    def _exit(self, cohort: Cohort) -> None:
        self._finished[cohort.warps] = cohort.clock
        np.subtract.at(self.live_warps, cohort.rows, 1)
        self.cluster_barriers.leave(self.cluster_of_row[cohort.rows])
        gone = np.unique(cohort.rows[self.live_warps[cohort.rows] == 0])
        for state in self.unit_state.values():
            state.check_exit(gone)
        self.shared.alive[gone] = False

    # What to say when it goes wrong.

    def _place(self, block: int, error: BaseException) -> str:
        instruction = self.kernel.code.instruction_at(block, error)
        end = self.kernel.program.blocks[block].end
        if instruction is None and isinstance(end, Wait):
            instruction = end.instruction
        if instruction is None:
            return f"block {self.kernel.program.blocks[block].label}"
        return f"PTX line {instruction.line}: `{instruction.text}`"

    def _deadlock(self) -> str:
        told: list[str] = []
        for cohort in self._parked:
            wait, _ = self.kernel.code.wait_operands(cohort.block)
            end = self.kernel.program.blocks[cohort.block].end
            assert isinstance(end, Wait)
            assert cohort.token is not None
            warp = int(cohort.warps[0])
            others = f" (and {len(cohort.warps) - 1} more warps)" if len(cohort.warps) > 1 else ""
            told.append(
                f"warp {self.warp_in_cta[warp]} of CTA {self.cta_name(int(cohort.rows[0]))}{others} at PTX line "
                f"{end.instruction.line}: `{end.instruction.text}` waits for {wait.describe(cohort, cohort.token, 0)}"
            )
        return "deadlock: " + "; ".join(told)

    def cta_name(self, row: int) -> str:
        """A CTA's coordinates in the grid."""
        return str(
            tuple(int(self._specials[f"%ctaid.{axis}"][row * self.warps_per_cta, 0]) for axis in "xyz")
        )

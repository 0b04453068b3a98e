"""The machine: CTAs resident at the same time, their memories and barriers, and the loop that runs them.

It advances whichever cohort can go on with all of its warps; when none can, it lets the asynchronous units
finish what is due first; when nothing is in flight, it lets the warps of a cohort that are ready go on alone.
A warp's clock and an asynchronous operation's end are times of their own, so this order changes no result of
a properly synchronized kernel; it only keeps the cohorts large.

Errors come out as `SimulationError` naming the instruction, its PTX line and the kernel; `Deadlock` names
what every waiting warp waits for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from harness.simulator import effects_all  # noqa: F401 - registers every effect
from harness.simulator.absent import UNWRITTEN, Absent
from harness.simulator.allocator import keep_freed_memory
from harness.simulator.barriers import ClusterBarriers, MBarriers, NamedBarriers
from harness.simulator.blame import deadlock, place, remote_access, warp_at_line, warp_name
from harness.simulator.c_loops import load_loops
from harness.simulator.cohort import LANES, Cohort, Frame, some_lane
from harness.simulator.errors import Deadlock, EndlessError, NotSimulatedError, SimulationError
from harness.simulator.gathering import Gathering
from harness.simulator.global_memory import GlobalMemory
from harness.simulator.grids import Grids
from harness.simulator.loaded import LoadedKernel
from harness.simulator.local_memory import LocalMemory
from harness.simulator.machine_constants import LOCAL_BASE
from harness.simulator.operand_reads import OperandReads
from harness.simulator.ordering import Ordering
from harness.simulator.program import EXIT, Branch, Exit, Jump, Wait
from harness.simulator.ptx import Symbol
from harness.simulator.shared import MAX_STEPS, RANK_SHIFT, SharedMemory
from harness.simulator.shared_races import SharedRaces
from harness.simulator.specials import CtaNames, special_registers
from harness.simulator.tensors_used import Tensor
from harness.simulator.thread_order import ThreadOrder
from harness.simulator.tile_loads import TileLoads
from harness.simulator.timing import Units

Array = npt.NDArray[Any]
# Blocks that the cohorts of one machine may run: a router's largest launch takes some ten thousand.
MAX_BLOCKS = 1_000_000
SCHEDULERS = 4  # of an SM


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


class Machine:
    """`clusters` of the grids, resident together.

    Its memories take hundreds of megabytes, so it ends with its last use: its parts refer back to it weakly,
    if at all. In cycles, machines lived until some count of objects asked for a collection, and a process
    that checked a Blackwell config again and again grew by 330 MB a check.

    Attributes:
        rows: CTAs; row r belongs to cluster r // cluster_size and has rank r % cluster_size in it.
        functional: False skips the arithmetic of asynchronous copies and tensor cores: only times matter.
        max_blocks: blocks that all cohorts together may run: an endless loop ends there, as an error.
        apart: as many warps, neighbours, at most in one cohort; None, everywhere but in tests: no limit.
        races: look for races in shared memory.
        implied_order: barriers order accesses to tensor memory without a tcgen05.fence (`Ordering`).
    """

    def __init__(
        self,
        kernel: LoadedKernel,
        grids: Grids,
        clusters: Array,
        units: Units,
        functional: bool = True,
        max_blocks: int = MAX_BLOCKS,
        apart: int | None = None,
        races: bool = False,
        implied_order: bool = False,
    ) -> None:
        if max_blocks > MAX_STEPS:
            raise ValueError(f"{max_blocks} blocks: shared memory tells {MAX_STEPS} steps apart")
        self.kernel, self.grids, self.units = kernel, grids, units
        launch = grids.one
        self.functional = functional
        self.max_blocks, self.apart = max_blocks, apart
        self.clusters = clusters
        self.cluster_size = launch.cluster_size
        self.rows = len(clusters) * self.cluster_size
        self.threads = launch.threads
        warps_per_cta = -(-self.threads // LANES)
        if self.threads % LANES:
            raise NotSimulatedError(f"a block of {self.threads} threads: want a multiple of {LANES}")
        count = self.rows * warps_per_cta
        self.row_of_warp = np.repeat(np.arange(self.rows), warps_per_cta)
        self.warp_in_cta = np.tile(np.arange(warps_per_cta), self.rows)
        self.warps_per_cta = warps_per_cta
        # A CTA's thread number of each lane [warps, 32].
        self.thread_of_lane = (self.warp_in_cta[:, None] * LANES + np.arange(LANES)).astype(np.uint16)
        self.registers_per_thread = np.zeros(count, np.int64)  # since the last setmaxnreg; 0: as launched
        self.sm_of_row = units.place(self.rows, self.cluster_size)
        self.scheduler_of_warp = self.sm_of_row[self.row_of_warp] * SCHEDULERS + self.warp_in_cta % SCHEDULERS
        self.cluster_of_row = np.arange(self.rows) // self.cluster_size
        self.launch_of_row = grids.launch_of(clusters)[self.cluster_of_row]
        self.rank_of_row = np.arange(self.rows) % self.cluster_size
        self.first_row_of_cluster = np.arange(self.rows) - self.rank_of_row
        self._specials = special_registers(self)
        self.cta_name = CtaNames.of(self)
        self.local = LocalMemory(count, kernel.local_bytes)
        self.shared = SharedMemory(self.rows, kernel.shared_bytes(launch), self.threads)
        self.operand_reads = OperandReads(self.rows, warps_per_cta, self.shared.size)
        self.mbarriers = MBarriers(self.rows, self.shared.size, self.cta_name, self.shared.alive)
        self.named = NamedBarriers(self.rows)
        self.cluster_barriers = ClusterBarriers(len(clusters), count, warps_per_cta * self.cluster_size)
        # What is ordered before what matters for tensor memory only.
        self.ordering = (
            Ordering(count, warps_per_cta * self.cluster_size, implied_order)
            if functional and kernel.uses_tensor_memory
            else None
        )
        self.thread_order = (
            ThreadOrder(
                count,
                warps_per_cta * self.cluster_size,
                warps_per_cta,
                self.mbarriers.name,
                scoped=races and self.cluster_size > 1,
                within=races,
            )
            if functional and (self.cluster_size > 1 or races)
            else None
        )
        self.races: SharedRaces | None = None
        if races and self.thread_order is not None:
            self.races = SharedRaces(self.thread_order, self.rows, self.shared.size // 4)
        self.live_warps = np.full(self.rows, warps_per_cta)
        self.step = 1
        self.unit_state: dict[str, Any] = {}  # what kinds of units keep for the whole machine (tensor memory)
        # What `tensors_used` has found in parameters.
        self.tensors_used: dict[tuple[bytes, bytes, int | None], list[list[Tensor]]] = {}
        self.tile_loads = TileLoads()
        load_loops()
        self._events: list[tuple[float, int, Callable[[], None], Callable[[], str] | None]] = []
        self._order = 0
        self._finished = np.zeros(count)
        start = np.repeat(units.start_of(self.sm_of_row), warps_per_cta).astype(np.float64)
        registers = [kernel.padding.get(index, UNWRITTEN) for index in range(len(kernel.code.registers))]
        self._parked: list[Cohort] = []
        self._gathering = Gathering()
        size = apart or count
        self._runnable = [
            Cohort(
                self,
                np.arange(first, min(first + size, count)),
                list(registers),
                0,
                start[first : first + size],
            )
            for first in range(0, count, size)
        ]

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
            local = self.kernel.local_offsets.get(symbol.name)
            if local is not None:
                return np.uint64(LOCAL_BASE + local + symbol.offset)
            raise SimulationError(f"no parameter or variable is called {symbol.name}")
        return self.grids.parameter_address(parameter + symbol.offset, self.launch_of_row)

    def at(self, time: float, action: Callable[[], None], origin: Callable[[], str] | None = None) -> None:
        """Do `action` when everything before `time` (cycles) has happened; `origin` says whose errors are."""
        heapq.heappush(self._events, (float(time), self._order, action, origin))
        self._order += 1

    def _happen(self) -> None:
        """Do what is due first."""
        _, _, action, origin = heapq.heappop(self._events)
        try:
            action()
        except SimulationError as error:
            raise error.located(origin() if origin is not None else "an asynchronous operation") from error

    def memory_of(self, row: int) -> GlobalMemory:
        """What the CTA `row` sees of global memory."""
        return self.grids.memories[int(self.launch_of_row[row])]

    def check_store(self, rows: Array, offsets: Array, size: int) -> None:
        """Raise where an ordinary store of `size` bytes touches what belongs to the machine."""
        held = self.mbarriers.holds(rows, offsets, size)
        if held.any():
            raise SimulationError(
                f"store over the mbarrier at {int(offsets[held].flat[0]):#x}: mbarrier.inval comes first",
                held,
            )
        self.operand_reads.check_write(rows, offsets, size, "a store")

    def check_initialized(self, warps: Array, keys: Array) -> None:
        """Raise unless `warps` [n] know that the mbarriers `keys` [n], which they use, are initialized."""
        if self.thread_order is not None:
            self.thread_order.inits.check(warps, keys)

    def note_barrier(
        self, c: Cohort, ready: Array, kind: str, keys: Array, phases: Array, acquire: bool = False
    ) -> None:
        """Warps of a cohort have passed barriers, `keys` of a kind, now in `phases` (each [W]).

        What others wrote before it, a fence of theirs now covers; what others know to be over, so do they.
        `acquire`: the wait is one of cluster scope.
        """
        self.shared.barrier_at[c.rows[ready]] = self.step
        if ready.any():
            self.note_passed(kind, c.warps[ready], keys[ready], phases[ready], acquire)

    def note_passed(self, kind: str, warps: Array, keys: Array, phases: Array, acquire: bool = False) -> None:
        """Warps have seen the phases before `phases` complete: they learn what arrived in those."""
        if self.ordering is not None:
            self.ordering.passed(kind, warps, keys, phases)
        if self.thread_order is not None:
            self.thread_order.passed(kind, warps, keys, phases, acquire)

    def note_arrival(
        self,
        kind: str,
        warps: Array,
        keys: Array,
        phases: Array,
        away: Array | None = None,
        release: bool = False,
    ) -> None:
        """Warps arrive on barriers `keys` of a kind, now in `phases`, with all that they know.

        `away` [n]: on another CTA's (None: nobody does); `release`: at cluster scope.
        """
        if self.ordering is not None:
            self.ordering.arrive(kind, warps, keys, phases)
        if self.thread_order is not None:
            away = np.zeros(len(warps), np.bool_) if away is None else away
            self.thread_order.arrive(kind, warps, keys, phases, away, release)

    # The loop.

    def run(self) -> Array:
        """Run every CTA to its end; the clock of each row's end [rows], in cycles."""
        keep_freed_memory()
        # Many small products: threads would only wait for each other.
        with np.errstate(all="ignore"), _blas().limit(limits=1, user_api="blas"):
            while self._runnable or self._parked or self._events or self._gathering:
                cohort = self._next()
                if cohort is not None:
                    self._advance(cohort)
        self.mbarriers.check_drained(np.arange(self.rows), partial(warp_at_line, self))
        for state in self.unit_state.values():
            state.check_finished()
        ends: Array = self._finished.reshape(self.rows, self.warps_per_cta).max(1)
        return ends

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
            self._happen()
            return None
        if best is None:
            if not self._parked and not self._gathering:
                return None
            raise Deadlock(deadlock(self, self._parked, self._gathering.describe(self)))
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
                if other.block == cohort.block and not other.stack and self._may_join(other, cohort):
                    live = self.kernel.live[self._wait_target(cohort)]
                    self._parked[index] = other.join(cohort, live)
                    return
        self._parked.append(cohort)

    def _may_join(self, one: Cohort, other: Cohort) -> bool:
        return self.apart is None or one.warps[0] // self.apart == other.warps[0] // self.apart

    def _advance(self, cohort: Cohort) -> None:
        """Run a cohort until it waits, exits or falls apart."""
        kernel = self.kernel
        blocks, code = kernel.program.blocks, kernel.code
        while True:
            if cohort.block == EXIT:
                self._exit(cohort)
                return
            index = cohort.block
            if kernel.program.gathers[index] and not (cohort.of_whole_warpgroups or cohort.stack):
                gathered = self._gathering.arrive(cohort, kernel.live[index])
                if gathered is None:
                    return
                cohort = gathered
            self.step += 1
            if self.step > self.max_blocks:
                raise EndlessError(self._endless(cohort))
            self.units.issue(cohort, kernel.costs[index])
            if self.thread_order is not None:
                self.thread_order.block = index
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
                raise error.located(place(self, cohort, index, error)) from error
            except Exception as error:
                where = place(self, cohort, index, error)
                raise SimulationError(f"{where}: {type(error).__name__}: {error}") from error
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
        if np.ndim(condition) == 0 and not isinstance(condition, Absent):
            self._go(cohort, end.taken if bool(condition) != negated else end.fall)
            return True
        taken = np.logical_not(condition) if negated else condition
        taken = cohort.lanes(taken)
        fallen = ~taken
        if cohort.mask is not None:
            taken, fallen = taken & cohort.mask, fallen & cohort.mask
        goes, stays = some_lane(taken), some_lane(fallen)
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
        rows = np.unique(cohort.rows)
        self.named.leave(rows, self.live_warps[rows] * LANES)
        gone = rows[self.live_warps[rows] == 0]
        for state in self.unit_state.values():
            state.check_exit(gone)
        if self.thread_order is not None and len(gone):
            try:
                self.thread_order.check_exit(gone, partial(remote_access, self))
            except SimulationError as error:
                raise error.located(f"CTA {self.cta_name(int(gone[error.wrong][0]))}") from None
        self.shared.alive[gone] = False

    def _endless(self, cohort: Cohort) -> str:
        name = warp_name(self, cohort, 0)
        block = self.kernel.program.blocks[cohort.block]
        line = f"PTX line {block.instructions[0].line}" if block.instructions else f"block {block.label}"
        return (
            f"{self.max_blocks} blocks executed, the limit, and the kernel has not ended: "
            f"{name} (and {len(cohort.warps) - 1} more warps) at {line} seems to loop for ever"
        )

"""A cohort: warps that stand at the same place of the program, executed together.

A register is a numpy array of raw bits for all lanes [W, 32], for whole warps [W, 1], or one scalar for all:
the cheapest shape that tells the truth. Lanes of a warp that diverge are masked, and meet again at the
branch's reconvergence (a stack of `Frame`s, as in GPUs before Volta); warps that diverge from each other
become cohorts of their own wherever one might wait for the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.absent import UNWRITTEN, Absent
from harness.simulator.errors import SimulationError
from harness.simulator.program import EXIT
from harness.simulator.ptx import Symbol

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]
LANES = 32
WARPGROUP = 4  # warps, the first a multiple of 4 in its CTA
# Special registers that read the warp's clock: in cycles, and in nanoseconds.
_TIMERS: dict[str, Any] = {
    "%clock": np.uint32,
    "%clock64": np.uint64,
    "%globaltimer": np.uint64,
    "%globaltimer_lo": np.uint32,
}


def some_lane(mask: Array) -> Array:
    """`mask.any(1)` of bool [W, 32], as words: numpy's own takes 15 times as long."""
    words = np.ascontiguousarray(mask).view(np.uint64)
    some: Array = (words[:, 0] | words[:, 1] | words[:, 2] | words[:, 3]) != 0
    return some


@dataclass
class Frame:
    """Lanes of `mask` meet at block `reconvergence`, once `pending` (block, mask) have been run."""

    reconvergence: int
    mask: Array
    pending: list[tuple[int, Array]] = field(default_factory=list)


class Cohort:
    """`warps` are numbers in the machine; `clock` is each warp's own time in cycles,
    `began` that at which it began its block."""

    def __init__(
        self, machine: Machine, warps: Array, registers: list[Any], block: int, clock: Array
    ) -> None:
        self.machine = machine
        self.warps = warps
        self.rows = machine.row_of_warp[warps]
        self.registers = registers
        self.block = block
        self.clock = self.began = clock
        self.mask: Array | None = None
        self.stack: list[Frame] = []
        self.token: tuple[Array, ...] | None = None
        self.units: dict[str, Any] = {}  # what units keep per cohort (wgmma's accumulators)
        self._specials: dict[str, Any] = {}
        # Warps of this cohort that share each one's scheduler: they take turns in issuing.
        _, self._scheduler = np.unique(machine.scheduler_of_warp[warps], return_inverse=True)
        self.sharing: Array = np.bincount(self._scheduler)[self._scheduler]

    @property
    def step(self) -> int:
        return self.machine.step

    @property
    def launches(self) -> Array:
        """The number of each warp's launch, int [W, 1]."""
        numbers: Array = self.machine.launch_of_row[self.rows][:, None]
        return numbers

    def shared_by(self, warps: Array) -> Array:
        """`sharing` where only `warps`, bool [W], issue."""
        sharing: Array = np.bincount(self._scheduler, weights=warps)[self._scheduler]
        return sharing

    def active(self, mask: Any) -> Array:
        """`mask` as bool [W, 32]; None stands for all lanes."""
        return self._everybody if mask is None else self.lanes(mask)

    def whole_warps(self, mask: Any, what: str) -> Array:
        """The active warps, bool [W], for an instruction that a warp executes as a whole."""
        active = self.active(mask)
        some, every = some_lane(active), ~some_lane(~active)
        if (some != every).any():
            raise SimulationError(f"{what} reached by some lanes of a warp only", some != every)
        return np.asarray(every)

    def lanes(self, value: Any) -> Array:
        """An operand as [W, 32]."""
        shape = (len(self.warps), LANES)
        # numpy takes 10 us to find that there is nothing to do.
        return value if np.shape(value) == shape else np.broadcast_to(value, shape)

    def places(self, mask: Any) -> Array:
        """Where the active lanes are in an operand's [W, 32] laid flat; those of warp w begin at 32 w."""
        return np.flatnonzero(self.active(mask))

    def at_places(self, value: Any, places: Array) -> Array:
        """An operand of the lanes at `places`, as int64: what `lanes` gives, without laying out all of it."""
        value = np.asarray(value)
        if value.ndim == 0:
            return np.full(len(places), value.astype(np.int64))
        if value.shape == (len(self.warps), 1):
            value = value[:, 0].take(places // LANES)
        else:
            value = np.ascontiguousarray(self.lanes(value)).reshape(-1).take(places)
        found: Array = value.astype(np.int64)
        return found

    @cached_property
    def _everybody(self) -> Array:
        lanes = np.ones((len(self.warps), LANES), np.bool_)
        lanes.flags.writeable = False
        return lanes

    def per_warp(self, value: Any, mask: Any = None) -> Array:
        """An operand that every active lane of a warp agrees on, as [W]: the first active lane's."""
        if np.ndim(value) < 2:
            return np.broadcast_to(value, len(self.warps))
        if value.shape[1] == 1 or mask is None:
            column: Array = value[:, 0]
            return column
        first = np.argmax(self.active(mask), 1)
        chosen: Array = value[np.arange(len(first)), first]
        return chosen

    def same_in_warp(self, value: Any, mask: Any, what: str) -> Array:
        """`per_warp` of an operand on which the active lanes of a warp have to agree; `what` they do else."""
        value = np.asarray(value)
        values = self.per_warp(value, mask)
        if value.ndim == 2 and value.shape[1] > 1:
            different = (value != values[:, None]) & self.active(mask)
            if different.any():
                raise SimulationError(f"lanes of one warp {what}", different)
        return values

    def members(self, members: Any, mask: Any) -> Array:
        """`active`, after checking that a member mask names nobody who runs on without executing it.

        PTX ISA, `.sync` of shfl, vote, match, redux and elect: it waits for all named threads but the exited.
        """
        active = self.active(mask)
        if mask is None:
            return active
        named = (np.asarray(members) >> np.arange(LANES, dtype=np.uint32) & np.uint32(1)).astype(np.bool_)
        missing = named & ~active & active.any(1, keepdims=True)
        if missing.any():
            missing &= self._running
        if missing.any():
            warp, lane = np.argwhere(missing)[0]
            value = int(self.lanes(members)[warp][active[warp]][0])
            raise SimulationError(
                f"member mask {value:#010x} names lane {lane}, which does not execute it", missing.any(1)
            )
        return active

    @property
    def _running(self) -> Array:
        """The lanes that may still execute an instruction with a member mask, bool [W, 32]."""
        if self.mask is None:
            return self._everybody
        running = self.mask.copy()
        for frame in self.stack:
            if frame.reconvergence != EXIT:
                running |= frame.mask
            # Of lanes that meet at the exit only, those still to run may have nothing left but to exit.
            for block, lanes in frame.pending:
                if self.machine.kernel.program.synchronizes_lanes[block]:
                    running |= lanes
        return running

    def special(self, name: str) -> Any:
        """A special register's value in this cohort."""
        if name in _TIMERS:
            rate = 1000 / self.machine.units.target.clock_mhz if "global" in name else 1.0
            return (self.clock * rate).astype(np.uint64).astype(_TIMERS[name])[:, None]
        if name not in self._specials:
            value = self.machine.special(name)
            self._specials[name] = value if np.ndim(value) == 0 else value[self.warps]
        return self._specials[name]

    def symbol(self, symbol: Symbol, wide: bool) -> Any:
        """The address that a parameter's or shared variable's name stands for."""
        value = self.machine.symbol_address(symbol)
        if np.ndim(value):
            value = value[self.rows][:, None]
        return value.astype(np.uint64 if wide else np.uint32)

    @cached_property
    def of_whole_warpgroups(self) -> bool:
        """Whether its warps are whole warpgroups, one after the other."""
        if len(self.warps) % WARPGROUP:
            return False
        groups = self.warps.reshape(-1, WARPGROUP)
        aligned = self.machine.warp_in_cta[groups[:, 0]] % WARPGROUP == 0
        return bool(aligned.all() and (groups == groups[:, :1] + np.arange(WARPGROUP)).all())

    def ordered(self, registers: list[int]) -> Cohort:
        """The same warps in ascending order, with these registers."""
        if (self.warps[1:] > self.warps[:-1]).all():
            return self
        return self._take(np.argsort(self.warps), registers)

    def part(self, chosen: Array, registers: list[int] | None) -> Cohort:
        """The warps `chosen` (bool [W]) as a cohort of their own, with these registers (None: all)."""
        return self._take(np.flatnonzero(chosen), registers)

    def _take(self, taken: Array, registers: list[int] | None) -> Cohort:
        """The warps numbered `taken` in this cohort, in that order."""
        kept: list[Any] = [UNWRITTEN] * len(self.registers)
        for index in range(len(kept)) if registers is None else registers:
            kept[index] = _rows_of(self.registers[index], taken)
        other = Cohort(self.machine, self.warps[taken], kept, self.block, self.clock[taken])
        other.mask = _rows_of(self.mask, taken)
        other.stack = [
            Frame(
                frame.reconvergence,
                frame.mask[taken],
                [(block, mask[taken]) for block, mask in frame.pending],
            )
            for frame in self.stack
        ]
        if self.token is not None:
            other.token = tuple(array[taken] for array in self.token)
        other.units = {name: state.part(self, other, taken) for name, state in self.units.items()}
        return other

    def join(self, other: Cohort, registers: list[int]) -> Cohort:
        """Both cohorts, standing at the same block with all lanes active, as one."""
        warps = np.concatenate([self.warps, other.warps])
        kept: list[Any] = [UNWRITTEN] * len(self.registers)
        shapes = (len(self.warps), len(other.warps))
        for index in registers:
            kept[index] = _joined(self.registers[index], other.registers[index], shapes)
        clock = np.concatenate([self.clock, other.clock])
        whole = Cohort(self.machine, warps, kept, self.block, clock)
        if self.token is not None and other.token is not None:
            whole.token = tuple(np.concatenate(pair) for pair in zip(self.token, other.token, strict=True))
        for name in {*self.units, *other.units}:
            mine: Any = self.units.get(name)
            theirs: Any = other.units.get(name)
            state = (mine if mine is not None else theirs).join(mine, theirs, (self, other), whole)
            if state is not None:
                whole.units[name] = state
        return whole


def _rows_of(value: Any, taken: Array) -> Any:
    return value if np.ndim(value) == 0 else value[taken]


def _joined(a: Any, b: Any, shapes: tuple[int, int]) -> Any:
    if isinstance(a, Absent) and isinstance(b, Absent):
        return a
    a, b = (
        x if x is not UNWRITTEN else type(y)(0) if np.ndim(y) == 0 else y.dtype.type(0)
        for x, y in ((a, b), (b, a))
    )
    if np.ndim(a) == 0 and np.ndim(b) == 0 and a == b:
        return a
    columns = max(x.shape[1] if np.ndim(x) else 1 for x in (a, b))
    return np.concatenate(
        [np.broadcast_to(x, (rows, columns)) for x, rows in zip((a, b), shapes, strict=True)]
    )

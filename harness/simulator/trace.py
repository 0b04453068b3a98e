"""What happened during one modelled wave: waits of every warp, busy intervals of every unit, bytes moved.

`TracedUnits` stands in for a machine's `Units` and writes down what passes through it; a machine without it
pays nothing. A warp waits where its clock has moved between two blocks: only waiting moves it there. Times
are SM cycles from the start of the wave's CTAs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.account_record import LOAD, PRODUCT, STORE, Span
from harness.simulator.memory_path import Wave
from harness.simulator.program import Wait
from harness.simulator.ptx import Instruction
from harness.simulator.target import Target
from harness.simulator.timing import BlockCost, Units

if TYPE_CHECKING:
    from harness.simulator.cohort import Cohort
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]
# What a warp is there for: the first of these that it comes by.
ROLES = (
    ("cp.async.bulk.tensor", "TMA"),
    ("tcgen05.mma", "MMA"),
    ("wgmma.mma_async", "math"),
    ("tcgen05.ld", "epilogue"),
)
OTHER = "other"
# Instructions within a block that move a warp's clock to the end of what is asynchronous, or of what others
# have queued before it.
INNER_WAITS = ("wgmma.wait_group", "tcgen05.wait", "ld.shared::cluster")


@dataclass(frozen=True)
class Waited:
    """Warp `warp` of the machine waiting at the instruction `at` from `begin` to `end`."""

    warp: int
    at: str
    begin: float
    end: float


class TracedUnits(Units):
    """Units that remember; made like `Units`, for one machine."""

    def __init__(self, target: Target, wave: Wave) -> None:
        super().__init__(target, wave)
        self.spans: list[Span] = []
        self.waits: list[Waited] = []
        self.issue_cycles = 0.0
        self.machine: Machine | None = None

    def issue(self, c: Cohort, cost: BlockCost) -> None:
        if self.machine is None:
            self._begin(c.machine)
        late = c.clock > self.clock[c.warps] + 0.5
        for warp, end in zip(c.warps[late], c.clock[late], strict=True):
            self.waits.append(Waited(int(warp), self._place(int(warp)), float(self.clock[warp]), float(end)))
        super().issue(c, cost)
        self.busy[c.warps, cost.index] += c.clock - c.began
        self.clock[c.warps] = c.clock
        self.block[c.warps] = cost.index
        self.issue_cycles += cost.issue * len(c.warps)

    def load(
        self, sms: Array, sizes: Array, traffic: Array, times: Array, tiles: list[Any], shared: bool
    ) -> Array:
        done = super().load(sms, sizes, traffic, times, tiles, shared)
        self._remember(LOAD, sms, times, done, sizes)
        return done

    def store(self, sms: Array, sizes: Array, times: Array) -> Array:
        done = super().store(sms, sizes, times)
        self._remember(STORE, sms, times, done, sizes)
        return done

    def multiply(self, sms: Array, cycles: float, times: Array) -> Array:
        done = super().multiply(sms, cycles, times)
        ends = done - self.target.chip["mma_latency"]
        self._remember(PRODUCT, sms, ends - cycles, ends, np.zeros(len(ends)))
        return done

    def occupy_tensor_cores(self, sms: Array, cycles: float, times: Array) -> Array:
        ends = super().occupy_tensor_cores(sms, cycles, times)
        for column in sms.T:
            self._remember(PRODUCT, column, ends - cycles, ends, np.zeros(len(ends)))
        return ends

    def role(self, warp: int) -> str:
        """What a warp of the machine was there for."""
        assert self.machine is not None
        blocks = self.machine.kernel.program.blocks
        opcodes = {
            instruction.opcode
            for index in np.flatnonzero(self.busy[warp])
            for instruction in blocks[index].instructions
        }
        for prefix, role in ROLES:
            if any(opcode.startswith(prefix) for opcode in opcodes):
                return role
        return OTHER

    def _begin(self, machine: Machine) -> None:
        self.machine = machine
        count = len(machine.row_of_warp)
        self.clock = np.full(count, np.inf)  # with which each warp ended its last block
        self.block = np.zeros(count, np.int64)
        self.busy = np.zeros((count, len(machine.kernel.program.blocks)))  # cycles of each warp in each block

    def lines(self, block: int) -> str:
        """The lines of PTX that a block stands in."""
        assert self.machine is not None
        found = self.machine.kernel.program.blocks[block]
        own = [instruction.line for instruction in found.instructions]
        if isinstance(found.end, Wait):
            own.append(found.end.instruction.line)
        return f"PTX lines {own[0]} to {own[-1]}" if own else f"block {found.label}"

    def _place(self, warp: int) -> str:
        """The instruction that the warp has waited at, in the block that it ran last."""
        assert self.machine is not None
        block = self.machine.kernel.program.blocks[self.block[warp]]
        inner = [i for i in block.instructions if i.opcode.startswith(INNER_WAITS)]
        at: Instruction | None = block.end.instruction if isinstance(block.end, Wait) else None
        if at is None and inner:
            at = inner[-1]
        return f"{at.opcode}, PTX line {at.line}" if at is not None else "instruction fetch"

    def _remember(self, kind: str, sms: Array, begins: Array, ends: Array, sizes: Array) -> None:
        for sm, begin, end, size in zip(sms, begins, ends, sizes, strict=True):
            self.spans.append(Span(kind, int(sm), float(begin), float(end), float(size)))

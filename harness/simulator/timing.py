"""Time: what a block costs a warp, and the units that warps share, each with a clock of its own.

A warp's clock advances by each block it runs: by the dependent latencies on its way, or by the cycles its
scheduler needs to issue for all warps that run the same block, whichever is longer. Waiting on a barrier
moves the clock to the event that completes it. Asynchronous copies queue at their SM, their GPC, the L2 and
the memory; matrix products at their SM's tensor cores. Every number comes from the target's table
(`harness.simulator.target`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cluster_port import Port, requests
from harness.simulator.memory_path import MemoryPath, Wave
from harness.simulator.memory_port import MemoryPort, Touched
from harness.simulator.program import Branch, Program
from harness.simulator.ptx import Instruction, Pair, Reg, Vector, guard_name
from harness.simulator.target import Target

if TYPE_CHECKING:
    from harness.simulator.cohort import Cohort

Array = npt.NDArray[Any]
ALONE = Wave()  # everything is simulated
INSTRUCTION_BYTES = 16  # of a machine instruction since Volta


@dataclass(frozen=True)
class BlockCost:
    """One run of a block by one warp: cycles on its own, cycles of issuing, bytes of code."""

    index: int
    latency: float
    issue: float
    code_bytes: int


def block_costs(program: Program, target: Target) -> list[BlockCost]:
    """The cost of every block: in-order issue against a scoreboard of registers."""
    return [_cost(program, index, target) for index in range(len(program.blocks))]


def _cost(program: Program, index: int, target: Target) -> BlockCost:
    """Between the block as PTX orders it, issued in order, and the best that reordering could make of it.

    The assembler moves independent instructions into each other's latencies, as far as registers and branches
    let it. How far is one number, `schedule_in_order`: 1 for not at all, 0 for perfectly.
    """
    block = program.blocks[index]
    now = issue = stall = chain = 0.0
    in_order: dict[str, float] = {}
    reordered: dict[str, float] = {}
    for instruction in block.instructions:
        opcode = instruction.opcode
        sources = _registers(instruction)
        start = max((now, *(in_order.get(name, 0.0) for name in sources)))
        earliest = max((reordered.get(name, 0.0) for name in sources), default=0.0)
        cycles, latency = target.issue_of(opcode), target.latency_of(opcode)
        now = start + cycles
        issue += cycles
        stall += target.stall_of(opcode)
        chain = max(chain, earliest)
        for name in _written(instruction):
            in_order[name] = start + latency
            reordered[name] = earliest + latency
    if isinstance(block.end, Branch):
        name = guard_name(block.end.guard)
        now = max(now, in_order.get(name, 0.0)) + 1
        chain = max(chain, reordered.get(name, 0.0))
        issue += 1
    part = target.chip["schedule_in_order"]
    latency = part * now + (1 - part) * max(issue, chain) + stall
    return BlockCost(index, latency, issue, INSTRUCTION_BYTES * (len(block.instructions) + 1))


def _registers(instruction: Instruction) -> list[str]:
    from harness.simulator.codegen import names_of

    return names_of(instruction)


def _written(instruction: Instruction) -> list[str]:
    from harness.simulator.codegen import destinations_of

    operands = instruction.operands
    return destinations_of(operands[0]) if operands and isinstance(operands[0], Reg | Pair | Vector) else []


class Units:
    """The chip's shared units during one wave of a launch. Clocks are in SM cycles from the wave's start."""

    timed = True

    def __init__(self, target: Target, wave: Wave = ALONE) -> None:
        self.target, self.wave = target, wave
        slots = target.sms * 64
        self.memory = MemoryPath(target, wave, slots)
        self.tensor_cores = Port(slots)
        self.cluster_port = Port(slots)
        self.memory_port = MemoryPort(target, wave, self.memory.l2, slots)
        self.fetched = np.zeros((slots, 0), np.bool_)
        self.fetched_bytes = np.zeros(slots)
        self._stand_ins: dict[tuple[int, ...], Array] = {}

    def place(self, rows: int, cluster_size: int) -> Array:
        """The SM of each CTA: one after the other."""
        self.memory.cluster_size = cluster_size
        return np.arange(rows)

    def start_of(self, sms: Array) -> Array:
        """The clock with which a CTA starts on each SM."""
        return np.zeros(len(sms))

    def issue(self, c: Cohort, cost: BlockCost) -> None:
        """Advance the clocks of a cohort by one block, those of the warps that have a lane in it."""
        goes: Array | None = None if c.mask is None else np.any(c.mask, 1)
        cycles = np.maximum(cost.latency, cost.issue * (c.sharing if goes is None else c.shared_by(goes)))
        if cost.index >= self.fetched.shape[1]:
            more = np.zeros((len(self.fetched), cost.index + 64 - self.fetched.shape[1]), np.bool_)
            self.fetched = np.concatenate([self.fetched, more], 1)
        c.began = c.clock
        sms = c.machine.sm_of_row[c.rows]
        first = ~self.fetched[sms, cost.index]
        if goes is not None:
            first &= goes
        if first.any():
            late = np.zeros(len(sms))
            late[first] = self._fetch(sms[first], cost)
            cycles = cycles + late
            self.fetched[sms[first], cost.index] = True
        c.clock = c.clock + (cycles if goes is None else cycles * goes)

    def _fetch(self, sms: Array, cost: BlockCost) -> Array:
        """Cycles of waiting for a block's code. The first bytes of a kernel come while it starts.

        After a wave of the launch, or where the inputs lie in the L2, the code lies in the SM's own cache.
        """
        if self.wave.warm or self.wave.shared_in_l2:
            return np.zeros(len(sms))
        ahead = self.target.chip["instruction_prefetch_bytes"]
        before = self.fetched_bytes[sms]
        self.fetched_bytes[sms] = before + cost.code_bytes
        late = np.clip(before + cost.code_bytes - ahead, 0, cost.code_bytes)
        cycles: Array = late / self.target.chip["instruction_bytes"]
        return cycles

    def load(
        self, sms: Array, sizes: Array, traffic: Array, times: Array, tiles: list[Any], shared: bool
    ) -> Array:
        """When tile loads issued at `times` into `sms` have arrived: see `MemoryPath.load`."""
        return self.memory.load(sms, sizes, traffic, times, tiles, shared)

    def load_from_cluster(self, c: Cohort, rows: Array, offsets: Array, active: Array | None) -> None:
        """Hold warps until what their lanes load from other CTAs, at `offsets` of `rows`, has arrived.

        The loads of a block begin with it: the block's own cycles go by while requests pass.
        """
        lines, sectors = requests(c.rows, rows, offsets, active)
        if lines.any():
            chip = self.target.chip
            cycles = lines * chip["cluster_line_cycles"] + sectors * chip["cluster_sector_cycles"]
            passed = self.cluster_port.take(c.machine.sm_of_row[c.rows], cycles, c.began)
            arrived = passed + self.target.latency_of("ld.shared::cluster")
            c.clock = np.where(lines > 0, np.maximum(c.clock, arrived), c.clock)

    def load_from_memory(self, c: Cohort, addresses: Array, lane_bytes: int, active: Array | None) -> None:
        """Hold warps until what their lanes load from global memory has passed their SM and the L2."""
        touched = Touched.by(addresses, lane_bytes, active)
        passed = self.memory_port.load(c.machine.sm_of_row[c.rows], touched, c.began)
        c.clock = np.maximum(c.clock, passed)

    def store_to_memory(self, c: Cohort, addresses: Array, lane_bytes: int, active: Array | None) -> None:
        """Hold warps until what their lanes store to global memory has passed their SM and the L2."""
        touched = Touched.by(addresses, lane_bytes, active)
        passed = self.memory_port.store(c.machine.sm_of_row[c.rows], touched, c.began)
        c.clock = np.maximum(c.clock, passed)

    def is_shared(self, address: int) -> bool:
        """Whether all columns of the grid read the tensor at `address`."""
        return any(first <= address < end for first, end in self.wave.shared)

    def store(self, sms: Array, sizes: Array, times: Array) -> Array:
        """When tile stores have left shared memory and reached the L2."""
        done: Array = times + sizes / self.target.chip["sm_bytes"] + self.target.chip["l2_latency"]
        return done

    def multiply(self, sms: Array, cycles: float, times: Array) -> Array:
        """When matrix products of `cycles` each, issued at `times`, are complete."""
        done = self.tensor_cores.take(sms, np.full(len(times), cycles), times)
        return done + self.target.chip["mma_latency"]

    def occupy_tensor_cores(self, sms: Array, cycles: float, times: Array) -> Array:
        """When operations of `cycles` each, issued at `times` [G] to the SMs `sms` [G, P] together, end."""
        free, ends, cores = self.tensor_cores.free, times.tolist(), sms.tolist()
        for index in np.argsort(times, kind="stable").tolist():
            end = ends[index] = max(ends[index], *(free[core] for core in cores[index])) + cycles
            for core in cores[index]:
                free[core] = end
        return np.array(ends)

    def mma_macs(self, bits: int) -> float:
        """Products a cycle and SM of operands of `bits` bits."""
        return self.target.chip["mma_macs"] * 16 / bits

    def wgmma_cycles(self, n: int, k: int, bits: int, a_from_shared: bool) -> float:
        """Cycles of one m64nNkK."""
        read = ((64 if a_from_shared else 0) + n) * k * bits / 8
        return self.mma_cycles(64 * n * k, read, bits)

    def mma_cycles(self, products: int, read_bytes: float, bits: int) -> float:
        """Cycles of an SM's tensor cores: `products`, or the reading of their operands from shared memory."""
        return max(products / self.mma_macs(bits), read_bytes / self.target.chip["mma_shared_bytes"])

    def stand_in(self, shape: tuple[int, ...]) -> Array:
        """Normal numbers for an accumulator whose products are not computed: control flow depends on them."""
        if shape not in self._stand_ins:
            self._stand_ins[shape] = np.random.default_rng(0).standard_normal(shape, np.float32)
        return self._stand_ins[shape]


class Untimed(Units):
    """Units of a run of which only the results matter: whatever is asynchronous ends when it was issued."""

    timed = False

    def issue(self, c: Cohort, cost: BlockCost) -> None:
        pass

    def load(
        self, sms: Array, sizes: Array, traffic: Array, times: Array, tiles: list[Any], shared: bool
    ) -> Array:
        return times

    def store(self, sms: Array, sizes: Array, times: Array) -> Array:
        return times

    def multiply(self, sms: Array, cycles: float, times: Array) -> Array:
        return times

    def occupy_tensor_cores(self, sms: Array, cycles: float, times: Array) -> Array:
        return times

    def load_from_cluster(self, c: Cohort, rows: Array, offsets: Array, active: Array | None) -> None:
        pass

    def load_from_memory(self, c: Cohort, addresses: Array, lane_bytes: int, active: Array | None) -> None:
        pass

    def store_to_memory(self, c: Cohort, addresses: Array, lane_bytes: int, active: Array | None) -> None:
        pass

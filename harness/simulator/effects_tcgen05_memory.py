"""`tcgen05` as warps see it: allocation of tensor memory, loads and stores, waits and fences.

PTX ISA, "TensorCore 5th Generation Family Instructions: tcgen05.alloc, dealloc, relinquish_alloc_permit,
tcgen05.ld, tcgen05.st, tcgen05.wait, tcgen05.fence".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.blame import warp_at
from harness.simulator.cohort import Cohort
from harness.simulator.effects import Run, Wait, effect, wait
from harness.simulator.effects_memory import shared_place
from harness.simulator.effects_tcgen05 import cta_group
from harness.simulator.errors import NotSimulatedError
from harness.simulator.ordering import Ordering
from harness.simulator.ptx import Imm, Instruction
from harness.simulator.tcgen05_transfer import FRAGMENTS, Transfer
from harness.simulator.tensor_memory import HALF_QUADRANT, QUADRANT, column_of, lane_of
from harness.simulator.tensor_unit import TensorUnit, tensor_unit

Array = npt.NDArray[Any]
_GROUPS = "cta_group::1 cta_group::2"
_TRANSFER = f"sync aligned {' '.join(FRAGMENTS)} 16x32bx2 x1 x2 x4 x8 x16 x32 x64 x128"


class _Alloc:
    """tcgen05.alloc: blocks while the columns are not free, then writes their address to shared memory."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction
        self.group = cta_group(instruction)

    def begin(self, c: Cohort, address: Any, columns: Any) -> tuple[Array, ...]:
        here = c.whole_warps(c.mask, "tcgen05.alloc")
        unit = tensor_unit(c.machine)
        unit.uses_group(self.group)
        wanted = c.per_warp(np.asarray(columns)).astype(np.int64)
        for warp in np.flatnonzero(here):
            place = warp_at(c.machine, int(c.warps[warp]), self.instruction)
            unit.allocations.ask(int(c.rows[warp]), int(wanted[warp]), place)
        _, offsets = shared_place(c, address)
        return np.where(here, -1, 0), c.clock.copy(), c.per_warp(offsets).astype(np.int64), wanted

    def poll(self, c: Cohort, token: tuple[Array, ...]) -> tuple[Array, Array]:
        """The token begins with the column that each warp got, -1 before, and when."""
        got, times, offsets, wanted = token
        unit = tensor_unit(c.machine)
        for warp in np.flatnonzero(got < 0):
            row = int(c.rows[warp])
            unit.allocations.grant(tuple(int(r) for r in unit.ctas(c.rows[warp : warp + 1], self.group)[0]))
            if (granted := unit.allocations.collect(row)) is not None:
                got[warp], free = granted
                times[warp] = max(times[warp], free)
                _hand_over(c, unit, int(warp), int(offsets[warp]), int(got[warp]), int(wanted[warp]))
        return got >= 0, times + c.machine.units.target.latency_of("tcgen05.alloc")

    def describe(self, c: Cohort, token: tuple[Array, ...], warp: int) -> str:
        return tensor_unit(c.machine).allocations.waits_for(int(c.rows[warp]))


def _hand_over(c: Cohort, unit: TensorUnit, warp: int, offset: int, column: int, columns: int) -> None:
    """Write an allocation's address where the instruction wants it; its columns hold nothing to read."""
    row = int(c.rows[warp])
    shared = c.machine.shared
    place = shared.index(np.array([row]), np.array([offset]), 4, None)
    shared.bytes.reshape(-1).view(np.uint32)[place // 4] = column
    shared.mark(place // 4, c.machine.thread_of_lane[c.warps[warp], :1], c.step)
    unit.memory.written[row, :, column : column + columns] = False


@wait("tcgen05", "alloc", flags=f"{_GROUPS} sync aligned shared::cta")
def alloc(instruction: Instruction) -> Wait:
    return _Alloc(instruction)


@effect("tcgen05", "dealloc", flags=f"{_GROUPS} sync aligned")
def dealloc(instruction: Instruction) -> Run:
    group = cta_group(instruction)

    def run(c: Cohort, m: Any, address: Any, columns: Any) -> None:
        here = c.whole_warps(m, "tcgen05.dealloc")
        unit = tensor_unit(c.machine)
        unit.uses_group(group)
        addresses = c.per_warp(np.asarray(address), m).astype(np.int64)
        counts = c.per_warp(np.asarray(columns), m).astype(np.int64)
        for warp in np.flatnonzero(here):
            row, first, count = int(c.rows[warp]), int(addresses[warp]), int(counts[warp])
            unit.allocations.free(row, first, count, float(c.clock[warp]))
            if unit.shadow is not None:
                ctas = np.array([[row]])
                cells = unit.shadow.all_lanes(c.warps[warp : warp + 1], ctas, np.array([first]), count)
                unit.shadow.free(cells)

    return run


@effect("tcgen05", "relinquish_alloc_permit", flags=f"{_GROUPS} sync aligned")
def relinquish(instruction: Instruction) -> Run:
    group = cta_group(instruction)

    def run(c: Cohort, m: Any) -> None:
        here = c.whole_warps(m, "tcgen05.relinquish_alloc_permit")
        unit = tensor_unit(c.machine)
        unit.uses_group(group)
        unit.allocations.relinquish(c.rows[here])

    return run


def _transfer(instruction: Instruction, immediate: int) -> Transfer:
    parts = instruction.parts
    shape = next((part for part in parts if part in FRAGMENTS or part == "16x32bx2"), "")
    repeat = next((int(part[1:]) for part in parts if re.fullmatch(r"x\d+", part)), 0)
    if not shape or not repeat or "red" in parts or parts[-1] not in ("b32", "f32"):
        raise NotSimulatedError(f"{instruction.opcode} is not known")
    packed = any(part in ("pack::16b", "unpack::16b") for part in parts)
    return Transfer(shape, repeat, packed, immediate)


def _half_split(instruction: Instruction, position: int) -> int:
    """The immediate of .16x32bx2."""
    operands = instruction.operands
    if len(operands) > position and isinstance(operands[position], Imm):
        return operands[position].bits  # type: ignore[union-attr]
    return 0


def _claim(
    c: Cohort, unit: TensorUnit, here: Array, transfer: Transfer, address: Array
) -> Callable[[Instruction, str], None]:
    """Check the columns; the function notes the access in the shadow."""
    rows, warps = c.rows[here], c.warps[here]
    width = transfer.repeat * (2 if transfer.packed else 1)
    spans = [0, transfer.half_split] if transfer.shape == "16x32bx2" else [0]
    if transfer.shape != "16x32bx2":
        width *= FRAGMENTS[transfer.shape].columns
    for offset in spans:
        unit.allocations.check(rows, column_of(address) + offset, width)

    def note(instruction: Instruction, kind: str) -> None:
        if unit.shadow is None:
            return
        for offset in spans:
            quarter = c.machine.warp_in_cta[warps] % 4
            half = None if transfer.shape == "32x32b" else lane_of(address) % QUADRANT // HALF_QUADRANT
            cells = unit.shadow.quarter(warps, rows, quarter, column_of(address) + offset, width, half)
            (unit.shadow.load if kind == "ld" else unit.shadow.store)(instruction, cells)

    return note


@effect("tcgen05", "ld", flags=f"{_TRANSFER} pack::16b", writes=True)
def load(instruction: Instruction) -> Run:
    transfer = _transfer(instruction, _half_split(instruction, 2))

    def run(c: Cohort, m: Any, source: Any, *immediate: Any) -> Any:
        here = c.whole_warps(m, "tcgen05.ld")
        machine = c.machine
        unit = tensor_unit(machine)
        address = c.same_in_warp(source, m, "disagree about the address")[here].astype(np.uint32)
        _claim(c, unit, here, transfer, address)(instruction, "ld")
        out = np.zeros((transfer.registers, len(c.warps), 32), np.uint32)
        if machine.functional:
            quarter = machine.warp_in_cta[c.warps[here]] % 4
            out[:, here] = transfer.load(unit.memory, c.rows[here], quarter, address).swapaxes(0, 1)
        else:
            out = machine.units.stand_in(out.shape).view(np.uint32)
        return tuple(out) if transfer.registers > 1 else out[0]

    return run


@effect("tcgen05", "st", flags=f"{_TRANSFER} unpack::16b")
def store(instruction: Instruction) -> Run:
    transfer = _transfer(instruction, _half_split(instruction, 1))

    def run(c: Cohort, m: Any, target: Any, *rest: Any) -> None:
        here = c.whole_warps(m, "tcgen05.st")
        machine = c.machine
        unit = tensor_unit(machine)
        address = c.same_in_warp(target, m, "disagree about the address")[here].astype(np.uint32)
        _claim(c, unit, here, transfer, address)(instruction, "st")
        if machine.functional:
            values = rest[-1] if isinstance(rest[-1], tuple) else (rest[-1],)
            registers = np.stack([c.lanes(np.asarray(value).astype(np.uint32))[here] for value in values], 1)
            quarter = machine.warp_in_cta[c.warps[here]] % 4
            transfer.store(unit.memory, c.rows[here], quarter, address, registers)

    return run


def _ordered(act: Callable[[Ordering, Array], None]) -> Callable[[Instruction], Run]:
    """An instruction that only changes what is known to be over."""

    def factory(instruction: Instruction) -> Run:
        def run(c: Cohort, m: Any) -> None:
            if c.machine.ordering is not None:
                act(c.machine.ordering, c.warps[c.active(m).any(1)])

        return run

    return factory


effect("tcgen05", "wait::ld", flags="sync aligned")(
    _ordered(lambda ordering, warps: ordering.finished(warps, "ld"))
)
effect("tcgen05", "wait::st", flags="sync aligned")(
    _ordered(lambda ordering, warps: ordering.finished(warps, "st"))
)
effect("tcgen05", "fence::before_thread_sync", flags="")(_ordered(Ordering.fence_before))
effect("tcgen05", "fence::after_thread_sync", flags="")(_ordered(Ordering.fence_after))

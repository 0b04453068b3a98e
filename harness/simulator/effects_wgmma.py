"""`wgmma`: products issued, committed in groups, and waited for.

PTX ISA, "Asynchronous warpgroup level matrix instructions". All steps of a commit group into one accumulator
with the same modifiers are one matrix product. An accumulator in flight lives here as a tile, and its
registers are empty: reading one before the wait is an error, as it is on the machine.

Registers that a product reads or accumulates into must be behind a `wgmma.fence` since they were written or
left flight ("wgmma.fence"; only products of one shape into an accumulator in flight need none). That a
register was written shows in its value being another object. A constant passes: compilers set accumulators to
zero behind the fence that the source has in front of the products.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.absent import IN_FLIGHT
from harness.simulator.cohort import LANES, WARPGROUP, Cohort
from harness.simulator.effects import Run, effect
from harness.simulator.errors import SimulationError
from harness.simulator.number_formats import BF16, E4M3, E5M2, F16, F32, TF32
from harness.simulator.operand import Operand
from harness.simulator.ptx import Imm, Instruction, Vector
from harness.simulator.shared import PAGE_WORDS
from harness.simulator.shared_races import SharedRaces
from harness.simulator.wgmma import M, Wgmma

Array = npt.NDArray[Any]
FORMATS = {"f16": F16, "bf16": BF16, "tf32": TF32, "e4m3": E4M3, "e5m2": E5M2, "f32": F32}
WARPS = WARPGROUP


@dataclass
class _Pending:
    """Like steps of the open group into one accumulator; `keep` [G]: which warpgroups add to what it held."""

    instruction: Wgmma
    a_in_registers: bool
    keep: Array
    a: list[Array] = field(default_factory=list)
    b: list[Array] = field(default_factory=list)


@dataclass
class Warpgroups:
    """What a cohort's warpgroups have in flight, by the accumulator's registers.

    Each warp holds its 16 rows of an accumulator: warps may part between the instructions of a warpgroup.
    """

    pending: dict[tuple[int, ...], list[_Pending]] = field(default_factory=dict)
    tiles: dict[tuple[int, ...], Array] = field(default_factory=dict)  # [W, 16, n]
    shapes: dict[tuple[int, ...], Wgmma] = field(default_factory=dict)
    last_group: dict[tuple[int, ...], int] = field(default_factory=dict)
    done: list[Array] = field(default_factory=list)  # of each committed group, when it is complete [W]
    fenced: dict[int, Any] = field(default_factory=dict)  # what registers held at the last wgmma.fence

    def unchanged(self, cohort: Cohort) -> set[int]:
        """The registers in which nothing but constants was written since the last wgmma.fence."""
        return {index for index in self.fenced if self.is_fenced(index, cohort.registers[index])}

    def is_fenced(self, index: int, value: Any) -> bool:
        """Whether the register `index` may hold `value` in a product."""
        return index in self.fenced and (self.fenced[index] is value or np.ndim(value) == 0)

    def part(self, cohort: Cohort, other: Cohort, taken: Array) -> Warpgroups:
        """The state of `other`, the warps `taken` of `cohort`."""
        if self.pending:
            raise SimulationError("warps part with wgmma instructions issued and not committed")
        return Warpgroups(
            {},
            {key: tile[taken] for key, tile in self.tiles.items()},
            dict(self.shapes),
            dict(self.last_group),
            [done[taken] for done in self.done],
            {index: other.registers[index] for index in self.unchanged(cohort)},
        )

    def join(
        self,
        mine: Warpgroups | None,
        theirs: Warpgroups | None,
        cohorts: tuple[Cohort, Cohort],
        whole: Cohort,
    ) -> Warpgroups | None:
        """The state of `whole`, both `cohorts` as one."""
        fenced: dict[int, Any] = {}
        if mine is not None and theirs is not None:
            unchanged = mine.unchanged(cohorts[0]) & theirs.unchanged(cohorts[1])
            fenced = {index: whole.registers[index] for index in unchanged}
        states = [state for state in (mine, theirs) if state is not None]
        if not any(state.tiles for state in states):
            return Warpgroups(fenced=fenced) if fenced else None
        if mine is None or theirs is None or mine.last_group != theirs.last_group:
            raise SimulationError("warpgroups meet with different products in flight")
        return Warpgroups(
            {},
            {key: np.concatenate([mine.tiles[key], theirs.tiles[key]]) for key in mine.tiles},
            dict(mine.shapes),
            dict(mine.last_group),
            [np.concatenate(pair) for pair in zip(mine.done, theirs.done, strict=True)],
            fenced,
        )


def warpgroups(c: Cohort) -> Warpgroups:
    """The cohort's state; raises unless it consists of whole warpgroups."""
    if not c.of_whole_warpgroups:
        raise SimulationError("wgmma by warps that are not a whole warpgroup")
    state = c.units.get("wgmma")
    if state is None:
        state = c.units["wgmma"] = Warpgroups()
    assert isinstance(state, Warpgroups)
    return state


def _numbers(c: Cohort) -> Array:
    """The cohort's warpgroups, as `OperandReads` numbers them."""
    per_row = c.machine.operand_reads.groups_per_row
    numbers: Array = c.rows[::WARPS] * per_row + c.machine.warp_in_cta[c.warps[::WARPS]] // WARPS
    return numbers


@effect("wgmma", "mma_async", registers=True)
def mma_async(instruction: Instruction) -> Run:
    match = next((m for p in instruction.parts if (m := re.fullmatch(r"m64n(\d+)k(\d+)", p))), None)
    types = [FORMATS[part] for part in instruction.parts if part in FORMATS]
    unknown = [
        p
        for p in instruction.parts[2:]
        if p not in FORMATS and p not in ("sync", "aligned", match and match[0])
    ]
    if match is None or len(types) != 3 or unknown:
        raise SimulationError(f"{instruction.opcode} is not known")
    literals = [operand.bits for operand in instruction.operands[4:] if isinstance(operand, Imm)]
    from_registers = isinstance(instruction.operands[1], Vector)
    scale_a, scale_b, *transposed = literals
    if from_registers and transposed:
        transposed = [0, transposed[0]]
    shape = Wgmma(
        int(match.group(1)),
        types[1],
        types[2],
        types[0],
        transpose_a=bool(transposed and transposed[0]),
        transpose_b=bool(transposed and transposed[1]),
        negate_a=scale_a == -1,
        negate_b=scale_b == -1,
    )

    def run(
        c: Cohort, m: Any, r: list[Any], target: tuple[int, ...], a: Any, b: Any, keep: Any, *rest: Any
    ) -> None:
        if m is not None and not c.active(m).all():
            raise SimulationError("wgmma by some lanes of a warpgroup only")
        state = warpgroups(c)
        groups = len(c.warps) // WARPS
        keeps = _agreed(c, np.asarray(keep), "scale-d").astype(np.bool_)
        steps = state.pending.setdefault(target, [])
        if not steps:
            _take_in(c, state, r, target, shape, keeps)
        elif not keeps.all() and keeps.any():
            raise SimulationError("warpgroups disagree about scale-d within a group of products")
        _check_shape(state, target, shape)
        like = steps and (steps[-1].instruction, steps[-1].a_in_registers) == (shape, from_registers)
        if not (like and keeps.all()):
            steps.append(_Pending(shape, from_registers, keeps))
        pending = steps[-1]
        if from_registers:
            _check_fenced(c, state, r, a)
            codes = np.stack([c.lanes(r[index]) for index in a], 1).reshape(groups, WARPS, len(a), LANES)
            fragment = np.ascontiguousarray(codes.transpose(0, 2, 1, 3)).reshape(
                groups, len(a), WARPS * LANES
            )
            pending.a.append(shape.a_from_registers(fragment))
        else:
            pending.a.append(_agreed(c, a, "the descriptor of A").astype(np.uint64))
        pending.b.append(_agreed(c, b, "the descriptor of B").astype(np.uint64))

    return run


def _agreed(c: Cohort, value: Any, what: str) -> Array:
    """An operand [G] on which the threads of a warpgroup have to agree."""
    values = c.same_in_warp(value, None, f"disagree about {what}").reshape(-1, WARPS)
    if np.ndim(value) and (values != values[:, :1]).any():
        different = np.repeat((values != values[:, :1]).any(1), WARPS)
        raise SimulationError(f"warps of one warpgroup disagree about {what}", different)
    return values[:, 0]


def _take_in(
    c: Cohort, state: Warpgroups, r: list[Any], target: tuple[int, ...], shape: Wgmma, keeps: Array
) -> None:
    """Move an accumulator from its registers into a tile."""
    groups = len(c.warps) // WARPS
    if target not in state.tiles:
        _check_fenced(c, state, r, target)
        if not keeps.any() or all(np.ndim(r[i]) == 0 and r[i] == 0 for i in target):
            state.tiles[target] = np.zeros((len(c.warps), M // WARPS, shape.n), np.float32)
        else:
            codes = np.stack([c.lanes(r[index]) for index in target]).reshape(
                len(target), groups, WARPS * LANES
            )
            tile = shape.d_from_registers(np.ascontiguousarray(codes.transpose(1, 0, 2)))
            state.tiles[target] = tile.reshape(len(c.warps), M // WARPS, shape.n)
        state.shapes[target] = shape
    for index in target:
        r[index] = IN_FLIGHT


def _check_fenced(c: Cohort, state: Warpgroups, r: list[Any], registers: tuple[int, ...]) -> None:
    """Raise unless `registers` are as the last wgmma.fence found them."""
    for index in registers:
        if not state.is_fenced(index, r[index]):
            name = next(name for name, number in c.machine.kernel.code.registers.items() if number == index)
            raise SimulationError(
                f"register {name} has no wgmma.fence since it was last written or in flight"
            )


def _check_shape(state: Warpgroups, target: tuple[int, ...], shape: Wgmma) -> None:
    """Raise where the accumulator is in flight in another shape: nothing orders such products."""
    held = state.shapes[target]
    if (held.n, held.k, held.d_format) != (shape.n, shape.k, shape.d_format):
        raise SimulationError(
            f"a product m64n{shape.n}k{shape.k} of {shape.d_format.name} into an accumulator in flight as "
            f"m64n{held.n}k{held.k} of {held.d_format.name}: wgmma.wait_group and wgmma.fence come first"
        )


@effect("wgmma", "commit_group", flags="sync aligned")
def commit_group(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any) -> None:
        state = warpgroups(c)
        machine = c.machine
        cycles = 0.0
        for target, steps in state.pending.items():
            for pending in steps:
                shape = pending.instruction
                cycles += len(pending.b) * machine.units.wgmma_cycles(
                    shape.n, shape.k, shape.a_format.bits, not pending.a_in_registers
                )
                if machine.functional:
                    _execute(c, state, target, pending)
                else:
                    state.tiles[target] = machine.units.stand_in(state.tiles[target].shape)
            state.last_group[target] = len(state.done)
        if machine.functional:
            machine.operand_reads.commit(_numbers(c))
        state.pending.clear()
        ends = machine.units.multiply(machine.sm_of_row[c.rows[::WARPS]], cycles, c.clock[::WARPS])
        state.done.append(np.repeat(ends, WARPS))

    return run


def _execute(c: Cohort, state: Warpgroups, target: tuple[int, ...], pending: _Pending) -> None:
    shape, shared, rows = pending.instruction, c.machine.shared, c.rows[::WARPS]
    b = np.stack(pending.b, 1)
    _check_read(c, shape.b, b)
    if pending.a_in_registers:
        a = np.concatenate(pending.a, 2)
    else:
        a = np.stack(pending.a, 1)
        _check_read(c, shape.a, a)
    tiles = np.ascontiguousarray(state.tiles[target].reshape(-1, M, shape.n))
    shape.add_product(shared, rows, a, b, pending.keep, tiles)
    state.tiles[target] = tiles.reshape(-1, M // WARPS, shape.n)


def _check_read(c: Cohort, operand: Operand, descriptors: Array) -> None:
    shared, rows, pages = c.machine.shared, c.rows[::WARPS], operand.pages(descriptors)
    # Which words it are is asked only where their pages do not tell, or races want to know it.
    if not shared.pages_in_order(rows, pages):
        shared.check_words_in_order(rows, operand.words(descriptors)[0])
    c.machine.operand_reads.note(_numbers(c), pages)
    if c.machine.races is not None:
        _note_reads(c, c.machine.races, operand.words(descriptors)[0], pages)


def _note_reads(c: Cohort, races: SharedRaces, words: Array, pages: Array) -> None:
    """Every warp of a warpgroup reads `words` [1 or G, n], in `pages` [1 or G, p]."""
    whole = words.shape[1] == pages.shape[1] * PAGE_WORDS
    races.read_operands(pages if whole else words, c.warps, WARPS, whole)


@effect("wgmma", "wait_group", flags="sync aligned")
def wait_group(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any, allowed: int) -> None:
        state = warpgroups(c)
        retired = len(state.done) - allowed
        if c.machine.functional:
            c.machine.operand_reads.retire(_numbers(c), allowed)
        if retired > 0:
            c.clock = np.maximum(c.clock, state.done[retired - 1])
        for target in [key for key, group in state.last_group.items() if group < retired]:
            del state.last_group[target]
            tile, shape = state.tiles.pop(target), state.shapes.pop(target)
            codes = shape.d_to_registers(tile.reshape(-1, M, shape.n))
            columns = np.ascontiguousarray(codes.transpose(1, 0, 2)).reshape(len(target), len(c.warps), LANES)
            for index, column in zip(target, columns, strict=True):
                if c.registers[index] is not IN_FLIGHT:
                    raise SimulationError("a register of the accumulator was written while it was in flight")
                c.registers[index] = column
                state.fenced.pop(index, None)
        if retired == len(state.done) and not state.last_group and not state.pending:
            state.done.clear()

    return run


@effect("wgmma", "fence", flags="sync aligned")
def wgmma_fence(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any) -> None:
        fragments = c.machine.kernel.code.fragments
        warpgroups(c).fenced = {index: c.registers[index] for index in fragments}

    return run

"""Whose fault it was: the words that name an instruction, its warp and CTA in an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cohort import LANES, Cohort
from harness.simulator.program import Block, Wait
from harness.simulator.ptx import Instruction

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]
# First parts of what may access another CTA's memory, second parts of what does so asynchronously, and the
# state spaces of what does not.
_REMOTE = {"ld", "st", "atom", "red", "mbarrier", "cp", "tcgen05"}
_ASYNCHRONOUS = {"async", "commit"}
_ELSEWHERE = {"global", "param", "local", "const", "shared::cta"}


def place(machine: Machine, cohort: Cohort, block: int, error: BaseException) -> str:
    """The instruction of `block` that raised `error`, its PTX line, and the warp that executed it."""
    code = machine.kernel.code
    instruction = code.instruction_at(block, error)
    end = machine.kernel.program.blocks[block].end
    if instruction is None and isinstance(end, Wait):
        instruction = end.instruction
    who = executing(machine, cohort, active_lanes(cohort, instruction), getattr(error, "wrong", None))
    if instruction is None:
        return f"{who} in block {machine.kernel.program.blocks[block].label}"
    return f"{who} at PTX line {instruction.line}: `{instruction.text}`"


def active_lanes(cohort: Cohort, instruction: Instruction | None) -> Array:
    """The lanes [W, 32] that execute an instruction: those of the cohort's mask where its guard holds."""
    active = cohort.active(cohort.mask)
    if instruction is None or instruction.guard is None:
        return active
    register, negated = cohort.machine.kernel.code.guard_index(instruction.guard)
    guard = cohort.lanes(np.asarray(cohort.registers[register], np.bool_))
    return active & (~guard if negated else guard)


def origin(machine: Machine, cohort: Cohort, mask: Any, instruction: Instruction) -> Callable[[], str]:
    """Words for what an instruction sets going, for errors that only show when it happens."""

    def words() -> str:
        who = executing(machine, cohort, cohort.active(mask))
        return f"{who} at PTX line {instruction.line}: `{instruction.text}`"

    return words


def executing(machine: Machine, cohort: Cohort, active: Array, wrong: Any = None) -> str:
    """The first warp marked in `wrong`, in whatever shape a unit has it; without one, the first active."""
    index = first_wrong(active, wrong)
    if index is None:
        warps = np.flatnonzero(active.any(1))
        if not len(warps):
            warps = np.arange(len(active))
        others = f" (or one of {len(warps) - 1} more warps there)" if len(warps) > 1 else ""
        return warp_name(machine, cohort, int(warps[0])) + others
    warp, lane = index
    named = warp_name(machine, cohort, warp)
    return named if lane is None else f"lane {lane} of {named}"


def first_wrong(active: Array, wrong: Any) -> tuple[int, int | None] | None:
    """(warp, lane or None) of the cohort that the first true entry of `wrong` stands for.

    Units get one entry for each lane [W, 32], each warp ([W], [W, 1]), each active lane or each active warp
    in order, or for each warpgroup [W / 4].
    """
    if wrong is None:
        return None
    wrong = np.asarray(wrong)
    if not wrong.ndim or not wrong.any():
        return None
    warps = len(active)
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    if wrong.ndim == 2:
        if wrong.shape == (warps, LANES):
            return first[0], first[1]
        return (first[0], None) if wrong.shape[0] == warps else None
    lanes, some = np.argwhere(active), np.flatnonzero(active.any(1))
    if len(wrong) == len(lanes):
        return int(lanes[first[0]][0]), int(lanes[first[0]][1])
    if len(wrong) == warps:
        return first[0], None
    if len(wrong) == len(some):
        return int(some[first[0]]), None
    return (4 * first[0], None) if 4 * len(wrong) == warps else None


def warp_name(machine: Machine, cohort: Cohort, warp: int) -> str:
    """`warp 3 of CTA (0, 1, 0)`, for the cohort's warp number `warp`."""
    number, row = int(machine.warp_in_cta[cohort.warps[warp]]), int(cohort.rows[warp])
    return f"warp {number} of CTA {machine.cta_name(row)}"


def warp_at(machine: Machine, warp: int, instruction: Instruction) -> str:
    """The machine's warp number `warp` and an instruction that it executed."""
    cta = machine.cta_name(int(machine.row_of_warp[warp]))
    number = machine.warp_in_cta[warp]
    return f"warp {number} of CTA {cta} at PTX line {instruction.line}: `{instruction.text}`"


def warp_at_line(machine: Machine, warp: int, line: int) -> str:
    """The machine's warp number `warp` and the instruction of a PTX line, for what was noted of it."""
    blocks = machine.kernel.program.blocks
    return warp_at(machine, warp, next(one for block in blocks for one in _of(block) if one.line == line))


def remote_access(machine: Machine, warp: int, block: int, by_copy: bool) -> str:
    """A warp and the instruction of a block with which it accessed another CTA's memory, itself or by a copy.

    Only the block was noted: of several such instructions, the last, which counts.
    """
    suits = [
        instruction
        for instruction in _of(machine.kernel.program.blocks[block])
        if instruction.parts[0] in _REMOTE and by_copy == (instruction.parts[1] in _ASYNCHRONOUS)
        if by_copy or not _ELSEWHERE & set(instruction.parts)
    ]
    named = [instruction for instruction in suits if "shared::cluster" in instruction.parts]
    return warp_at(machine, warp, (named or suits)[-1])


def _of(block: Block) -> list[Instruction]:
    return [*block.instructions, *([block.end.instruction] if isinstance(block.end, Wait) else [])]


def deadlock(machine: Machine, parked: list[Cohort], others_wait: list[str]) -> str:
    """What every parked cohort waits for, and what is said of others."""
    told = list(others_wait)
    for cohort in parked:
        wait, _ = machine.kernel.code.wait_operands(cohort.block)
        end = machine.kernel.program.blocks[cohort.block].end
        assert isinstance(end, Wait)
        assert cohort.token is not None
        others = f" (and {len(cohort.warps) - 1} more warps)" if len(cohort.warps) > 1 else ""
        told.append(
            f"{warp_name(machine, cohort, 0)}{others} at PTX line {end.instruction.line}: "
            f"`{end.instruction.text}` waits for {wait.describe(cohort, cohort.token, 0)}"
        )
    return "deadlock: " + "; ".join(told)

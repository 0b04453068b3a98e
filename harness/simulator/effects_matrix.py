"""Moves of 8x8 matrices of 16-bit elements between shared memory and registers.

PTX ISA, "Warp level matrix load instruction: ldmatrix" and "stmatrix". Lane 8 i + r gives the address of row
r of matrix i, 16 bytes; in registers, lane l holds elements 2 (l % 4) and the next of row l // 4. With
.trans, of column l // 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cohort import LANES, Cohort
from harness.simulator.effects import Run, effect
from harness.simulator.effects_memory import load_shared, store_shared
from harness.simulator.errors import SimulationError
from harness.simulator.ptx import Instruction, Vector

Array = npt.NDArray[Any]
ROWS = 8
ROW_BYTES = 16
_MODIFIERS = ("sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta", "b16")


def _matrices(instruction: Instruction, operand: int) -> int:
    """How many matrices it moves; raises for a shape other than .m8n8."""
    unknown = [part for part in instruction.parts[1:] if part not in _MODIFIERS]
    if unknown or "m8n8" not in instruction.parts:
        raise SimulationError(f"unknown modifier .{(unknown or ['m8n8'])[0]} in {instruction.opcode}")
    count = next((int(part[1]) for part in instruction.parts if part in ("x1", "x2", "x4")), 0)
    registers = instruction.operands[operand]
    if len(registers.items if isinstance(registers, Vector) else (registers,)) != count:
        raise SimulationError(f"{instruction.opcode} wants {count} registers")
    return count


def _rows(c: Cohort, m: Any, address: Any, count: int) -> tuple[Array, Array]:
    """(mask [W, 32], addresses [W, 32]) of the rows that the first 8 `count` lanes give."""
    active = c.whole_warps(m, "ldmatrix or stmatrix")
    lanes = np.arange(LANES) < ROWS * count
    return active[:, None] & lanes, c.lanes(np.asarray(address))


@effect("ldmatrix", writes=True)
def load_matrix(instruction: Instruction) -> Run:
    count = _matrices(instruction, 0)
    transposed = "trans" in instruction.parts
    vector = isinstance(instruction.operands[0], Vector)

    def run(c: Cohort, m: Any, address: Any) -> Any:
        mask, addresses = _rows(c, m, address, count)
        words = load_shared(c, mask, addresses, 4, ROW_BYTES // 4)
        # [W, count, row, word]
        held = np.stack([word[:, : ROWS * count] for word in words], -1).reshape(-1, count, ROWS, 4)
        registers = _fragments(held, transposed)
        return tuple(registers) if vector else registers[0]

    return run


def _fragments(held: Array, transposed: bool) -> list[Array]:
    """Between rows [W, count, 8, 4 words] and one register [W, 32] for each matrix; its own inverse."""
    if transposed:
        halves = np.ascontiguousarray(held).view(np.uint16)
        held = np.ascontiguousarray(halves.swapaxes(2, 3)).view(np.uint32)
    return [held[:, i].reshape(-1, LANES) for i in range(held.shape[1])]


@effect("stmatrix")
def store_matrix(instruction: Instruction) -> Run:
    count = _matrices(instruction, 1)
    transposed = "trans" in instruction.parts

    def run(c: Cohort, m: Any, address: Any, values: Any) -> None:
        registers = values if isinstance(values, tuple) else (values,)
        mask, addresses = _rows(c, m, address, count)
        held = np.stack([c.lanes(value).astype(np.uint32) for value in registers], 1).reshape(
            -1, count, ROWS, 4
        )
        rows = np.stack(_fragments(held, transposed), 1).reshape(-1, count * ROWS, 4)
        whole = np.zeros((len(c.warps), LANES, 4), np.uint32)
        whole[:, : count * ROWS] = rows
        store_shared(c, mask, addresses, tuple(whole[..., word] for word in range(4)), 4)

    return run

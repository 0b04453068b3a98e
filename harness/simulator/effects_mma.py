"""`mma.sync`: products of small matrices held in a warp's registers.

PTX ISA, "Multiply-and-Accumulate Instruction: mma" and "Matrix Fragments for mma.m16n8k*". In bytes the
fragments of all types are the same. With q = lane / 4 and l = lane % 4, register 2 c + h of A holds bytes 16
c + 4 l to 16 c + 4 l + 3 of row q + 8 h, register c of B the same bytes of column q; of C and D, value 2 h +
p is row q + 8 h, column 2 l + p, an f16 register holding the two values of a pair p.

Products are summed in float32; in which order, and with how many bits, tensor cores sum is not modelled.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cohort import LANES, Cohort
from harness.simulator.effects import Run, effect
from harness.simulator.effects_wgmma import FORMATS
from harness.simulator.errors import NotSimulatedError
from harness.simulator.number_formats import F16, NumberFormat, decode, encode
from harness.simulator.ptx import Instruction

Array = npt.NDArray[Any]
M, N = 16, 8
# K for each width of A and B in bits: 16 bytes a row, or 32.
DEPTHS = {8: (16, 32), 16: (8, 16), 32: (4, 8)}
_FLAGS = ("sync", "aligned", "row", "col")


@effect("mma", writes=True)
def mma_sync(instruction: Instruction) -> Run:
    """`mma.sync.aligned.m16n8k*.row.col.dtype.atype.btype.ctype d, a, b, c`, dense floating-point forms."""
    shape = next((part for part in instruction.parts if re.fullmatch(r"m16n8k\d+", part)), "")
    types = [part for part in instruction.parts if part in FORMATS]
    unknown = [part for part in instruction.parts[1:] if part not in (*_FLAGS, shape, *types)]
    if unknown or not shape or len(types) != 4 or types[0] not in ("f16", "f32"):
        raise NotSimulatedError(f"{instruction.opcode} is not known")
    out, a_format, b_format, accumulator = (FORMATS[name] for name in types)
    if a_format.bits != b_format.bits or int(shape.removeprefix("m16n8k")) not in DEPTHS[a_format.bits]:
        raise NotSimulatedError(f"{instruction.opcode} is not known")

    def run(c: Cohort, m: Any, a: Any, b: Any, addend: Any) -> tuple[Array, ...]:
        c.whole_warps(m, "mma.sync")
        left = _rows(_registers(c, a), M // 8, a_format)
        right = _rows(_registers(c, b), 1, b_format)
        total = left @ right.swapaxes(1, 2) + _accumulator(_registers(c, addend), accumulator)
        return _fragments(total, out)

    return run


def _registers(c: Cohort, values: Any) -> Array:
    """A vector operand's registers, uint32 [W, registers, 32]."""
    items = values if isinstance(values, tuple) else (values,)
    return np.stack([c.lanes(np.asarray(value, np.uint32)) for value in items], 1)


def _rows(registers: Array, halves: int, number_format: NumberFormat) -> Array:
    """A [W, 16, k] (`halves` 2), or B by columns [W, 8, k] (1), in float32."""
    split = registers.reshape(len(registers), -1, halves, 8, 4)  # [W, c, h, q, l]
    words = np.ascontiguousarray(split.transpose(0, 2, 3, 1, 4)).reshape(len(registers), 8 * halves, -1)
    return decode(words.view(np.dtype(f"u{number_format.container_bits // 8}")), number_format)


def _accumulator(registers: Array, number_format: NumberFormat) -> Array:
    """C [W, 16, 8] in float32."""
    if number_format is F16:
        values = np.ascontiguousarray(registers)[..., None].view(np.uint16)  # [W, h, lane, p]
        split = values.reshape(len(registers), 2, 8, 4, 2)
    else:
        split = registers.reshape(len(registers), 2, 2, 8, 4).transpose(0, 1, 3, 4, 2)  # [W, h, q, l, p]
    return decode(np.ascontiguousarray(split).reshape(len(registers), M, N), number_format)


def _fragments(total: Array, number_format: NumberFormat) -> tuple[Array, ...]:
    """D's registers, each uint32 [W, 32]; the inverse of `_accumulator`, rounding to the type."""
    warps = len(total)
    split = total.astype(np.float32).reshape(warps, 2, 8, 4, 2)  # [W, h, q, l, p]
    if number_format is F16:
        codes = np.ascontiguousarray(encode(split, F16).astype(np.uint16)).view(np.uint32)
        return tuple(codes.reshape(warps, 2, LANES).swapaxes(0, 1))
    codes = np.ascontiguousarray(split.transpose(1, 4, 0, 2, 3)).view(np.uint32)
    return tuple(codes.reshape(4, warps, LANES))

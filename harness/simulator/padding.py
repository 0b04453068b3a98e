"""Registers that fill up a packed one: the compiler's undefined values.

An odd number of columns, multiplied two at a time, leaves one half of the last pair to nobody. The compiler
packs a register for it that no instruction writes, and uses nothing that becomes of it. Such a half is no
error; it is all ones, a NaN, so that whatever depends on it after all gives a wrong result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from harness.simulator.codegen import names_of
from harness.simulator.ptx import Instruction, Reg, Vector


def padding(instructions: Iterable[Instruction]) -> dict[str, Any]:
    """The registers of a kernel that are only ever packed, and never written, with what they hold."""
    named: Counter[str] = Counter()
    packed: Counter[str] = Counter()
    bits: dict[str, int] = {}
    for instruction in instructions:
        named.update(names_of(instruction))
        match instruction.operands:
            case (Reg(), Vector(items)) if instruction.parts[0] == "mov":
                halves = [item.name for item in items if isinstance(item, Reg)]
                packed.update(halves)
                bits |= dict.fromkeys(halves, int(instruction.parts[-1][1:]) // len(items))
    return {
        name: np.dtype(f"u{bits[name] // 8}").type(2 ** bits[name] - 1)
        for name, count in packed.items()
        if count == named[name]
    }

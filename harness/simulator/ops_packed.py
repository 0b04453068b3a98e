"""Instructions on two numbers in one register: packed `.f16x2`, `.bf16x2`, `.f32x2`, `.u16x2` and `.s16x2`.

They are the scalar instructions applied to both halves.
"""

from __future__ import annotations

import numpy as np

from harness.simulator.ops_compare import COMBINATIONS, FLOAT_COMPARISONS
from harness.simulator.packed import halves, unpack
from harness.simulator.registry import Bits, Execute, Form, find, instruction

_HALVES = "f16x2 bf16x2"
_ARITHMETIC = "rn rz rm rp ftz sat relu"
_LIMITS = "ftz NaN xorsign abs relu"


@instruction("add", f"{_HALVES} f32x2 u16x2 s16x2", _ARITHMETIC)
@instruction("sub", f"{_HALVES} f32x2", _ARITHMETIC)
@instruction("mul", f"{_HALVES} f32x2", _ARITHMETIC)
@instruction("fma", f"{_HALVES} f32x2", _ARITHMETIC)
@instruction("min", f"{_HALVES} u16x2 s16x2", _LIMITS)
@instruction("max", f"{_HALVES} u16x2 s16x2", _LIMITS)
@instruction("abs", _HALVES, "ftz")
@instruction("neg", _HALVES, "ftz")
@instruction("ex2", _HALVES, "approx ftz")
@instruction("tanh", _HALVES, "approx")
def both_halves(form: Form) -> Execute:
    """The scalar instruction on the low and on the high halves."""
    return halves(find(_scalar(form), 1), np.uint32 if form.type == "f32x2" else np.uint16)


def _scalar(form: Form) -> Form:
    return Form(form.opcode, tuple(name.removesuffix("x2") for name in form.modifiers))


@instruction("setp", _HALVES, " ".join((*FLOAT_COMPARISONS, *COMBINATIONS, "ftz")), destinations=2)
def setp(form: Form) -> Execute:
    """p compares the low halves, q the high ones, both combined with the same predicate."""
    compare = find(_scalar(form), 1)

    def execute(a: Bits, b: Bits, *c: Bits) -> tuple[Bits, Bits]:
        (a_low, a_high), (b_low, b_high) = unpack(a, 2), unpack(b, 2)
        return compare(a_low, b_low, *c), compare(a_high, b_high, *c)

    return execute

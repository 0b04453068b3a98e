"""f16 and bf16 arithmetic (PTX ISA 9.7.4 "Half Precision Floating Point Instructions" and 9.7.5 for mixed).

Products of two such numbers are exact in float64. So are sums, unless the smaller term is too small to
matter: the larger one is a number of the format, so their sum is no tie. With a product it can be one, and
is rounded to odd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.simulator.errors import SimulationError
from harness.simulator.float_bits import READERS, flush_f16, flushing, saturate
from harness.simulator.number_formats import FORMATS, encode
from harness.simulator.registry import Bits, Execute, Form, find, instruction
from harness.simulator.rounding import F64, MODES, Floats, odd_sum

_TYPES = "f16 bf16"
_FLAGS = "rn ftz sat relu"
_MIXED = " ".join((*MODES, "ftz", "sat", "relu"))


def _rounded(form: Form, function: Callable[..., Floats]) -> Execute:
    """`function` of the operands as float64, rounded to nearest in the form's format."""
    read, number_format, relu = READERS[form.type], FORMATS[form.type], "relu" in form
    limit: Callable[[Any], Any] = saturate if "sat" in form else np.positive

    def execute(*operands: Bits) -> Bits:
        exact = function(*(read(x).astype(F64) for x in operands))
        return encode(limit(exact), number_format, relu=relu).astype(np.uint16)[()]

    return flushing(execute, flush_f16) if "ftz" in form and form.type == "f16" else execute


def _mixed(form: Form) -> Execute | None:
    """For `add.f32.bf16 d, a, c` and the like the f32 instruction of the widened operands, else None."""
    if len(form.types) == 1:
        return None
    target, source = form.types
    if target != "f32":
        raise SimulationError(f"unknown instruction {form}")
    read = READERS[source]
    operation = find(Form(form.opcode, tuple(name for name in form.modifiers if name != source)), 1)

    def execute(*operands: Bits) -> Bits:
        *narrow, last = operands
        return operation(*(read(x).astype(np.float32).view(np.uint32) for x in narrow), last)

    return execute


@instruction("add", _TYPES, _MIXED, results="f32")
def add(form: Form) -> Execute:
    """a + b, or f32 a + c with a half-precision a."""
    return _mixed(form) or _rounded(form, np.add)


@instruction("sub", _TYPES, _MIXED, results="f32")
def sub(form: Form) -> Execute:
    """a - b, or f32 a - c with a half-precision a."""
    return _mixed(form) or _rounded(form, np.subtract)


@instruction("mul", _TYPES, _FLAGS)
def mul(form: Form) -> Execute:
    """a * b."""
    return _rounded(form, np.multiply)


@instruction("fma", _TYPES, _MIXED, results="f32")
def fma(form: Form) -> Execute:
    """a * b + c rounded once; f32 with half-precision a and b in the mixed form."""
    return _mixed(form) or _rounded(form, lambda a, b, c: odd_sum(a * b, c))


@instruction("ex2", _TYPES, "approx ftz")
def ex2(form: Form) -> Execute:
    """2^a, rounded from float64 (ISA: relative error 2^-9.9 for f16, 2^-7 for bf16)."""
    return _rounded(form, np.exp2)


@instruction("tanh", _TYPES, "approx")
def tanh(form: Form) -> Execute:
    """The hyperbolic tangent, rounded from float64 (ISA: error 2^-10.987 for f16, 2^-8 for bf16)."""
    return _rounded(form, np.tanh)

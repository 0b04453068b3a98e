"""Floating-point `min` and `max` (PTX ISA 9.7.3 and 9.7.4): -0 is below +0, and NaNs are set aside.

A NaN counts only with `.NaN` or where all operands are NaN; the result is the canonical one then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.simulator.float_bits import READERS, WRITERS, flush, flush_f16, flushing
from harness.simulator.registry import Bits, Execute, Form, instruction
from harness.simulator.rounding import Floats, select

_TYPES = "f16 bf16 f32 f64"
_FLAGS = "ftz NaN xorsign abs"


@instruction("min", _TYPES, _FLAGS)
def min_(form: Form) -> Execute:
    """The smallest of two or three operands, or magnitudes with `.abs`."""
    return _limit(form, np.minimum, np.bitwise_or)


@instruction("max", _TYPES, _FLAGS)
def max_(form: Form) -> Execute:
    """The largest of two or three operands, or magnitudes with `.abs`."""
    return _limit(form, np.maximum, np.bitwise_and)


def _limit(form: Form, choose: Callable[..., Any], of_zeros: Callable[..., Any]) -> Execute:
    read, write = READERS[form.type], WRITERS[form.type]
    size = 2 if form.type == "bf16" else form.dtype.itemsize
    unsigned = np.dtype(f"u{size}").type
    one, sign = unsigned(1), unsigned(1 << (8 * size - 1))

    def number(x: Floats, y: Floats) -> Floats:
        """What numpy's fmin and fmax do, except that those propagate signalling NaNs of numpy scalars."""
        result = choose(x, y)
        if np.count_nonzero(result != result):
            result = select(x != x, y, select(y != y, x, result))
        return result

    limit_of = choose if "NaN" in form else number

    def two(a: Bits, b: Bits) -> Bits:
        result = limit_of(read(a), read(b))
        bits = write(result)
        # numpy does not order the zeros; where both operands are zeros, and and or of their bits do.
        zero = result == 0
        if np.count_nonzero(zero):
            bits = select(zero & (((a | b) << one) == 0), of_zeros(a, b), bits)
        return bits

    def two_magnitudes(a: Bits, b: Bits) -> Bits:
        limit = two(a & ~sign, b & ~sign)
        if "xorsign" not in form:
            return limit
        return select(read(limit) == read(limit), limit | ((a ^ b) & sign), limit)

    pairwise = two_magnitudes if "abs" in form else two

    def execute(a: Bits, b: Bits, *more: Bits) -> Bits:
        result = pairwise(a, b)
        for operand in more:
            result = pairwise(result, operand)
        return result

    if "ftz" not in form:
        return execute
    return flushing(execute, flush_f16 if form.type == "f16" else flush)

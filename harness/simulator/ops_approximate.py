"""Transcendental instructions (PTX ISA 9.7.3: `rsqrt`, `ex2`, `lg2`, `sin`, `cos`, `tanh`).

Hardware approximates; the PTX ISA bounds the error. Here the float64 function is rounded to f32:
correctly, but for float64's own error of about an ulp. A kernel's results may therefore differ from
hardware's within these bounds:

    rsqrt.approx.f32   relative error 2^-22.9        ex2.approx.f32    2 ulp
    lg2.approx.f32     absolute error 2^-22 for 0.5 < a < 2, else relative error 2^-22
    sin.approx.f32     absolute error 2^-20.5 in [-2 pi, 2 pi]         cos.approx.f32    the same
    tanh.approx.f32    relative error 2^-11
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.simulator.ops_float import on_floats
from harness.simulator.registry import Execute, Form, instruction
from harness.simulator.rounding import F32, F64, Floats


def _rounded(form: Form, function: Callable[..., Floats]) -> Execute:
    return on_floats(form, lambda a: function(a.astype(F64)).astype(F32))


@instruction("rsqrt", "f32", "approx ftz")
def rsqrt(form: Form) -> Execute:
    """1 / sqrt(a): infinity with the sign of a zero, NaN below zero."""
    return _rounded(form, lambda a: 1 / np.sqrt(a))


@instruction("ex2", "f32", "approx ftz")
def ex2(form: Form) -> Execute:
    """2^a."""
    return _rounded(form, np.exp2)


@instruction("lg2", "f32", "approx ftz")
def lg2(form: Form) -> Execute:
    """The binary logarithm: -infinity of either zero, NaN below zero."""
    return _rounded(form, np.log2)


@instruction("sin", "f32", "approx ftz")
def sin(form: Form) -> Execute:
    """The sine of an angle in radians."""
    return _rounded(form, np.sin)


@instruction("cos", "f32", "approx ftz")
def cos(form: Form) -> Execute:
    """The cosine of an angle in radians."""
    return _rounded(form, np.cos)


@instruction("tanh", "f32", "approx")
def tanh(form: Form) -> Execute:
    """The hyperbolic tangent."""
    return _rounded(form, np.tanh)

"""f32 and f64 arithmetic with IEEE rounding (PTX ISA 9.7.3 "Floating Point Instructions").

float64 results are rounded to nearest only, as no other mode has been met.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.simulator.errors import SimulationError
from harness.simulator.float_bits import (
    READERS,
    WRITERS,
    bits_f32,
    bits_f64,
    flush,
    flush_f16,
    flushing,
    saturate,
)
from harness.simulator.products import fused
from harness.simulator.registry import Execute, Form, instruction
from harness.simulator.rounding import F32, F64, MODES, Floats, directed, select, sum_f32, to_f32

_ROUNDED = " ".join((*MODES, "ftz", "sat"))


def mode_of(form: Form) -> str:
    """The rounding mode, to nearest by default."""
    return form.one_of(*MODES, default="rn")


def _nearest_only(form: Form) -> None:
    if form.type == "f64" and mode_of(form) != "rn":
        raise SimulationError(f"{form}: f64 rounds to nearest only")


def on_floats(form: Form, function: Callable[..., Floats]) -> Execute:
    """`function` of the operands read as floats, with the form's `.ftz` and `.sat`, as bits."""
    _nearest_only(form)
    read = READERS[form.type]
    write = bits_f32 if form.type == "f32" else bits_f64
    if "sat" in form:
        execute = lambda *operands: write(saturate(function(*(read(x) for x in operands))))  # noqa: E731
    else:
        execute = lambda *operands: write(function(*(read(x) for x in operands)))  # noqa: E731
    return flushing(execute) if "ftz" in form else execute


def _add_f32(mode: str) -> Callable[..., Floats]:
    if mode == "rn":
        return np.add
    return lambda a, b: sum_f32(a.astype(F64), b.astype(F64), mode)


@instruction("add", "f32 f64", _ROUNDED)
def add(form: Form) -> Execute:
    """a + b."""
    return on_floats(form, _add_f32(mode_of(form)))


@instruction("sub", "f32 f64", _ROUNDED)
def sub(form: Form) -> Execute:
    """a - b."""
    total = _add_f32(mode_of(form))
    return on_floats(form, np.subtract if total is np.add else lambda a, b: total(a, -b))


@instruction("mul", "f32 f64", _ROUNDED)
def mul(form: Form) -> Execute:
    """a * b."""
    mode = mode_of(form)
    if mode == "rn":
        return on_floats(form, np.multiply)
    return on_floats(form, lambda a, b: to_f32(a.astype(F64) * b.astype(F64), mode))


@instruction("fma", "f32", _ROUNDED)
@instruction("mad", "f32", _ROUNDED)
def fma(form: Form) -> Execute:
    """a * b + c, rounded once."""
    mode = mode_of(form)

    def execute(a: Floats, b: Floats, c: Floats) -> Floats:
        result = fused(a, b, c) if mode == "rn" else None
        return sum_f32(a.astype(F64) * b.astype(F64), c.astype(F64), mode) if result is None else result

    return on_floats(form, execute)


def divided(a: Floats, b: Floats, mode: str) -> Floats:
    """float32 a / b. float64 gives the right sign of the residual a - q b, because q b is exact there."""
    quotient = a / b
    if mode == "rn":
        return quotient
    wide = b.astype(F64)
    return directed(quotient, (a - quotient * wide) * np.sign(wide), mode)


@instruction("div", "f32 f64", f"{_ROUNDED} full approx")
def div(form: Form) -> Execute:
    """a / b. `.full` (2 ulp) and `.approx` (2 ulp for 2^-126 <= |b| <= 2^126) are rounded correctly here.

    `.approx` multiplies by a reciprocal. That underflows for |b| > 2^126: the result is 0, of infinity NaN.
    """
    if "approx" not in form:
        mode = mode_of(form)
        return on_floats(form, np.divide if form.type == "f64" else lambda a, b: divided(a, b, mode))

    def approximate(a: Floats, b: Floats) -> Floats:
        large = np.abs(b) > F32(2.0**126)
        return select(large, a * np.copysign(F32(0), b), a / b)

    return on_floats(form, approximate)


@instruction("rcp", "f32 f64", f"{_ROUNDED} approx")
def rcp(form: Form) -> Execute:
    """1 / a; `.approx` (1 ulp) is rounded correctly here."""
    if form.type == "f64" and "approx" in form:
        raise SimulationError(f"{form}: only its upper 32 bits are defined, which is not modelled")
    mode, one = mode_of(form), F32(1)
    return on_floats(form, np.reciprocal if mode == "rn" else lambda a: divided(one, a, mode))


@instruction("sqrt", "f32 f64", f"{_ROUNDED} approx")
def sqrt(form: Form) -> Execute:
    """The square root; `.approx` (1 ulp) is rounded correctly here."""
    mode = mode_of(form)
    if mode == "rn":
        return on_floats(form, np.sqrt)

    def root(a: Floats) -> Floats:
        nearest = np.sqrt(a)
        return directed(nearest, a - np.square(nearest, dtype=F64), mode)

    return on_floats(form, root)


@instruction("abs", "f16 f32", "ftz")
@instruction("abs", "bf16 f64")
def abs_(form: Form) -> Execute:
    """|a|."""
    return _on_sign(form, np.abs)


@instruction("neg", "f16 f32", "ftz")
@instruction("neg", "bf16 f64")
def neg(form: Form) -> Execute:
    """-a."""
    return _on_sign(form, np.negative)


def _on_sign(form: Form, function: Callable[[Floats], Floats]) -> Execute:
    """`function`, as hardware does it: adding -0, so that NaNs come out as from any addition.

    The ISA leaves the NaN open; f32 and halves give the canonical one, which `neg` does not make negative.
    """
    read, write = READERS[form.type], WRITERS[form.type]
    if form.type == "f64":  # an H100 makes a NaN quiet and leaves its sign, neg and abs or not
        execute = lambda a: write(  # noqa: E731
            select(np.isnan(read(a)), read(a) + F64(-0.0), function(read(a)))
        )
    else:
        execute = lambda a: write(function(read(a)))  # noqa: E731
    return flushing(execute, flush_f16 if form.type == "f16" else flush) if "ftz" in form else execute


@instruction("copysign", "f32 f64")
def copysign(form: Form) -> Execute:
    """b with the sign of a."""
    sign = np.uint32(1 << 31) if form.type == "f32" else np.uint64(1 << 63)
    return lambda a, b: (a & sign) | (b & ~sign)


@instruction("testp", "f32 f64", "finite infinite number notanumber normal subnormal")
def testp(form: Form) -> Execute:
    """Whether the operand is of the named kind; the ISA counts both zeros as normal."""
    read, smallest = READERS[form.type], np.finfo(form.dtype).smallest_normal
    tests: dict[str, Callable[[Floats], Any]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: x == x,
        "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & ((np.abs(x) >= smallest) | (x == 0)),
        "subnormal": lambda x: (np.abs(x) < smallest) & (x != 0),
    }
    test = tests[form.one_of(*tests)]
    return lambda a: test(read(a))

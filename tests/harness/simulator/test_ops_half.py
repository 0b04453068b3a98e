"""f16, bf16 and packed arithmetic against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import strategies as st

from harness.simulator.instruction_set import lookup
from tests.harness.simulator.exact import f32_bits, f32_operands, f32_value, given, integers, rounded

FORMATS = {"f16": (11, -14, 15), "bf16": (8, -126, 127)}


def value(bits: int, type_: str) -> float:
    if type_ == "f16":
        return float(np.uint16(bits).view(np.float16))
    return f32_value(bits << 16)


def run(spelling: str, *bits: int) -> int:
    return int(lookup(tuple(spelling.split(".")))(*(np.uint16(b) for b in bits)))


@pytest.mark.parametrize("type_", FORMATS)
@given(integers(16), integers(16), integers(16))
def test_arithmetic_rounds_once(type_: str, a: int, b: int, c: int) -> None:
    x, y, z = (value(bits, type_) for bits in (a, b, c))
    if not all(map(math.isfinite, (x, y, z))):
        assert math.isnan(value(run(f"add.{type_}", a, b), type_)) == math.isnan(x + y)
        return
    exact = {
        f"add.{type_}": ((a, b), Fraction(x) + Fraction(y)),
        f"sub.{type_}": ((a, b), Fraction(x) - Fraction(y)),
        f"mul.{type_}": ((a, b), Fraction(x) * Fraction(y)),
        f"fma.rn.{type_}": ((a, b, c), Fraction(x) * Fraction(y) + Fraction(z)),
    }
    for spelling, (operands, result) in exact.items():
        assert value(run(spelling, *operands), type_) == rounded(result, "rn", *FORMATS[type_])


@pytest.mark.parametrize(("c", "steps"), [(2.0**-100, 1), (0.0, 0), (-(2.0**-100), 0)])
def test_fma_of_bf16_breaks_ties_by_what_float64_loses(c: float, steps: int) -> None:
    """(1 + 2^-4)^2 = 1 + 2^-3 + 2^-8 is midway between two bf16."""
    factor, addend, below = (f32_bits(x) >> 16 for x in (1 + 2.0**-4, c, 1 + 2.0**-3))
    assert run("fma.rn.bf16", factor, factor, addend) == below + steps


@pytest.mark.parametrize("type_", FORMATS)
@given(integers(16))
def test_signs(type_: str, a: int) -> None:
    nan = math.isnan(value(a, type_))
    assert run(f"neg.{type_}", a) == (0x7FFF if nan else a ^ 0x8000)
    assert run(f"abs.{type_}", a) == (0x7FFF if nan else a & 0x7FFF)
    if type_ == "f16" and a & 0x7C00 == 0:
        assert run("neg.ftz.f16", a) == (a ^ 0x8000) & 0x8000
        assert run("abs.ftz.f16", a) == 0


PAIRED = (
    "add.f16 mul.bf16 fma.rn.f16 min.bf16 max.NaN.f16 tanh.approx.bf16 neg.ftz.f16 abs.bf16 add.u16 min.s16"
)


@pytest.mark.parametrize("spelling", PAIRED.split())
@given(operands=st.tuples(integers(32), integers(32), integers(32)))
def test_pairs_are_two_of_the_scalar_instruction(spelling: str, operands: tuple[int, ...]) -> None:
    count = {"fma": 3, "tanh": 1, "neg": 1, "abs": 1}.get(spelling.split(".")[0], 2)
    halves = [(x >> 16, x & 0xFFFF) for x in operands[:count]]
    high, low = (run(spelling, *(half[i] for half in halves)) for i in (0, 1))
    packed = lookup(tuple(f"{spelling}x2".split(".")))(*(np.uint32(x) for x in operands[:count]))
    assert packed.dtype == np.uint32
    assert int(packed) == high << 16 | low


@pytest.mark.parametrize("spelling", ["add.rn", "sub.rz", "mul.rp", "fma.rm", "fma.rn.ftz"])
@given(st.lists(st.tuples(f32_operands(), f32_operands()), min_size=3, max_size=3))
def test_f32_pairs(spelling: str, operands: list[tuple[int, int]]) -> None:
    count = 3 if spelling.startswith("fma") else 2
    scalar = lookup((*spelling.split("."), "f32"))
    high, low = (int(scalar(*(np.uint32(pair[i]) for pair in operands[:count]))) for i in (0, 1))
    packed = lookup((*spelling.split("."), "f32x2"))(
        *(np.uint64(pair[0] << 32 | pair[1]) for pair in operands[:count])
    )
    assert int(packed) == high << 32 | low


@given(f32_operands(), integers(16), integers(16))
def test_mixed_precision_is_f32_arithmetic_of_widened_operands(c: int, a: int, b: int) -> None:
    for half in FORMATS:
        widen = lookup(("cvt", "f32", half))
        wide = widen(np.uint16(a)), widen(np.uint16(b))
        mixed = lookup(("fma", "rz", "f32", half))(np.uint16(a), np.uint16(b), np.uint32(c))
        assert mixed == lookup(("fma", "rz", "f32"))(*wide, np.uint32(c))
        for name in ("add", "sub"):
            mixed = lookup((name, "f32", half))(np.uint16(a), np.uint32(c))
            assert mixed == lookup((name, "f32"))(wide[0], np.uint32(c))


def test_comparison_of_pairs_gives_a_predicate_each() -> None:
    a, b = np.uint32(0x3C00_4000), np.uint32(0x4000_3C00)  # high: 1 < 2, low: 2 > 1
    p, q = lookup(("setp", "lt", "f16x2"), 2)(a, b)
    assert (bool(p), bool(q)) == (False, True)
    p, q = lookup(("setp", "gt", "or", "f16x2"), 2)(a, b, np.bool_(False))
    assert (bool(p), bool(q)) == (True, False)

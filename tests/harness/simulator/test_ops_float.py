"""f32 and f64 arithmetic against exact rational arithmetic, with the ISA's rules for special values."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import strategies as st

from harness.simulator.errors import SimulationError
from harness.simulator.instruction_set import lookup
from tests.harness.simulator.exact import NAN, SPECIAL_F32, f32_bits, f32_operands, f32_value, given, rounded

MODES = ("rn", "rz", "rm", "rp")


def run(spelling: str, *bits: int) -> int:
    return int(lookup(tuple(spelling.split(".")))(*(np.uint32(b) for b in bits)))


def expected_sum(terms: list[float], exact: Fraction | None, mode: str) -> int:
    """The bits of a sum of `terms` (zeros and specials too), whose value is `exact` where all are finite."""
    if exact is None:
        return f32_bits(math.fsum(terms) if not (math.inf in terms and -math.inf in terms) else math.nan)
    if exact == 0:
        signs = {math.copysign(1, term) for term in terms}
        negative = signs == {-1.0} or (len(signs) == 2 and mode == "rm")
        return 0x80000000 if negative else 0
    return f32_bits(rounded(exact, mode))


def finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)


@pytest.mark.parametrize("mode", MODES)
@given(f32_operands(), f32_operands(), f32_operands())
def test_fma_rounds_once(mode: str, a: int, b: int, c: int) -> None:
    x, y, z = map(f32_value, (a, b, c))
    if finite(x, y, z):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        product = math.copysign(0.0, math.copysign(1, x) * math.copysign(1, y))
        if exact == 0 and Fraction(z) != 0:
            product = -z
        want = expected_sum([product, z], exact, mode)
    else:
        want = f32_bits(x * y + z)
    assert run(f"fma.{mode}.f32", a, b, c) == want


@pytest.mark.parametrize("mode", MODES)
@given(f32_operands(), f32_operands())
def test_add_and_sub(mode: str, a: int, b: int) -> None:
    x, y = map(f32_value, (a, b))
    for spelling, y_signed in ((f"add.{mode}.f32", y), (f"sub.{mode}.f32", -y)):
        exact = Fraction(x) + Fraction(y_signed) if finite(x, y) else None
        want = f32_bits(x + y_signed) if exact is None else expected_sum([x, y_signed], exact, mode)
        assert run(spelling, a, b) == want


@pytest.mark.parametrize("mode", MODES)
@given(f32_operands(), f32_operands())
def test_mul_and_div(mode: str, a: int, b: int) -> None:
    x, y = map(f32_value, (a, b))
    sign = math.copysign(1, x) * math.copysign(1, y)
    if finite(x, y):
        product = math.copysign(rounded(abs(Fraction(x) * Fraction(y)) * int(sign), mode), sign)
        assert run(f"mul.{mode}.f32", a, b) == f32_bits(product)
    if finite(x, y) and y != 0:
        quotient = math.copysign(rounded(Fraction(x) / Fraction(y), mode), sign)
    elif math.isnan(x) or math.isnan(y) or abs(x) == abs(y):
        quotient = math.nan
    else:
        quotient = math.copysign(math.inf if y == 0 or math.isinf(x) else 0.0, sign)
    assert run(f"div.{mode}.f32", a, b) == f32_bits(quotient)
    if x == 1:
        assert run(f"rcp.{mode}.f32", b) == f32_bits(quotient)


@pytest.mark.parametrize("mode", MODES)
@given(f32_operands())
def test_sqrt(mode: str, a: int) -> None:
    x = f32_value(a)
    got = run(f"sqrt.{mode}.f32", a)
    if x < 0 or math.isnan(x):
        assert got == NAN
    elif x == 0 or math.isinf(x):
        assert got == a
    else:
        # 60 bits of the root decide every mode; a root of at most 24 bits is exact, any other irrational.
        scaled = Fraction(x) * 4**200
        root = Fraction(math.isqrt(int(scaled)), 2**200)
        inexact = root * root != Fraction(x)
        assert got == f32_bits(rounded(root + inexact * Fraction(1, 2**201), mode))


@pytest.mark.parametrize(("term", "steps"), [(2.0**-100, 1), (0.0, 0), (-(2.0**-100), 0)])
def test_fma_breaks_ties_by_what_float64_loses(term: float, steps: int) -> None:
    """(1 + 2^-12)^2 is midway between two float32; a term far below float64's last bit decides."""
    factor = f32_bits(1 + 2.0**-12)
    assert run("fma.rn.f32", factor, factor, f32_bits(term)) == f32_bits(1 + 2.0**-11) + steps


@pytest.mark.parametrize("spelling", ["add.ftz.f32", "mul.ftz.f32", "fma.rn.ftz.f32", "sqrt.rn.ftz.f32"])
def test_ftz_flushes_operands_and_results_to_zeros_of_their_sign(spelling: str) -> None:
    tiny, negative = 0x00400000, 0x80400000
    if spelling.startswith("add"):
        assert run(spelling, tiny, 0) == 0
        assert run(spelling, negative, 0x80000000) == 0x80000000
        assert run(spelling, 0x00C00000, 0x80800000) == 0  # a subnormal difference of normal numbers
    elif spelling.startswith("mul"):
        assert run(spelling, negative, 0x7F000000) == 0x80000000
        assert run(spelling, 0x80800000, 0x3F000000) == 0x80000000
    elif spelling.startswith("fma"):
        assert run(spelling, tiny, 0x7F000000, 0x3F800000) == 0x3F800000
    else:
        assert run(spelling, tiny) == 0


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        (0x3F000000, 0x3F400000, 0x3F800000),
        (0xBF000000, 0, 0),
        (0x7FC00000, 0, 0),
        (0x3E800000, 0, 0x3E800000),
    ],
)
def test_sat_limits_to_the_unit_interval_and_makes_nan_zero(a: int, b: int, want: int) -> None:
    assert run("add.sat.f32", a, b) == want


@pytest.mark.parametrize("bits", [0x7F800001, 0xFFC00123, 0x7FFFFFFF])
def test_every_nan_becomes_the_canonical_one(bits: int) -> None:
    one = 0x3F800000
    for spelling in ("add.f32", "sub.f32", "mul.f32", "div.rn.f32", "min.NaN.f32", "max.NaN.f32"):
        assert run(spelling, bits, one) == run(spelling, one, bits) == NAN
    assert run("fma.rn.f32", one, one, bits) == NAN
    assert run("min.f32", bits, bits) == run("max.f32", bits, bits) == NAN
    assert run("mul.f32", 0x7F800000, 0) == NAN  # invalid: a negative NaN on the host


def limit(kind: str, a: int, b: int) -> int:
    x, y = f32_value(a), f32_value(b)
    if math.isnan(x) or math.isnan(y):
        return b if not math.isnan(y) else a if not math.isnan(x) else NAN
    key_a, key_b = (x, math.copysign(1, x)), (y, math.copysign(1, y))
    return (a if key_a <= key_b else b) if kind == "min" else (a if key_a >= key_b else b)


@pytest.mark.parametrize("kind", ["min", "max"])
def test_min_and_max_of_all_pairs_of_special_values(kind: str) -> None:
    a = np.array(SPECIAL_F32, np.uint32)[:, None]
    b = np.array(SPECIAL_F32, np.uint32)[None, :]
    got = lookup((kind, "f32"))(np.broadcast_to(a, (16, 16)), np.broadcast_to(b, (16, 16)))
    want = [[limit(kind, x, y) for y in SPECIAL_F32] for x in SPECIAL_F32]
    assert got.tolist() == want
    strict = lookup((kind, "NaN", "f32"))(a.repeat(16, 1), b.repeat(16, 0))
    nan = [[math.isnan(f32_value(x)) or math.isnan(f32_value(y)) for y in SPECIAL_F32] for x in SPECIAL_F32]
    assert strict.tolist() == np.where(nan, NAN, want).tolist()


def test_min_of_magnitudes_with_the_product_of_signs() -> None:
    assert run("min.xorsign.abs.f32", 0xC0000000, 0x3F800000) == 0xBF800000
    assert run("max.xorsign.abs.f32", 0xC0000000, 0xBF800000) == 0x40000000


@given(st.floats(), st.floats())
def test_f64_arithmetic_is_the_hosts(x: float, y: float) -> None:
    a, b = np.float64(x).view(np.uint64), np.float64(y).view(np.uint64)
    for spelling, want in (("add", x + y), ("sub", x - y), ("mul", x * y)):
        got = lookup((spelling, "f64"))(a, b).view(np.float64)
        np.testing.assert_equal(got, np.float64(want))


def test_signs_and_kinds() -> None:
    assert run("neg.f32", 0x80000000) == run("abs.f32", 0x80000000) == 0
    assert run("neg.f32", 0x80000001) == 1
    assert run("neg.ftz.f32", 1) == 0x80000000
    assert run("abs.ftz.f32", 0x807FFFFF) == 0
    assert run("copysign.f32", 0x80000000, 0x3F800000) == 0xBF800000
    kinds = {"finite": 0x3F800000, "infinite": 0xFF800000, "number": 1, "notanumber": NAN}
    kinds |= {"normal": 0x00800000, "subnormal": 0x007FFFFF}
    for zero in (0, 0x80000000):
        assert run("testp.normal.f32", zero)
    for kind, bits in kinds.items():
        assert run(f"testp.{kind}.f32", bits)
    assert not run("testp.normal.f32", 0x007FFFFF)
    assert not run("testp.subnormal.f32", 0)


def test_approximate_division_by_a_huge_number() -> None:
    huge = f32_bits(2.0**127)
    assert run("div.approx.f32", f32_bits(2.0**127), huge) == 0
    assert run("div.approx.f32", 0x7F800000, huge) == NAN
    assert run("div.full.f32", f32_bits(2.0**127), huge) == 0x3F800000
    assert run("div.approx.f32", f32_bits(-3.0), f32_bits(2.0)) == f32_bits(-1.5)


def test_unknown_spellings_are_named() -> None:
    with pytest.raises(SimulationError, match=r"unknown modifier \.rn2 in add\.rn2\.f32"):
        lookup(("add", "rn2", "f32"))
    with pytest.raises(SimulationError, match=r"frobnicate\.f32"):
        lookup(("frobnicate", "f32"))
    with pytest.raises(SimulationError, match="f64 rounds to nearest only"):
        lookup(("add", "rm", "f64"))

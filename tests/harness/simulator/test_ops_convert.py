"""Conversions against exact rational arithmetic and the ISA's rules for what has no exact value."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import strategies as st

from harness.simulator.errors import SimulationError
from harness.simulator.instruction_set import lookup
from tests.harness.simulator.exact import (
    f32_bits,
    f32_operands,
    f32_value,
    given,
    integers,
    register,
    rounded,
    signed,
)

INTEGERS = ("s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64")
MODES = ("rn", "rz", "rm", "rp")
# Precision, lowest and highest exponent.
FORMATS = {"f16": (11, -14, 15), "bf16": (8, -126, 127), "f32": (24, -126, 127), "tf32": (11, -126, 127)}


def run(spelling: str, *operands: tuple[int, int]) -> int:
    return int(lookup(tuple(spelling.split(".")))(*(register(*operand) for operand in operands)))


def value(bits: int, type_: str) -> int:
    width = int(type_[1:])
    bits %= 1 << width
    return signed(bits, width) if type_[0] == "s" else bits


def limits(type_: str) -> tuple[int, int]:
    width = int(type_[1:])
    return (-(1 << (width - 1)), (1 << (width - 1)) - 1) if type_[0] == "s" else (0, (1 << width) - 1)


def float_bits(x: float, type_: str) -> int:
    """The bits of a number that the format has; NaNs are canonical."""
    if math.isnan(x):
        return {"f32": 0x7FFFFFFF, "tf32": 0x7FFFE000}.get(type_, 0x7FFF)
    if type_ == "f16":
        return int(struct.unpack("<H", struct.pack("<e", x))[0])
    return f32_bits(x) >> (16 if type_ == "bf16" else 0)


@pytest.mark.parametrize("target", INTEGERS)
@given(st.data())
def test_integers_wrap_or_clamp(target: str, data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(INTEGERS))
    register_width = max(16, int(source[1:]))
    bits = data.draw(integers(register_width))  # an 8-bit source in a wider register: only its low bits count
    x, width = value(bits, source), max(16, int(target[1:]))
    low, high = limits(target)
    wrapped = value(x % (1 << int(target[1:])), target)
    assert run(f"cvt.{target}.{source}", (bits, register_width)) == wrapped % (1 << width)
    clamped = max(low, min(high, x))
    assert run(f"cvt.sat.{target}.{source}", (bits, register_width)) == clamped % (1 << width)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", ["s32", "u32", "s64", "u64", "u16"])
@given(st.data())
def test_integers_to_floats(source: str, mode: str, data: st.DataObject) -> None:
    width = int(source[1:])
    bits = data.draw(integers(width))
    for target in ("f32", "f16", "bf16"):
        want = rounded(Fraction(value(bits, source)), mode, *FORMATS[target])
        assert run(f"cvt.{mode}.{target}.{source}", (bits, width)) == float_bits(want, target)


@given(integers(64))
def test_integers_to_f64(bits: int) -> None:
    got = lookup(("cvt", "rn", "f64", "s64"))(np.uint64(bits)).view(np.float64)
    assert got == float(signed(bits, 64))


ROUNDERS = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


@pytest.mark.parametrize("target", INTEGERS)
@given(st.data())
def test_floats_to_integers_clamp(target: str, data: st.DataObject) -> None:
    bits = data.draw(st.one_of(f32_operands(), st.integers(0x3E800000, 0x60000000)))
    x, width = f32_value(bits), int(target[1:])
    low, high = limits(target)
    for mode, rounder in ROUNDERS.items():
        if math.isnan(x):
            want = 1 << 63 if width == 64 else 0
        elif math.isinf(x):
            want = high if x > 0 else low
        else:
            want = max(low, min(high, rounder(x)))
        got = run(f"cvt.{mode}.{target}.f32", (bits, 32))
        assert got == want % (1 << max(16, width))
        whole = run(f"cvt.{mode}.f32.f32", (bits, 32))
        if math.isfinite(x):
            assert f32_value(whole) == float(rounder(x))


def test_a_nan_of_f64_becomes_the_top_bit() -> None:
    nan = np.float64(math.nan).view(np.uint64)
    assert lookup(("cvt", "rzi", "s32", "f64"))(nan) == 1 << 31
    assert lookup(("cvt", "rzi", "u32", "f64"))(nan) == 1 << 31


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", ["f32", "f16", "bf16"])
@given(st.floats())
def test_f64_rounds_once(target: str, mode: str, x: float) -> None:
    got = run(f"cvt.{mode}.{target}.f64", (int(np.float64(x).view(np.uint64)), 64))
    if math.isfinite(x):
        want = math.copysign(rounded(Fraction(x), mode, *FORMATS[target]), x)
        assert got == float_bits(want, target)
    elif not (math.isnan(x) and target != "bf16"):
        assert got == float_bits(x, target)


@pytest.mark.parametrize(
    ("nan", "half"),
    [(0xFFF8110890A844B5, 0xFE04), (0x7FF81FBA6D7D6EA1, 0x7E07), (0x7FF3C940919D6D67, 0x7EF2)],
)
def test_f64_to_f16_keeps_the_sign_and_the_top_of_a_nans_payload(nan: int, half: int) -> None:
    """Values of an H100, 2026-11-24."""
    assert run("cvt.rn.f16.f64", (nan, 64)) == half


@pytest.mark.parametrize("mode", MODES)
@given(st.integers(1, (1 << 52) - 1), st.booleans())
def test_f64_to_f32_keeps_the_sign_and_the_top_of_a_nans_payload(mode: str, payload: int, sign: bool) -> None:
    bits = sign << 63 | 0x7FF << 52 | payload
    quiet = sign << 31 | 0x7FC00000 | payload >> 29
    assert run(f"cvt.{mode}.f32.f64", (bits, 64)) == run(f"cvt.{mode}.ftz.f32.f64", (bits, 64)) == quiet


def test_rna_is_of_tf32_only() -> None:
    with pytest.raises(SimulationError, match=r"cvt\.rna\.f16\.f32: \.rna rounds f32 to tf32 only"):
        lookup(("cvt", "rna", "f16", "f32"))
    with pytest.raises(SimulationError, match=r"unknown modifier \.rna in cvt\.rna\.tf32\.s32"):
        lookup(("cvt", "rna", "tf32", "s32"))


NARROWER = [(target, mode) for target in ("f16", "bf16") for mode in MODES] + [("tf32", "rn"), ("tf32", "rz")]


@pytest.mark.parametrize(("target", "mode"), NARROWER)
@given(f32_operands())
def test_f32_to_narrower_formats(target: str, mode: str, bits: int) -> None:
    x = f32_value(bits)
    want = x if not math.isfinite(x) else math.copysign(rounded(Fraction(x), mode, *FORMATS[target]), x)
    assert run(f"cvt.{mode}.{target}.f32", (bits, 32)) == float_bits(want, target)
    relu = run(f"cvt.{mode}.relu.{target}.f32", (bits, 32))
    assert relu == (0 if math.copysign(1, want) < 0 and not math.isnan(want) else float_bits(want, target))


@given(f32_operands(), f32_operands())
def test_two_floats_into_one_register(a: int, b: int) -> None:
    for half in ("f16", "bf16"):
        high, low = (run(f"cvt.rn.{half}.f32", (x, 32)) for x in (a, b))
        assert run(f"cvt.rn.{half}x2.f32", (a, 32), (b, 32)) == high << 16 | low
        wide = float_bits(rounded_or_special(f32_value(b), half), "f32")
        assert run(f"cvt.f32.{half}", (low, 16)) == (low << 16 if half == "bf16" else wide)
        assert half == "f16" or low == 0x7FFF or low << 16 == wide


def rounded_or_special(x: float, type_: str) -> float:
    return math.copysign(rounded(Fraction(x), "rn", *FORMATS[type_]), x) if math.isfinite(x) else x


@given(f32_operands())
def test_tf32_rounds_ties_away_with_rna(bits: int) -> None:
    x = f32_value(bits)
    if math.isnan(x):
        truncated = bits & 0xFFFFE000
        assert run("cvt.rna.tf32.f32", (bits, 32)) == truncated
        assert run("cvt.rna.satfinite.tf32.f32", (bits, 32)) == truncated - 0x2000
        return
    if math.isfinite(x):
        # What is a tie moves away from zero; nothing else of 24 bits is near enough to one.
        nudged = Fraction(x) * (1 + Fraction(1, 2**40))
        x = math.copysign(rounded(nudged, "rn", *FORMATS["tf32"]), x)
    assert run("cvt.rna.tf32.f32", (bits, 32)) == float_bits(x, "tf32")
    largest = math.copysign(min(abs(x), f32_value(0x7F7FE000)), x)
    assert run("cvt.rna.satfinite.tf32.f32", (bits, 32)) == float_bits(largest, "tf32")


E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)


@given(st.floats(-8, 8, width=32), st.floats(-8, 8, width=32))
def test_e2m1_pairs_fill_a_byte(a: float, b: float) -> None:
    def code(x: float) -> int:
        distances = [abs(abs(x) - y) for y in E2M1]
        nearest = [i for i, d in enumerate(distances) if d == min(distances)]
        even = [i for i in nearest if i % 2 == 0]
        return (even if len(nearest) == 2 else nearest)[0] | (8 if math.copysign(1, x) < 0 else 0)

    got = lookup(("cvt", "rn", "satfinite", "e2m1x2", "f32"))(np.uint32(f32_bits(a)), np.uint32(f32_bits(b)))
    assert got.dtype == np.uint8
    assert int(got) == code(a) << 4 | code(b)
    back = int(lookup(("cvt", "rn", "f16x2", "e2m1x2"))(got))
    want = [math.copysign(E2M1[c & 7], -1 if c & 8 else 1) for c in (code(a), code(b))]
    assert [back >> 16, back & 0xFFFF] == [float_bits(x, "f16") for x in want]


FP8 = [("e4m3", 4, -6, 448), ("e5m2", 3, -14, 57344)]


@pytest.mark.parametrize(("name", "precision", "lowest", "largest"), FP8)
@given(st.floats(-1e5, 1e5, width=32))
def test_fp8_saturates(name: str, precision: int, lowest: int, largest: int, x: float) -> None:
    want = math.copysign(min(abs(rounded(Fraction(x), "rn", precision, lowest)), largest), x)
    code = run(f"cvt.rn.satfinite.{name}x2.f32", (f32_bits(x), 32), (f32_bits(-x), 32))
    back = run(f"cvt.rn.f16x2.{name}x2", (code, 16))
    assert [back >> 16, back & 0xFFFF] == [float_bits(want, "f16"), float_bits(-want, "f16")]
    halves = run("cvt.rn.f16x2.f32", (f32_bits(want), 32), (f32_bits(-want), 32))
    assert run(f"cvt.rn.satfinite.{name}x2.f16x2", (halves, 32)) == code


def test_fp8_needs_satfinite() -> None:
    with pytest.raises(SimulationError, match="satfinite"):
        lookup(("cvt", "rn", "e4m3x2", "f32"))


@given(integers(32), integers(32), integers(32))
def test_packed_integers(a: int, b: int, c: int) -> None:
    x, y = signed(a, 32), signed(b, 32)

    def clamped(v: int, low: int, high: int) -> int:
        return max(low, min(high, v)) % (high - low + 1)

    words = clamped(x, -32768, 32767) << 16 | clamped(y, -32768, 32767)
    assert run("cvt.pack.sat.s16.s32", (a, 32), (b, 32)) == words
    packed = clamped(x, 0, 255) << 8 | clamped(y, 0, 255) | c << 16 & 0xFFFFFFFF
    assert run("cvt.pack.sat.u8.s32.b32", (a, 32), (b, 32), (c, 32)) == packed
    packed = clamped(x, -8, 7) << 4 | clamped(y, -8, 7) | c << 8 & 0xFFFFFFFF
    assert run("cvt.pack.sat.s4.s32.b32", (a, 32), (b, 32), (c, 32)) == packed


def test_saturation_to_the_unit_interval() -> None:
    for x, want in ((-1.0, 0.0), (0.25, 0.25), (3.0, 1.0), (math.nan, 0.0), (-0.0, 0.0)):
        assert run("cvt.sat.f32.f32", (f32_bits(x), 32)) == f32_bits(want)


def test_ftz() -> None:
    assert run("cvt.ftz.f32.f32", (0x80000001, 32)) == 0x80000000
    assert run("cvt.rn.ftz.f32.f64", (int(np.float64(1e-40).view(np.uint64)), 64)) == 0
    assert run("cvt.rpi.f32.f32", (1, 32)) == 0x3F800000
    assert run("cvt.rpi.ftz.f32.f32", (1, 32)) == 0

"""Number formats against torch's dtypes over all bit patterns, and against a search for the nearest code."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.number_formats import (
    BF16,
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    F16,
    F32,
    FORMATS,
    TF32,
    UE4M3,
    UE8M0,
    NumberFormat,
    Rounding,
    decode,
    encode,
    round_to,
)

TORCH = {F16: torch.float16, BF16: torch.bfloat16, E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}
SMALL = [E2M1, E2M3, E3M2, E4M3, E5M2, UE4M3, UE8M0]


def all_codes(number_format: NumberFormat) -> NDArray[np.uint16]:
    bits = number_format.exponent_bits + number_format.mantissa_bits + number_format.signed
    return np.arange(1 << bits, dtype=np.uint16)


def roundings(number_format: NumberFormat) -> list[Rounding]:
    return [Rounding.TOWARD_ZERO, Rounding.UP] if number_format is UE8M0 else list(Rounding)


def same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Equal including the sign of zero, any NaN equal to any NaN."""
    nan = np.isnan(a)
    return bool(
        np.array_equal(nan, np.isnan(b)) and np.array_equal(a[~nan].view(np.uint32), b[~nan].view(np.uint32))
    )


def samples(seed: int) -> NDArray[np.float32]:
    """Random bit patterns of float32: every binade, subnormals, NaNs, infinities and both zeros."""
    patterns = np.random.default_rng(seed).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    small = np.random.default_rng(seed + 1).normal(size=100_000).astype(np.float32) * 8
    edges = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 464, 448, 480, 65504, 65519.996, 65520, 1e-45], np.float32
    )
    return np.concatenate([patterns.view(np.float32), small, edges, -edges])


@pytest.mark.parametrize("number_format", TORCH, ids=lambda f: f.name)
def test_decode_equals_torch(number_format: NumberFormat) -> None:
    codes = all_codes(number_format)
    unsigned = torch.from_numpy(codes.astype(np.int16 if number_format.bits == 16 else np.uint8))
    expected = unsigned.view(TORCH[number_format]).float().numpy()
    assert same(decode(codes, number_format), expected)


def test_decode_e2m1_e2m3_e3m2_by_their_published_values() -> None:
    assert decode(np.arange(8), E2M1).tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert decode(np.array([1, 7, 8, 0x1F]), E2M3).tolist() == [0.125, 0.875, 1.0, 7.5]
    assert decode(np.array([1, 3, 4, 0x1F]), E3M2).tolist() == [0.0625, 0.1875, 0.25, 28.0]
    for number_format in (E2M1, E2M3, E3M2):
        half = len(all_codes(number_format)) // 2
        values = decode(all_codes(number_format), number_format)
        assert np.array_equal(values[half:], -values[:half])
        assert np.signbit(values[half])


def test_decode_scale_formats() -> None:
    exponents = decode(np.arange(255), UE8M0).astype(np.float64)
    assert np.array_equal(exponents, 2.0 ** (np.arange(255) - 127.0))
    assert np.isnan(decode(np.array([255]), UE8M0)).all()
    assert same(decode(np.arange(128), UE4M3), decode(np.arange(128), E4M3))


@pytest.mark.parametrize("number_format", SMALL, ids=lambda f: f.name)
def test_code_outside_the_format_is_refused(number_format: NumberFormat) -> None:
    outside = np.array([len(all_codes(number_format))])
    with pytest.raises(SimulationError, match=f"is no {number_format.name} code"):
        decode(outside, number_format)


@pytest.mark.parametrize("number_format", [*SMALL, F16, BF16], ids=lambda f: f.name)
def test_every_number_encodes_to_its_code(number_format: NumberFormat) -> None:
    codes = all_codes(number_format)
    values = decode(codes, number_format)
    exact = ~np.isnan(values)
    for rounding in roundings(number_format):
        assert np.array_equal(encode(values, number_format, rounding)[exact], codes[exact])


@pytest.mark.parametrize("number_format", TORCH, ids=lambda f: f.name)
def test_rounding_to_nearest_equals_torch(number_format: NumberFormat) -> None:
    values = samples(seed=number_format.mantissa_bits)
    expected = torch.from_numpy(values).to(TORCH[number_format]).float().numpy()
    saturates = number_format is E4M3  # torch's conversion limits e4m3, and no other, to the largest number
    assert same(round_to(values, number_format, satfinite=saturates), expected)


def nearest_code_by_search(value: float, number_format: NumberFormat, rounding: Rounding) -> float:
    """The rounded value by exact comparison with every finite number of the format, saturating."""
    codes = all_codes(number_format)
    table = decode(codes, number_format)
    finite = np.isfinite(table)
    pairs = [(Fraction(float(v)), int(c)) for v, c in zip(table[finite], codes[finite], strict=True)]
    exact = min(max(Fraction(value), min(pairs)[0]), max(pairs)[0])
    below, above = max(v for v, _ in pairs if v <= exact), min(v for v, _ in pairs if v >= exact)
    if rounding is Rounding.DOWN or (rounding is Rounding.TOWARD_ZERO and exact > 0):
        return float(below)
    if rounding is Rounding.UP or rounding is Rounding.TOWARD_ZERO:
        return float(above)
    if exact - below != above - exact:
        return float(below if exact - below < above - exact else above)
    return float(next(v for v, c in pairs if v in (below, above) and c % 2 == 0))


@pytest.mark.parametrize(
    ("number_format", "rounding"),
    [(number_format, rounding) for number_format in SMALL for rounding in roundings(number_format)],
    ids=lambda v: getattr(v, "name", None),
)
def test_rounding_equals_a_search(number_format: NumberFormat, rounding: Rounding) -> None:
    generator = np.random.default_rng(7)
    table = decode(all_codes(number_format), number_format).astype(np.float64)
    table = np.unique(np.abs(table[np.isfinite(table)]))[:64]
    midpoints = (table[1:] + table[:-1]) / 2
    values = np.concatenate(
        [midpoints, midpoints * (1 + 2.0**-40), generator.choice(table, 60) * generator.random(60)]
    )
    if number_format.signed:
        values = np.concatenate([values, -values])
    expected = [nearest_code_by_search(v, number_format, rounding) for v in values]
    assert np.array_equal(round_to(values, number_format, rounding, satfinite=True), np.float32(expected))


def test_float64_rounds_once() -> None:
    """Through float32 first, this value would land on the midpoint and round down to the even 1.0."""
    value = np.array([1 + 2.0**-11 + 2.0**-40])
    assert round_to(value, F16)[0] == 1 + 2.0**-10
    assert round_to(value.astype(np.float32), F16)[0] == 1.0


@pytest.mark.parametrize("rounding", Rounding)
def test_f32_of_float64(rounding: Rounding) -> None:
    values = np.random.default_rng(3).normal(size=10_000)
    got = round_to(values, F32, rounding)
    nearest = values.astype(np.float32)
    if rounding is Rounding.NEAREST_EVEN:
        assert np.array_equal(got, nearest)
    else:
        up, down = (got.astype(np.float64) >= values), (got.astype(np.float64) <= values)
        assert np.all(up if rounding is Rounding.UP else down if rounding is Rounding.DOWN else True)
        assert np.all(np.abs(got) <= np.abs(values)) or rounding is not Rounding.TOWARD_ZERO
        assert np.all(np.abs(got - values) < np.spacing(np.abs(nearest)))


@pytest.mark.parametrize(
    ("rounding", "code"), [(Rounding.NEAREST_EVEN, 0x3F802000), (Rounding.TOWARD_ZERO, 0x3F800000)]
)
def test_tf32_code_has_its_low_bits_clear(rounding: Rounding, code: int) -> None:
    assert int(encode(np.array([1 + 2.0**-10 * 0.75]), TF32, rounding)[0]) == code
    assert decode(np.array([0x3F801FFF], np.uint32), TF32)[0] == 1.0


@pytest.mark.parametrize(
    ("number_format", "code"),
    [
        (F16, 0x7FFF),
        (BF16, 0x7FFF),
        (E4M3, 0x7F),
        (E5M2, 0x7F),
        (E2M1, 7),
        (E2M3, 0x1F),
        (E3M2, 0x1F),
        (UE8M0, 255),
    ],
    ids=lambda v: getattr(v, "name", None),
)
def test_nan_is_canonical(number_format: NumberFormat, code: int) -> None:
    rounding = roundings(number_format)[0]
    assert encode(np.array([np.nan, -np.nan]), number_format, rounding, satfinite=True).tolist() == [
        code,
        code,
    ]


@pytest.mark.parametrize(("number_format", "largest"), [(F16, 65504), (E4M3, 448), (E5M2, 57344), (E2M1, 6)])
def test_satfinite_limits_infinities(number_format: NumberFormat, largest: float) -> None:
    values = np.array([np.inf, -np.inf, 1e9, -1e9])
    assert round_to(values, number_format, satfinite=True).tolist() == [largest, -largest] * 2


def test_relu_leaves_no_negative_number_and_no_negative_zero() -> None:
    values = np.array([-1.0, -0.0, -np.inf, 2.0, np.nan])
    got = round_to(values, BF16, relu=True)
    assert same(got, np.array([0, 0, 0, 2, np.nan], np.float32))


def test_overflow_without_saturation() -> None:
    values = np.array([464.0, 465.0, np.inf])
    assert same(round_to(values, E4M3), np.array([448, np.nan, np.nan], np.float32))
    assert same(round_to(values * 256, E5M2), np.array([np.inf] * 3, np.float32))
    assert same(
        round_to(values * 256, F16, Rounding.TOWARD_ZERO), np.array([65504, 65504, np.inf], np.float32)
    )


def test_unsigned_format_refuses_a_negative_number() -> None:
    with pytest.raises(SimulationError, match=r"-1\.0 has no ue8m0 code"):
        encode(np.array([-1.0]), UE8M0, Rounding.UP)


def test_ue8m0_has_no_rounding_to_nearest() -> None:
    with pytest.raises(SimulationError, match="rz or rp only, not rn"):
        encode(np.array([1.5]), UE8M0)


def test_formats_are_found_by_their_ptx_names() -> None:
    assert all(FORMATS[f.name] is f for f in FORMATS.values())
    assert set(FORMATS) >= {"f16", "bf16", "tf32", "e4m3", "e5m2", "e2m1", "e2m3", "e3m2", "ue8m0", "ue4m3"}

"""Exact references and operands that tests of instructions share."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import hypothesis
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from tests.harness.simulator.spellings import SPECIAL_F32

NAN = 0x7FFFFFFF


def given(*strategies: Any, **named: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """hypothesis's `given` with half the examples and no deadline, which busy cores would miss."""
    return lambda test: settings(deadline=None, max_examples=50)(hypothesis.given(*strategies, **named)(test))


def rounded(x: Fraction, mode: str, precision: int = 24, lowest: int = -126, highest: int = 127) -> float:
    """`x` rounded to a binary format of `precision` bits and normal exponents from `lowest` to `highest`."""
    if x == 0:
        return 0.0
    magnitude = abs(x)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= magnitude < Fraction(2) ** exponent
    quantum = Fraction(2) ** (max(exponent, lowest) - precision + 1)
    whole, rest = divmod(magnitude, quantum)
    if mode == "rn":
        up = rest * 2 > quantum or (rest * 2 == quantum and whole % 2 == 1)
    else:
        up = rest > 0 and ((mode == "rp" and x > 0) or (mode == "rm" and x < 0))
    value = (whole + up) * quantum
    largest = (2 - Fraction(2) ** (1 - precision)) * Fraction(2) ** highest
    if value > largest:
        to_infinity = mode == "rn" or (mode == "rp" and x > 0) or (mode == "rm" and x < 0)
        value_f = math.inf if to_infinity else float(largest)
    else:
        value_f = float(value)
    return math.copysign(value_f, x)


def f32_bits(value: float) -> int:
    """The bits of a number that is a float32 (or NaN, canonical)."""
    if math.isnan(value):
        return NAN
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def f32_value(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def f32_operands() -> st.SearchStrategy[int]:
    """Bits of a float32: any, special, or of few significant bits, whose sums and products are often ties."""
    few_bits = st.builds(
        lambda sign, exponent, top: sign << 31 | exponent << 23 | top << 20,
        st.integers(0, 1),
        st.integers(0, 254),
        st.integers(0, 7),
    )
    near_one = st.integers(0x3F000000, 0x40FFFFFF).map(lambda bits: bits | (bits & 1) << 31)
    return st.one_of(st.sampled_from(SPECIAL_F32), st.integers(0, 0xFFFFFFFF), few_bits, near_one)


def integers(width: int) -> st.SearchStrategy[int]:
    """An unsigned `width`-bit integer, often near a power of two."""
    near = st.builds(
        lambda bit, delta, flip: ((1 << bit) + delta ^ (-flip)) % (1 << width),
        st.integers(0, width),
        st.integers(-2, 2),
        st.integers(0, 1),
    )
    return st.one_of(near, st.integers(0, (1 << width) - 1), st.integers(0, 8))


def signed(bits: int, width: int) -> int:
    """Two's complement."""
    return bits - (1 << width) if bits >> (width - 1) else bits


def register(bits: int, width: int) -> np.unsignedinteger:
    """A register the same in all lanes."""
    return np.dtype(f"u{width // 8}").type(bits)

"""The floating-point formats of tensor cores and of PTX `cvt`: raw bits to float32 and back.

Every format here rounds by one rule. A magnitude in the binade of 2^e is q quanta of 2^(e - mantissa bits),
q an integer after rounding, and its code is `q + (e - e_min) * 2^(mantissa bits)`: subnormals are those with
e = e_min and q below the hidden bit, and a q that rounds up to the next binade carries into the exponent by
itself. Codes are monotone in the magnitude, so overflow is a comparison of codes.

Sources: IEEE 754 (f16, f32), PTX ISA "Alternate Floating-Point Data Formats" (bf16, tf32, e4m3, e5m2, e2m1,
e2m3, e3m2, ue8m0, ue4m3), the OCP Microscaling Formats specification (special values), PTX ISA "cvt".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError

FloatArray = NDArray[np.float32]
UIntArray = NDArray[Any]


class Special(Enum):
    """What the codes of the largest exponent stand for."""

    IEEE = "infinities and NaNs"
    ONE_NAN = "only the code with all mantissa bits set is a NaN; there is no infinity"
    NONE = "finite numbers only"


class Rounding(Enum):
    """PTX `cvt` rounding modifiers, by name without the dot."""

    NEAREST_EVEN = "rn"
    TOWARD_ZERO = "rz"
    DOWN = "rm"
    UP = "rp"


@dataclass(frozen=True)
class NumberFormat:
    """A binary floating-point format. `bits` includes the sign bit and the unused high bits of ue4m3.

    `ignored_bits` are the low bits of the container that the format does not use (tf32 in a 32-bit word).
    """

    name: str
    bits: int
    exponent_bits: int
    mantissa_bits: int
    special: Special
    signed: bool = True
    ignored_bits: int = 0

    @property
    def bias(self) -> int:
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def sign_bit(self) -> int:
        """The sign's mask in the unshifted code, 0 for an unsigned format."""
        return 1 << (self.exponent_bits + self.mantissa_bits) if self.signed else 0

    @property
    def largest_code(self) -> int:
        """The magnitude code of the largest finite number."""
        end = 1 << (self.exponent_bits + self.mantissa_bits)
        if self.special is Special.IEEE:
            return end - (1 << self.mantissa_bits) - 1
        return end - 2 if self.special is Special.ONE_NAN else end - 1

    @property
    def container_bits(self) -> int:
        """Bits of the byte-aligned unit that holds one raw value outside packed layouts."""
        return 8 if self.bits <= 8 else self.bits

    @property
    def canonical_nan(self) -> int:
        """The code `cvt` writes for a NaN; formats without NaN have the largest number in its place."""
        end = 1 << (self.exponent_bits + self.mantissa_bits)
        return self.largest_code if self.special is Special.NONE else end - 1


F32 = NumberFormat("f32", 32, 8, 23, Special.IEEE)
TF32 = NumberFormat("tf32", 32, 8, 10, Special.IEEE, ignored_bits=13)
BF16 = NumberFormat("bf16", 16, 8, 7, Special.IEEE)
F16 = NumberFormat("f16", 16, 5, 10, Special.IEEE)
E5M2 = NumberFormat("e5m2", 8, 5, 2, Special.IEEE)
E4M3 = NumberFormat("e4m3", 8, 4, 3, Special.ONE_NAN)
E3M2 = NumberFormat("e3m2", 6, 3, 2, Special.NONE)
E2M3 = NumberFormat("e2m3", 6, 2, 3, Special.NONE)
E2M1 = NumberFormat("e2m1", 4, 2, 1, Special.NONE)
UE8M0 = NumberFormat("ue8m0", 8, 8, 0, Special.ONE_NAN, signed=False)
UE4M3 = NumberFormat("ue4m3", 8, 4, 3, Special.ONE_NAN, signed=False)

FORMATS = {f.name: f for f in (F32, TF32, BF16, F16, E5M2, E4M3, E3M2, E2M3, E2M1, UE8M0, UE4M3)}


def decode(raw: UIntArray, number_format: NumberFormat) -> FloatArray:
    """Raw codes (any unsigned dtype, any shape) as float32, exactly; tf32 ignores its low 13 bits as the
    tensor cores do. A code with bits outside the format is an error."""
    if number_format.bits == 32:
        kept = np.uint32(0xFFFFFFFF << number_format.ignored_bits & 0xFFFFFFFF)
        return (raw.astype(np.uint32, copy=False) & kept).view(np.float32)
    if number_format is BF16:
        wide = raw.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    if number_format is F16:
        return raw.astype(np.uint16, copy=False).view(np.float16).astype(np.float32)
    table = _small_table(number_format)
    if raw.size and int(raw.max()) >= len(table):
        raise SimulationError(f"{int(raw.max()):#x} is no {number_format.name} code")
    return table[raw]


@cache
def _small_table(number_format: NumberFormat) -> FloatArray:
    """float32 value of every code of a format of at most 8 bits, from the format's definition."""
    magnitude_bits = number_format.exponent_bits + number_format.mantissa_bits
    codes = np.arange(1 << (magnitude_bits + number_format.signed))
    magnitude = codes & ((1 << magnitude_bits) - 1)
    field = magnitude >> number_format.mantissa_bits
    fraction = (magnitude & ((1 << number_format.mantissa_bits) - 1)) / (1 << number_format.mantissa_bits)
    if number_format is UE8M0:
        values = np.ldexp(1.0, field - number_format.bias)
    else:
        normal = np.ldexp(1 + fraction, field - number_format.bias)
        values = np.where(field == 0, np.ldexp(fraction, 1 - number_format.bias), normal)
    beyond = magnitude > number_format.largest_code
    is_infinity = beyond & (number_format.special is Special.IEEE) & (fraction == 0)
    values = np.where(is_infinity, np.inf, np.where(beyond, np.nan, values))
    return np.where(codes & number_format.sign_bit, -values, values).astype(np.float32)


def encode(
    values: NDArray[Any],
    number_format: NumberFormat,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    *,
    satfinite: bool = False,
    relu: bool = False,
) -> NDArray[np.uint32]:
    """float32 or float64 `values` as raw codes (uint32, same shape), rounded once, as PTX `cvt` does.

    Overflow gives an infinity (e4m3: NaN) when rounding away from zero or to nearest, the largest number
    when rounding toward zero, or with `satfinite`, or where the format has neither. NaN gives the canonical
    NaN or, in a format without one, the largest number. `relu` turns negative results and -0 into +0.
    Unsigned formats take no negative number (-0 counts as 0).
    """
    if number_format is UE8M0 and rounding not in (Rounding.TOWARD_ZERO, Rounding.UP):
        raise SimulationError(f"ue8m0 rounds by rz or rp only, not {rounding.value}")
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = np.asarray(values, dtype=np.float64)
    negative = np.signbit(wide)
    is_nan = np.isnan(wide)
    magnitude = np.where(is_nan, 0.0, np.abs(wide))
    code = _magnitude_code(magnitude, negative, number_format, rounding)
    code = np.where(np.isinf(magnitude), number_format.largest_code + 1, code)
    overflow = code > number_format.largest_code
    if overflow.any():
        away = _rounds_away(negative, rounding) | np.isinf(magnitude)
        if satfinite or number_format.special is Special.NONE:
            away = np.zeros_like(overflow)
        code = np.where(
            overflow, np.where(away, number_format.largest_code + 1, number_format.largest_code), code
        )
    if number_format.signed:
        code = np.where(negative, code | number_format.sign_bit, code)
    elif (negative & (magnitude > 0)).any():
        raise SimulationError(f"{wide[negative & (magnitude > 0)].flat[0]} has no {number_format.name} code")
    if relu:
        code = np.where(negative, 0, code)
    code = np.where(is_nan, number_format.canonical_nan, code)
    return (code << number_format.ignored_bits).astype(np.uint32)


def _magnitude_code(
    magnitude: NDArray[np.float64],
    negative: NDArray[np.bool_],
    number_format: NumberFormat,
    rounding: Rounding,
) -> NDArray[np.int64]:
    """The module's code of finite magnitudes, not yet limited to the format's range."""
    has_subnormals = number_format is not UE8M0
    lowest = (1 if has_subnormals else 0) - number_format.bias
    ordinary = np.isfinite(magnitude) & (magnitude > 0)
    exponent = np.maximum(np.frexp(np.where(ordinary, magnitude, 2.0**lowest))[1] - 1, lowest)
    quanta = np.ldexp(magnitude, number_format.mantissa_bits - exponent)
    if rounding is Rounding.NEAREST_EVEN:
        whole = np.rint(quanta)
    else:
        whole = np.where(_rounds_away(negative, rounding), np.ceil(quanta), np.floor(quanta))
    whole = np.where(np.isinf(whole), 0, whole).astype(np.int64)
    code: NDArray[np.int64] = whole + ((exponent.astype(np.int64) - lowest) << number_format.mantissa_bits)
    return code if has_subnormals else np.maximum(code - 1, 0)


def _rounds_away(negative: NDArray[np.bool_], rounding: Rounding) -> NDArray[np.bool_]:
    """Where an inexact magnitude too large for the format becomes larger, not smaller."""
    if rounding is Rounding.NEAREST_EVEN:
        return np.ones_like(negative)
    if rounding is Rounding.TOWARD_ZERO:
        return np.zeros_like(negative)
    return negative if rounding is Rounding.DOWN else ~negative


def round_to(
    values: NDArray[Any],
    number_format: NumberFormat,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    *,
    satfinite: bool = False,
    relu: bool = False,
) -> FloatArray:
    """`values` as the nearest numbers of the format, in float32 (see `encode`)."""
    return decode(encode(values, number_format, rounding, satfinite=satfinite, relu=relu), number_format)

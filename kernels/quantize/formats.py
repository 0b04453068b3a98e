"""e4m3 and e2m1 in registers, bit for bit as `kernels.nvfp4` has them.

Elements come and go as 32-bit words: two bf16 or eight e2m1. A magnitude is a bf16's bits without the sign:
integers compare as floats do, with NaN the largest. Two of them are compared at once, as halves of a word.

Rounding to e2m1 is arithmetic. With a comparison and a selection for each threshold, 14 instructions of the
slower pipe, 4,096 tokens took 45 us of an H200 instead of 32 (calibrated; their memory takes 28; 2026-11-29).
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Uint16
from cutlass.cutlass_dsl import select_

from kernels.nvfp4 import E2M1_MAX

NOT_FINITE = 0x7F80  # the magnitude of infinity; those of NaN are above
E4M3_NAN = 0x7F
TWO_BF16_NANS = 0x7FFF7FFF
ELEMENTS = 8  # of a 16-byte vector of bf16, and of a word of e2m1
MAGNITUDES, SIGNS, UPPER = 0x7FFF7FFF, -0x7FFF8000, -0x10000
# Added to magnitudes: the finite ones stay positive as 16-bit integers, and no others do.
FINITE_ROOM = 0x8000 - NOT_FINITE
KEYS_OF_ZEROS = FINITE_ROOM << 16 | FINITE_ROOM
EXPONENT = 0x7F800000  # of an fp32
TO_HALVES = 22 << 23  # added to fp32 bits: a value in whose neighbourhood halves of the power are neighbours


def larger(pair: Int32, other: Int32) -> Int32:
    """Of two pairs of 16-bit integers with sign the larger ones (PTX ISA 9.7.1, max)."""
    return cute.arch.inline_ptx(
        "max.s16x2 {$w0}, {$r0}, {$r1};", write_only_types=[Int32], read_only_args=[pair, other]
    )


def larger_half(pair: Int32) -> Int32:
    """The larger of two halves that are not negative."""
    return cutlass.max(pair & 0xFFFF, pair >> 16)


def finite_keys(word: Int32) -> Int32:
    """Two bf16 as halves that compare as their magnitudes do; those that are not finite are negative."""
    return (word & MAGNITUDES) + KEYS_OF_ZEROS


def magnitude_of_keys(keys: Int32) -> Int32:
    """The largest magnitude of two halves that `finite_keys` has made of finite ones."""
    return larger_half(keys) - FINITE_ROOM


def largest_magnitude(words: cute.Tensor) -> Int32:
    """Of eight bf16, those of infinity and NaN among them."""
    pair = words[0] & MAGNITUDES
    for word in range(1, ELEMENTS // 2):
        pair = larger(pair, words[word] & MAGNITUDES)
    return larger_half(pair)


def bf16_value(bits: Int32) -> Float32:
    return Int32(bits << 16).bitcast(Float32)


def magnitude_value(words: cute.Tensor, element: int) -> Float32:
    """The absolute value of a bf16."""
    word = words[element // 2]
    return Int32((word if element % 2 else word << 16) & (MAGNITUDES & UPPER)).bitcast(Float32)


def e4m3_code(value: Float32) -> Int32:
    """The e4m3 nearest to a value of at most 448, ties to even (PTX ISA, cvt)."""
    pair = cute.arch.inline_ptx(
        "cvt.rn.satfinite.e4m3x2.f32 {$w0}, {$r0}, {$r1};",
        write_only_types=[Uint16],
        read_only_args=[Float32(0.0), value],
    )
    return Int32(pair)


def e4m3_value(code: Int32) -> Float32:
    """The value of a code without sign, NaN's too: its fields are an fp32's, with a bias less by 120."""
    value = Int32(code << 20).bitcast(Float32) * Float32(2.0**120)
    return select_(code == E4M3_NAN, Float32(float("nan")), value)


def e2m1_value(code: Int32) -> Float32:
    """The value of a code without sign: its fields are an fp32's, with a bias less by 126."""
    return Int32(code << 22).bitcast(Float32) * Float32(2.0**126)


def fused(a: Float32, b: Float32, c: Float32) -> Float32:
    """a * b + c, rounded once."""
    return cute.arch.inline_ptx(
        "fma.rn.f32 {$w0}, {$r0}, {$r1}, {$r2};", write_only_types=[Float32], read_only_args=[a, b, c]
    )


def round_e2m1(y: Float32, scale: Float32, reciprocal: Float32) -> Float32:
    """The e2m1 nearest to the fp32 quotient y / scale, y >= 0, ties to the even code; 6 for all above 5.

    `reciprocal` is scale's, rounded to nearest. One correction of a product with it is then the quotient
    rounded to nearest (Markstein, IBM J. Res. Dev. 34, 1990). From 1 on, an e2m1 is a power of two or that
    and a half, below 1 a multiple of a half: what the sum with 2^22 times the power rounds to.
    """
    y = cute.arch.fmin(y, scale * Float32(E2M1_MAX))
    quotient = y * reciprocal
    quotient = fused(fused(-quotient, scale, y), reciprocal, quotient)
    power = cute.arch.fmax(quotient, Float32(1.0)).bitcast(Int32) & EXPONENT
    large = Int32(power + TO_HALVES).bitcast(Float32)
    return (quotient + large) - large


def pack_e2m1(words: cute.Tensor, global_scale: Float32, divisor: Float32) -> Int32:
    """The e2m1 codes of eight bf16, the first one's in the lowest bits."""
    packed = Int32(0)
    reciprocal = Float32(1.0) / divisor
    for element in range(ELEMENTS):
        rounded = round_e2m1(magnitude_value(words, element) * global_scale, divisor, reciprocal)
        code = (rounded * Float32(2.0**-126)).bitcast(Int32) >> 22  # the inverse of `e2m1_value`
        sign = words[element // 2] >> (15 + 16 * (element % 2)) & 1
        packed |= (code | sign << 3) << (4 * element)
    return packed


def dequantize_e2m1(
    words: cute.Tensor, global_scale: Float32, divisor: Float32, scale: Float32, out: cute.Tensor
) -> None:
    """Eight bf16, rounded to e2m1 and multiplied with their block's scale: exact bf16, in four words."""
    reciprocal = Float32(1.0) / divisor
    for word in range(ELEMENTS // 2):
        low, high = (
            round_e2m1(magnitude_value(words, element) * global_scale, divisor, reciprocal) * scale
            for element in (2 * word, 2 * word + 1)
        )
        out[word] = _two_bf16(low, high) | words[word] & SIGNS


def decode_e2m1(codes: Int32, scale_code: Int32, out: cute.Tensor) -> None:
    """Eight e2m1 times the e4m3 scale of their block: exact bf16, in four words."""
    scale = e4m3_value(scale_code & 0x7F)
    codes ^= (scale_code >> 7 & 1) * -0x77777778
    for word in range(ELEMENTS // 2):
        low, high = codes >> (8 * word), codes >> (8 * word + 4)
        values = (e2m1_value(code & 0b111) * scale for code in (low, high))
        out[word] = _two_bf16(*values) | (low & 8) << 12 | (high & 8) << 28


def _two_bf16(low: Float32, high: Float32) -> Int32:
    """The word of two bf16 that these are exactly, the upper halves of their fp32."""
    return ((low.bitcast(Int32) >> 16) & 0xFFFF) | (high.bitcast(Int32) & UPPER)

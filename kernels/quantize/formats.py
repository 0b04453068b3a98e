"""e4m3 and e2m1 in registers, bit for bit as `kernels.nvfp4` has them.

Elements come and go as 32-bit words: two bf16 or eight e2m1. A magnitude is a bf16's bits without the sign:
integers compare as floats do, with NaN the largest.

e2m1 is rounded without a division. `y / scale`, rounded to fp32, exceeds a threshold t of e2m1 exactly when
`y > t * scale` does: t * scale has 6 significant bits and is exact, and a y beside it differs by at least
2^-24 of it, more than half an ulp of a quotient near t. Equal ones are equal either way.
"""

from __future__ import annotations

from itertools import pairwise

import cutlass.cute as cute
from cutlass import Float32, Int32, Numeric, Uint16
from cutlass.cutlass_dsl import select_

from kernels.nvfp4 import E2M1_VALUES

NOT_FINITE = 0x7F80  # the magnitude of infinity; those of NaN are above
E4M3_NAN = 0x7F
TWO_BF16_NANS = 0x7FFF7FFF
CODES = len(E2M1_VALUES)
ELEMENTS = 8  # of a 16-byte vector of bf16, and of a word of e2m1


def magnitude(words: cute.Tensor, element: int) -> Int32:
    return (words[element // 2] >> (16 * (element % 2))) & 0x7FFF


def sign(words: cute.Tensor, element: int) -> Int32:
    """A bf16's sign, 0 or 1."""
    return (words[element // 2] >> (16 * (element % 2) + 15)) & 1


def bf16_value(bits: Int32) -> Float32:
    return Int32(bits << 16).bitcast(Float32)


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


def thresholds(scale: Float32) -> list[Float32]:
    """Of every e2m1 code above 0, the least magnitude that may become it, under `scale`."""
    middles = ((low + high) / 2 for low, high in pairwise(E2M1_VALUES))
    return [scale * Float32(middle) for middle in middles]


def round_e2m1(y: Float32, least: list[Float32], values: list[Numeric]) -> Numeric:
    """Of `values`, one for each code, that of the code nearest to y >= 0; ties go to the even code."""
    chosen = values[0]
    for code in range(1, CODES):
        reached = y >= least[code - 1] if code % 2 == 0 else y > least[code - 1]
        chosen = select_(reached, values[code], chosen)
    return chosen


def pack_e2m1(words: cute.Tensor, global_scale: Float32, divisor: Float32) -> Int32:
    """The e2m1 codes of eight bf16, the first one's in the lowest bits."""
    least = thresholds(divisor)
    codes = [Int32(code) for code in range(CODES)]
    packed = Int32(0)
    for element in range(ELEMENTS):
        y = bf16_value(magnitude(words, element)) * global_scale
        packed |= (round_e2m1(y, least, codes) | sign(words, element) << 3) << (4 * element)
    return packed


def dequantize_e2m1(
    words: cute.Tensor, global_scale: Float32, divisor: Float32, scale: Float32, out: cute.Tensor
) -> None:
    """Eight bf16, rounded to e2m1 and multiplied with their block's scale: exact bf16, in four words."""
    least = thresholds(divisor)
    values = [scale * Float32(value) for value in E2M1_VALUES]
    halves = []
    for element in range(ELEMENTS):
        y = bf16_value(magnitude(words, element)) * global_scale
        halves.append(_signed_bf16(round_e2m1(y, least, values), sign(words, element)))
    _pair_up(halves, out)


def decode_e2m1(codes: Int32, scale_code: Int32, out: cute.Tensor) -> None:
    """Eight e2m1 times the e4m3 scale of their block: exact bf16, in four words."""
    scale = e4m3_value(scale_code & 0x7F)
    halves = []
    for element in range(ELEMENTS):
        code = codes >> (4 * element)
        negative = ((code >> 3) ^ (scale_code >> 7)) & 1
        halves.append(_signed_bf16(e2m1_value(code & 0b111) * scale, negative))
    _pair_up(halves, out)


def _signed_bf16(value: Float32, sign: Int32) -> Int32:
    """The bits of a bf16 that is `value` >= 0 exactly, the upper half of its fp32, with a sign of 0 or 1."""
    return ((Float32(value).bitcast(Int32) >> 16) & 0x7FFF) | (sign << 15)


def _pair_up(halves: list[Int32], words: cute.Tensor) -> None:
    for word in range(ELEMENTS // 2):
        words[word] = halves[2 * word] | (halves[2 * word + 1] << 16)

"""Logic, shifts and bit fields (PTX ISA 9.7.8 "Logic and Shift Instructions", 9.7.1 for `popc` to `bfi`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, reduce

import numpy as np

from harness.simulator.errors import SimulationError
from harness.simulator.registry import DTYPES, Bits, Execute, Form, instruction
from harness.simulator.rounding import select

LOGIC = "pred b16 b32 b64"


@instruction("and", LOGIC)
def and_(form: Form) -> Execute:
    """a & b."""
    return np.bitwise_and


@instruction("or", LOGIC)
def or_(form: Form) -> Execute:
    """a | b."""
    return np.bitwise_or


@instruction("xor", LOGIC)
def xor(form: Form) -> Execute:
    """a ^ b."""
    return np.bitwise_xor


@instruction("not", LOGIC)
def not_(form: Form) -> Execute:
    """~a."""
    return np.invert


@instruction("cnot", "b16 b32 b64")
def cnot(form: Form) -> Execute:
    """1 where a is 0, else 0."""
    return lambda a: (a == 0).astype(a.dtype)


@lru_cache(maxsize=256)
def _monomials(table: int) -> tuple[tuple[int, ...], bool]:
    """A truth table as an exclusive or of products, bit sets over (a = 4, b = 2, c = 1), and perhaps of 1."""
    coefficients = [table >> index & 1 for index in range(8)]
    for bit in (1, 2, 4):
        for index in range(8):
            if index & bit:
                coefficients[index] ^= coefficients[index ^ bit]
    return tuple(index for index in range(1, 8) if coefficients[index]), bool(coefficients[0])


@instruction("lop3", "b32")
def lop3(form: Form) -> Execute:
    """Any logical function of three operands, given by what it makes of 0xF0, 0xCC and 0xAA."""

    def execute(a: Bits, b: Bits, c: Bits, table: Bits) -> Bits:
        monomials, one = _monomials(int(table))
        result: Bits = np.uint32(0xFFFFFFFF if one else 0)
        for monomial in monomials:
            factors = [x for bit, x in ((4, a), (2, b), (1, c)) if monomial & bit]
            result = result ^ reduce(np.bitwise_and, factors)
        return result

    return execute


@instruction("lop3", "b32", "and or", destinations=2)
def lop3_predicate(form: Form) -> Execute:
    """`lop3`, and (d != 0) combined with a predicate."""
    value = lop3(form)
    combine = np.logical_or if form.one_of("and", "or") == "or" else np.logical_and

    def execute(a: Bits, b: Bits, c: Bits, table: Bits, q: Bits) -> tuple[Bits, Bits]:
        result = value(a, b, c, table)
        return result, combine(result != 0, q)

    return execute


@instruction("shl", "b16 b32 b64")
def shl(form: Form) -> Execute:
    """a << b with a u32 count; numpy, like PTX, shifts everything out at counts of the width and above."""
    if form.type == "b16":
        return lambda a, b: np.left_shift(a, np.minimum(b, 16).astype(np.uint16))
    return np.left_shift


@instruction("shr", "b16 u16 s16 b32 u32 s32 b64 u64 s64")
def shr(form: Form) -> Execute:
    """a >> b with a u32 count; signed types fill with the sign, also at counts of the width and above."""
    width = form.dtype.itemsize * 8
    if form.type[0] != "s":
        return np.right_shift if width >= 32 else lambda a, b: a >> np.minimum(b, 16).astype(np.uint16)
    last = width - 1
    return lambda a, b: (a.view(form.dtype) >> np.minimum(b, last).astype(form.dtype)).view(a.dtype)


@instruction("shf", "b32", "l r clamp wrap")
def shf(form: Form) -> Execute:
    """The high (l) or low (r) word of the 64 bits b:a shifted by c, clamped to 32 or taken mod 32."""
    left = form.one_of("l", "r") == "l"
    clamp = form.one_of("clamp", "wrap") == "clamp"
    word = np.uint64(32)

    def execute(a: Bits, b: Bits, c: Bits) -> Bits:
        count = (np.minimum(c, np.uint32(32)) if clamp else c & np.uint32(31)).astype(np.uint64)
        both = (b.astype(np.uint64) << word) | a
        return ((both << count) >> word if left else both >> count).astype(np.uint32)

    return execute


def _field_place(width: int) -> Callable[[Bits], Bits]:
    """How `bfe` and `bfi` read a field's position or length.

    The ISA restricts both to 0..255. Of larger ones, ptxas's code (sm_90a and sm_100a, 13.0) takes the low 8
    bits with 32-bit types, as the ISA's pseudo-code does, but the whole operand with 64-bit ones, where the
    shifts then push everything out.
    """
    return (lambda x: x & np.uint32(0xFF)) if width == 32 else np.positive


@instruction("bfe", "u32 s32 u64 s64")
def bfe(form: Form) -> Execute:
    """`length` bits of a from `position` on, zero or sign extended."""
    width = form.dtype.itemsize * 8
    unsigned, place = DTYPES[f"u{width}"].type, _field_place(width)

    def zero_extended(a: Bits, position: Bits, length: Bits) -> Bits:
        mask = (unsigned(1) << place(length).astype(unsigned)) - unsigned(1)
        return (a >> place(position).astype(unsigned)) & mask

    def sign_extended(a: Bits, position: Bits, length: Bits) -> Bits:
        position, length = place(position).astype(form.dtype), place(length).astype(form.dtype)
        above = width - np.minimum(position + length, form.dtype.type(width))
        field = (a.view(form.dtype) << above) >> np.minimum(position + above, form.dtype.type(width - 1))
        return select(length == 0, unsigned(0), field.view(unsigned))

    return zero_extended if form.type[0] == "u" else sign_extended


@instruction("bfi", "b32 b64")
def bfi(form: Form) -> Execute:
    """b with `length` of its bits from `position` on replaced by the low bits of a."""
    unsigned, place = form.dtype.type, _field_place(form.dtype.itemsize * 8)

    def execute(a: Bits, b: Bits, position: Bits, length: Bits) -> Bits:
        shift = place(position).astype(unsigned)
        mask = ((unsigned(1) << place(length).astype(unsigned)) - unsigned(1)) << shift
        return (b & ~mask) | ((a << shift) & mask)

    return execute


def highest_bit(a: Bits) -> Bits:
    """int32 index of the most significant set bit, -1 where there is none."""
    if a.dtype.itemsize == 8:
        high, low = (a >> np.uint64(32)).astype(np.uint32), a.astype(np.uint32)
        return select(high != 0, highest_bit(high) + np.int32(32), highest_bit(low))
    exponent: Bits = np.frexp(a.astype(np.float64))[1]  # exact: 32 bits fit a double's significand
    return exponent - np.int32(1)


@instruction("bfind", "u32 s32 u64 s64", "shiftamt")
def bfind(form: Form) -> Execute:
    """The highest bit that differs from the sign, or how far to shift it to the top; -1 if none does."""
    last = np.int32(form.dtype.itemsize * 8 - 1)

    def execute(a: Bits) -> Bits:
        if form.type[0] == "s":
            a = select(a.view(form.dtype) < 0, ~a, a)
        found = highest_bit(a)
        if "shiftamt" in form:
            found = select(found < 0, found, last - found)
        return found.view(np.uint32)

    return execute


@instruction("clz", "b32 b64")
def clz(form: Form) -> Execute:
    """The number of zeros above the highest set bit (u32)."""
    last = np.int32(form.dtype.itemsize * 8 - 1)
    return lambda a: (last - highest_bit(a)).view(np.uint32)


@instruction("popc", "b32 b64")
def popc(form: Form) -> Execute:
    """The number of set bits (u32)."""
    return lambda a: np.bitwise_count(a).astype(np.uint32)


@instruction("brev", "b32 b64")
def brev(form: Form) -> Execute:
    """The bits in reverse order: neighbours swapped, then pairs, and so on up to halves of the register."""
    unsigned, width = form.dtype.type, form.dtype.itemsize * 8
    steps = []
    for distance in (1 << step for step in range(width.bit_length() - 1)):
        lower = sum(1 << bit for bit in range(width) if not bit & distance)
        steps.append((unsigned(distance), unsigned(lower)))

    def execute(a: Bits) -> Bits:
        for distance, lower in steps:
            a = ((a >> distance) & lower) | ((a & lower) << distance)
        return a

    return execute


# PTX ISA, table of `prmt` modes: the selector for each value of c's low two bits.
_PRMT_MODES = {
    "f4e": (0x3210, 0x4321, 0x5432, 0x6543),
    "b4e": (0x5670, 0x6701, 0x7012, 0x0123),
    "rc8": (0x0000, 0x1111, 0x2222, 0x3333),
    "ecl": (0x3210, 0x3211, 0x3222, 0x3333),
    "ecr": (0x0000, 0x1110, 0x2210, 0x3210),
    "rc16": (0x1010, 0x3232, 0x1010, 0x3232),
}


@instruction("prmt", "b32", " ".join(_PRMT_MODES))
def prmt(form: Form) -> Execute:
    """Four of the eight bytes b:a, chosen by c's nibbles, whose bit 3 asks for the byte's sign instead."""
    mode = [name for name in form.modifiers if name in _PRMT_MODES]
    if len(mode) > 1:
        raise SimulationError(f"{form} has two modes")
    table = np.array(_PRMT_MODES[mode[0]], np.uint32) if mode else None
    last_byte, replicate = np.uint32(7), np.uint32(8)

    def execute(a: Bits, b: Bits, c: Bits) -> Bits:
        selector = c if table is None else table[c & np.uint32(3)]
        both = (b.astype(np.uint64) << np.uint64(32)) | a
        result: Bits = np.uint32(0)
        for index in range(4):
            nibble = selector >> np.uint32(4 * index)
            byte = (both >> ((nibble & last_byte) * replicate).astype(np.uint64)).astype(np.uint8)
            sign = (byte.view(np.int8) >> 7).view(np.uint8)
            chosen = select((nibble & replicate) != 0, sign, byte)
            result = result | (chosen.astype(np.uint32) << np.uint32(8 * index))
        return result

    return execute

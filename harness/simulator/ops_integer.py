"""Integer arithmetic (PTX ISA 9.7.1 "Integer Arithmetic Instructions" and 9.7.2 "Extended-Precision ...").

Registers wrap around, as numpy's unsigned integers do, so sums and low products need no sign.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.simulator.registry import DTYPES, Bits, Execute, Form, instruction
from harness.simulator.rounding import select

INTEGERS = "s16 u16 s32 u32 s64 u64"


def on_values(form: Form, function: Callable[..., Any]) -> Execute:
    """`function` of the operands read as integers of the instruction's type, its result as bits."""
    dtype = form.dtype
    unsigned = DTYPES[f"u{dtype.itemsize * 8}"]
    if dtype == unsigned:
        return function
    return lambda *operands: function(*(x.view(dtype) for x in operands)).view(unsigned)


def _widened(form: Form) -> tuple[np.dtype[Any], np.dtype[Any], np.dtype[Any]]:
    """The operand's dtype, that of twice the width, and the latter's unsigned version."""
    kind, width = form.type[0], int(form.type[1:])
    return form.dtype, DTYPES[f"{kind}{2 * width}"], DTYPES[f"u{2 * width}"]


def wide_product(form: Form) -> Execute:
    """Twice as many bits as the operands: `mul.wide`."""
    narrow, wide, unsigned = _widened(form)

    def product(a: Bits, b: Bits) -> Bits:
        return (a.view(narrow).astype(wide) * b.view(narrow).astype(wide)).view(unsigned)

    return product


def high_product(form: Form) -> Execute:
    """The upper half of the product: `mul.hi`."""
    if form.type[1:] == "64":
        return _high_product_64(signed=form.type == "s64")
    product, width = wide_product(form), int(form.type[1:])
    narrow = DTYPES[f"u{width}"]
    return lambda a, b: (product(a, b) >> width).astype(narrow)


def _high_product_64(signed: bool) -> Execute:
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)

    def high(a: Bits, b: Bits) -> Bits:
        a_low, a_high, b_low, b_high = a & low, a >> half, b & low, b >> half
        middle = a_high * b_low + ((a_low * b_low) >> half)
        result = a_high * b_high + (middle >> half) + ((a_low * b_high + (middle & low)) >> half)
        if signed:  # each negative operand counts 2^64 too much
            result = result - select(a.view(np.int64) < 0, b, np.uint64(0))
            result = result - select(b.view(np.int64) < 0, a, np.uint64(0))
        return result

    return high


def _product(form: Form) -> Execute:
    part = form.one_of("lo", "hi", "wide")
    return np.multiply if part == "lo" else high_product(form) if part == "hi" else wide_product(form)


@instruction("add", INTEGERS, "sat cc")
def add(form: Form) -> Execute:
    """a + b; `.sat` (s32) clamps, `.cc` gives the carry too."""
    if "cc" in form:
        return lambda a, b: _with_carry(a, b)
    return _saturated(np.add) if "sat" in form else np.add


@instruction("sub", INTEGERS, "sat cc")
def sub(form: Form) -> Execute:
    """a - b; `.sat` (s32) clamps, `.cc` gives the borrow too."""
    if "cc" in form:
        return lambda a, b: (a - b, a < b)
    return _saturated(np.subtract) if "sat" in form else np.subtract


@instruction("addc", "s32 u32 s64 u64", "cc")
def addc(form: Form) -> Execute:
    """a + b + carry."""
    if "cc" in form:
        return _with_carry
    return lambda a, b, carry: a + b + carry


@instruction("subc", "s32 u32 s64 u64", "cc")
def subc(form: Form) -> Execute:
    """a - b - borrow."""
    if "cc" in form:
        return lambda a, b, borrow: (a - b - borrow, (a < b) | ((a == b) & borrow))
    return lambda a, b, borrow: a - b - borrow


def _with_carry(a: Bits, b: Bits, carry: Bits = np.False_) -> tuple[Bits, Bits]:
    total = a + b
    result = total + carry
    return result, (total < a) | (result < total)


def _saturated(operation: Callable[..., Any]) -> Execute:
    def saturated(a: Bits, b: Bits) -> Bits:
        exact = operation(a.view(np.int32).astype(np.int64), b.view(np.int32))
        return np.minimum(np.maximum(exact, -(1 << 31)), (1 << 31) - 1).astype(np.int32).view(np.uint32)

    return saturated


@instruction("mul", INTEGERS, "lo hi wide")
def mul(form: Form) -> Execute:
    """The low or high half of a * b, or all of it."""
    return _product(form)


@instruction("mad", INTEGERS, "lo hi wide sat cc")
def mad(form: Form) -> Execute:
    """a * b + c, for the chosen part of the product."""
    product = _product(form)
    if "cc" in form:
        return lambda a, b, c: _with_carry(product(a, b), c)
    if "sat" in form:
        add_saturated = _saturated(np.add)
        return lambda a, b, c: add_saturated(product(a, b), c)
    return lambda a, b, c: product(a, b) + c


@instruction("madc", "s32 u32 s64 u64", "lo hi cc")
def madc(form: Form) -> Execute:
    """a * b + c + carry."""
    product = _product(form)
    if "cc" in form:
        return lambda a, b, c, carry: _with_carry(product(a, b), c, carry)
    return lambda a, b, c, carry: product(a, b) + c + carry


@instruction("mul24", "s32 u32", "lo hi")
def mul24(form: Form) -> Execute:
    """Bits 31..0 or 47..16 of the product of the operands' low 24 bits."""
    shift = np.uint64(0 if form.one_of("lo", "hi") == "lo" else 16)
    dtype = np.int32 if form.type == "s32" else np.uint32

    def product(a: Bits, b: Bits) -> Bits:
        a, b = ((x << np.uint32(8)).view(dtype) >> dtype(8) for x in (a, b))
        return ((a.astype(np.int64) * b).view(np.uint64) >> shift).astype(np.uint32)

    return product


@instruction("mad24", "s32 u32", "lo hi")
def mad24(form: Form) -> Execute:
    """`mul24` plus c."""
    product = mul24(form)
    return lambda a, b, c: product(a, b) + c


@instruction("sad", INTEGERS)
def sad(form: Form) -> Execute:
    """c + |a - b|."""
    difference = on_values(form, lambda a, b: np.maximum(a, b) - np.minimum(a, b))
    return lambda a, b, c: c + difference(a, b)


@instruction("div", INTEGERS)
def div(form: Form) -> Execute:
    """The quotient rounded toward zero. ISA: a division by zero has an unspecified value; here all ones."""

    def unsigned(a: Bits, b: Bits) -> Bits:
        return select(b == 0, ~b, a // b)

    if form.type[0] == "u":
        return unsigned

    def signed(a: Bits, b: Bits) -> Bits:
        magnitude = _magnitude(form, a) // _magnitude(form, b)
        negative = (a ^ b).view(form.dtype) < 0
        return select(b == 0, ~b, select(negative, np.negative(magnitude), magnitude))

    return signed


@instruction("rem", INTEGERS)
def rem(form: Form) -> Execute:
    """The remainder of `div`, with the dividend's sign; by zero (ISA: unspecified) the dividend."""
    quotient = div(form)
    return lambda a, b: a - select(b == 0, b, quotient(a, b)) * b


def _magnitude(form: Form, a: Bits) -> Bits:
    return np.abs(a.view(form.dtype)).view(a.dtype)


@instruction("abs", "s16 s32 s64")
def abs_(form: Form) -> Execute:
    """|a|; the most negative number stays."""
    return lambda a: _magnitude(form, a)


@instruction("neg", "s16 s32 s64")
def neg(form: Form) -> Execute:
    """-a."""
    return np.negative


@instruction("min", INTEGERS, "relu")
def min_(form: Form) -> Execute:
    """The smaller; `.relu` (s32) clamps negative results to 0."""
    return on_values(form, _with_relu(form, np.minimum))


@instruction("max", INTEGERS, "relu")
def max_(form: Form) -> Execute:
    """The larger; `.relu` (s32) clamps negative results to 0."""
    return on_values(form, _with_relu(form, np.maximum))


def _with_relu(form: Form, operation: Callable[..., Any]) -> Callable[..., Any]:
    if "relu" not in form:
        return operation
    return lambda a, b: np.maximum(operation(a, b), form.dtype.type(0))

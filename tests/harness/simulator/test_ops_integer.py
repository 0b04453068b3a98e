"""Integer arithmetic against Python's integers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from harness.simulator.instruction_set import lookup, reads_carry, writes_carry
from tests.harness.simulator.exact import given, integers, register, signed

TYPES = ("s16", "u16", "s32", "u32", "s64", "u64")


def value(bits: int, type_: str) -> int:
    return signed(bits, int(type_[1:])) if type_[0] == "s" else bits


def run(spelling: str, *operands: tuple[int, int]) -> int:
    """The result's bits; operands are (bits, width)."""
    return int(lookup(tuple(spelling.split(".")))(*(register(*operand) for operand in operands)))


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


BINARY: dict[str, Callable[[int, int, int], int]] = {
    "add": lambda a, b, width: a + b,
    "sub": lambda a, b, width: a - b,
    "mul.lo": lambda a, b, width: a * b,
    "mul.hi": lambda a, b, width: a * b >> width,
    "min": lambda a, b, width: min(a, b),
    "max": lambda a, b, width: max(a, b),
    "div": lambda a, b, width: truncated(a, b) if b else -1,
    "rem": lambda a, b, width: a - b * truncated(a, b) if b else a,
}


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("operation", BINARY)
@given(st.data())
def test_two_operands(operation: str, type_: str, data: st.DataObject) -> None:
    width = int(type_[1:])
    a, b = data.draw(integers(width)), data.draw(integers(width))
    want = BINARY[operation](value(a, type_), value(b, type_), width) % (1 << width)
    assert run(f"{operation}.{type_}", (a, width), (b, width)) == want


@pytest.mark.parametrize("type_", TYPES)
@given(st.data())
def test_three_operands(type_: str, data: st.DataObject) -> None:
    width = int(type_[1:])
    a, b, c = (data.draw(integers(width)) for _ in range(3))
    x, y, z = (value(bits, type_) for bits in (a, b, c))
    operands = ((a, width), (b, width), (c, width))
    assert run(f"mad.lo.{type_}", *operands) == (x * y + z) % (1 << width)
    assert run(f"mad.hi.{type_}", *operands) == ((x * y >> width) + z) % (1 << width)
    assert run(f"sad.{type_}", *operands) == (z + abs(x - y)) % (1 << width)


@pytest.mark.parametrize("type_", ["s16", "u16", "s32", "u32"])
@given(st.data())
def test_wide_products(type_: str, data: st.DataObject) -> None:
    width = int(type_[1:])
    a, b, c = data.draw(integers(width)), data.draw(integers(width)), data.draw(integers(2 * width))
    product = value(a, type_) * value(b, type_)
    assert run(f"mul.wide.{type_}", (a, width), (b, width)) == product % (1 << 2 * width)
    want = (product + c) % (1 << 2 * width)
    assert run(f"mad.wide.{type_}", (a, width), (b, width), (c, 2 * width)) == want


@pytest.mark.parametrize("type_", ["s32", "u32"])
@given(integers(32), integers(32), integers(32))
def test_24_bit_products(type_: str, a: int, b: int, c: int) -> None:
    x, y = (signed(bits % (1 << 24), 24) if type_ == "s32" else bits % (1 << 24) for bits in (a, b))
    assert run(f"mul24.lo.{type_}", (a, 32), (b, 32)) == x * y % (1 << 32)
    assert run(f"mul24.hi.{type_}", (a, 32), (b, 32)) == (x * y >> 16) % (1 << 32)
    assert run(f"mad24.lo.{type_}", (a, 32), (b, 32), (c, 32)) == (x * y + c) % (1 << 32)


@pytest.mark.parametrize("width", [16, 32, 64])
@given(st.data())
def test_one_operand(width: int, data: st.DataObject) -> None:
    a = data.draw(integers(width))
    assert run(f"neg.s{width}", (a, width)) == -a % (1 << width)
    assert run(f"abs.s{width}", (a, width)) == abs(signed(a, width)) % (1 << width)


@given(integers(32), integers(32))
def test_saturation_and_relu(a: int, b: int) -> None:
    x, y = signed(a, 32), signed(b, 32)
    low, high = -(1 << 31), (1 << 31) - 1
    assert run("add.sat.s32", (a, 32), (b, 32)) == max(low, min(high, x + y)) % (1 << 32)
    assert run("sub.sat.s32", (a, 32), (b, 32)) == max(low, min(high, x - y)) % (1 << 32)
    assert run("max.relu.s32", (a, 32), (b, 32)) == max(x, y, 0)
    assert run("min.relu.s32", (a, 32), (b, 32)) == max(min(x, y), 0)


@pytest.mark.parametrize("width", [32, 64])
@given(st.data())
def test_carries_chain_into_twice_the_width(width: int, data: st.DataObject) -> None:
    a, b, c = (data.draw(integers(2 * width)) for _ in range(3))
    one = 1 << width
    halves = [(register(x % one, width), register(x // one, width)) for x in (a, b, c)]
    (a_low, a_high), (b_low, b_high), (c_low, c_high) = halves

    low, carry = lookup(("add", "cc", f"u{width}"))(a_low, b_low)
    high, carry_out = lookup(("addc", "cc", f"u{width}"))(a_high, b_high, carry)
    assert (int(low) + one * int(high), bool(carry_out)) == ((a + b) % one**2, a + b >= one**2)
    assert lookup(("addc", f"u{width}"))(a_high, b_high, carry) == high

    low, borrow = lookup(("sub", "cc", f"u{width}"))(a_low, b_low)
    high, borrow_out = lookup(("subc", "cc", f"u{width}"))(a_high, b_high, borrow)
    assert (int(low) + one * int(high), bool(borrow_out)) == ((a - b) % one**2, a < b)

    low, carry = lookup(("mad", "lo", "cc", f"u{width}"))(a_low, b_low, c_low)
    high = lookup(("madc", "hi", f"u{width}"))(a_low, b_low, c_high, carry)
    assert int(low) + one * int(high) == (int(a_low) * int(b_low) + c) % one**2


def test_who_uses_the_carry() -> None:
    assert writes_carry(("add", "cc", "u32"))
    assert not reads_carry(("add", "cc", "u32"))
    assert reads_carry(("addc", "u32"))
    assert not writes_carry(("addc", "u32"))

"""Logic, shifts and bit fields against Python's integers and the ISA's pseudo-code."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from harness.simulator.instruction_set import lookup
from tests.harness.simulator.exact import given, integers, register, signed

MASK = 0xFFFFFFFF
COUNTS = st.one_of(st.integers(0, 70), integers(32))


def run(spelling: str, *operands: tuple[int, int]) -> int:
    return int(lookup(tuple(spelling.split(".")))(*(register(*operand) for operand in operands)))


@pytest.mark.parametrize("width", [16, 32, 64])
@given(st.data())
def test_shifts_push_everything_out_at_large_counts(width: int, data: st.DataObject) -> None:
    a, count = data.draw(integers(width)), data.draw(COUNTS)
    distance = min(count, width)
    assert run(f"shl.b{width}", (a, width), (count, 32)) == (a << distance) % (1 << width)
    assert run(f"shr.u{width}", (a, width), (count, 32)) == a >> distance
    assert run(f"shr.b{width}", (a, width), (count, 32)) == a >> distance
    assert run(f"shr.s{width}", (a, width), (count, 32)) == (signed(a, width) >> distance) % (1 << width)


@given(integers(32), integers(32), COUNTS)
def test_funnel_shift(a: int, b: int, c: int) -> None:
    both, operands = b << 32 | a, ((a, 32), (b, 32), (c, 32))
    for mode, count in (("clamp", min(c, 32)), ("wrap", c % 32)):
        assert run(f"shf.l.{mode}.b32", *operands) == (both << count >> 32) & MASK
        assert run(f"shf.r.{mode}.b32", *operands) == both >> count & MASK


@given(integers(32), integers(32), integers(32), st.integers(0, 255))
def test_lop3_follows_its_table(a: int, b: int, c: int, table: int) -> None:
    want = 0
    for bit in range(32):
        row = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | c >> bit & 1
        want |= (table >> row & 1) << bit
    assert run("lop3.b32", (a, 32), (b, 32), (c, 32), (table, 32)) == want


def test_lop3_with_a_predicate() -> None:
    a, b = register(6, 32), register(1, 32)
    value, predicate = lookup(("lop3", "or", "b32"), 2)(a, b, a, register(0xC0, 32), register(0, 32) != 0)
    assert (value, bool(predicate)) == (0, False)
    value, predicate = lookup(("lop3", "and", "b32"), 2)(a, b, a, register(0xFC, 32), register(0, 32) == 0)
    assert (value, bool(predicate)) == (7, True)


def place(operand: int, width: int) -> int:
    """A field's position or length: 32-bit types take the low 8 bits, 64-bit ones the whole operand."""
    return operand & 0xFF if width == 32 else min(operand, 0xFF)


def field(a: int, width: int, position: int, length: int, is_signed: bool) -> int:
    """The ISA's pseudo-code of `bfe`, bit by bit."""
    last = width - 1
    fill = a >> min(position + length - 1, last) & 1 if is_signed and length else 0
    bits = [a >> (position + i) & 1 if i < length and position + i <= last else fill for i in range(width)]
    return sum(bit << i for i, bit in enumerate(bits))


@pytest.mark.parametrize("type_", ["u32", "s32", "u64", "s64"])
@given(st.data())
def test_bit_field_extract_and_insert(type_: str, data: st.DataObject) -> None:
    width = int(type_[1:])
    a, b = data.draw(integers(width)), data.draw(integers(width))
    counts = data.draw(COUNTS), data.draw(COUNTS)
    places = (counts[0], 32), (counts[1], 32)
    position, length = (place(count, width) for count in counts)
    assert run(f"bfe.{type_}", (a, width), *places) == field(a, width, position, length, type_[0] == "s")
    mask = ((1 << length) - 1) << position
    want = (b & ~mask | (a << position) & mask) % (1 << width)
    assert run(f"bfi.b{width}", (a, width), (b, width), *places) == want


@pytest.mark.parametrize("width", [32, 64])
@given(st.data())
def test_counting_and_reversing(width: int, data: st.DataObject) -> None:
    a = data.draw(integers(width))
    operand = (a, width)
    assert run(f"clz.b{width}", operand) == width - a.bit_length()
    assert run(f"popc.b{width}", operand) == a.bit_count()
    assert run(f"brev.b{width}", operand) == int(f"{a:0{width}b}"[::-1], 2)
    assert run(f"cnot.b{width}", operand) == (a == 0)
    assert run(f"not.b{width}", operand) == (1 << width) - 1 - a
    assert run(f"bfind.u{width}", operand) == (a.bit_length() - 1) & MASK
    magnitude = a if signed(a, width) >= 0 else (1 << width) - 1 - a
    assert run(f"bfind.s{width}", operand) == (magnitude.bit_length() - 1) & MASK
    want = width - a.bit_length() if a else MASK
    assert run(f"bfind.shiftamt.u{width}", operand) == want


@given(integers(32), integers(32), integers(32))
def test_byte_permutation(a: int, b: int, c: int) -> None:
    source = (b << 32 | a).to_bytes(8, "little")

    def chosen(selectors: list[int]) -> int:
        result = [source[s & 7] if not s & 8 else 0xFF * (source[s & 7] >> 7) for s in selectors]
        return int.from_bytes(bytes(result), "little")

    operands = ((a, 32), (b, 32), (c, 32))
    assert run("prmt.b32", *operands) == chosen([c >> shift & 15 for shift in (0, 4, 8, 12)])
    n = c & 3
    assert run("prmt.b32.f4e", *operands) == chosen([n + i for i in range(4)])
    assert run("prmt.b32.b4e", *operands) == chosen([(n - i) % 8 for i in range(4)])
    assert run("prmt.b32.rc8", *operands) == chosen([n] * 4)
    assert run("prmt.b32.ecl", *operands) == chosen([max(i, n) for i in range(4)])
    assert run("prmt.b32.ecr", *operands) == chosen([min(i, n) for i in range(4)])
    assert run("prmt.b32.rc16", *operands) == chosen([2 * (n & 1) + i % 2 for i in range(4)])

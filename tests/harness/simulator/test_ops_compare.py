"""Comparisons, selections, moves and vector operands."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest
from hypothesis import strategies as st

from harness.simulator.errors import SimulationError
from harness.simulator.instruction_set import lookup
from harness.simulator.packed import pack, unpack
from tests.harness.simulator.exact import f32_operands, f32_value, given, integers, register, signed

ORDERED = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}


@pytest.mark.parametrize("type_", ["s16", "u16", "s32", "u32", "s64", "u64", "b32"])
@given(st.data())
def test_integer_comparisons(type_: str, data: st.DataObject) -> None:
    width = int(type_[1:])
    bits = [data.draw(integers(width)) for _ in range(2)]
    a, b = (signed(x, width) if type_[0] == "s" else x for x in bits)
    registers = [register(x, width) for x in bits]
    names = ("eq", "ne") if type_[0] == "b" else ORDERED
    for name in names:
        assert bool(lookup(("setp", name, type_))(*registers)) == ORDERED[name](a, b)
    if type_[0] == "u":
        for name, same in (("lo", "lt"), ("ls", "le"), ("hi", "gt"), ("hs", "ge")):
            assert bool(lookup(("setp", name, type_))(*registers)) == ORDERED[same](a, b)


@given(f32_operands(), f32_operands())
def test_float_comparisons(a: int, b: int) -> None:
    x, y = f32_value(a), f32_value(b)
    unordered = math.isnan(x) or math.isnan(y)
    registers = np.uint32(a), np.uint32(b)
    for name, holds in ORDERED.items():
        assert bool(lookup(("setp", name, "f32"))(*registers)) == (not unordered and holds(x, y))
        assert bool(lookup(("setp", f"{name}u", "f32"))(*registers)) == (unordered or holds(x, y))
    assert bool(lookup(("setp", "nan", "f32"))(*registers)) == unordered
    assert bool(lookup(("setp", "num", "f32"))(*registers)) == (not unordered)


def test_ftz_compares_subnormal_numbers_as_zeros() -> None:
    tiny, zero = np.uint32(5), np.uint32(0x80000000)
    assert lookup(("setp", "gt", "f32"))(tiny, zero)
    assert not lookup(("setp", "gt", "ftz", "f32"))(tiny, zero)


@pytest.mark.parametrize("name", ["and", "or", "xor"])
@pytest.mark.parametrize("c", [False, True])
@pytest.mark.parametrize("less", [False, True])
def test_two_destinations_and_a_third_operand(name: str, c: bool, less: bool) -> None:
    combine = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}[name]
    a, b = (np.uint32(1), np.uint32(2)) if less else (np.uint32(2), np.uint32(1))
    p, q = lookup(("setp", "lt", name, "s32"), 2)(a, b, np.bool_(c))
    assert (bool(p), bool(q)) == (combine(less, c), combine(not less, c))
    assert bool(lookup(("setp", "lt", name, "s32"))(a, b, np.bool_(c))) == combine(less, c)
    p, q = lookup(("setp", "lt", "s32"), 2)(a, b)
    assert (bool(p), bool(q)) == (less, not less)


def test_set_gives_all_ones_or_one() -> None:
    a, b = np.uint32(3), np.uint32(4)
    assert lookup(("set", "lt", "u32", "s32"))(a, b) == 0xFFFFFFFF
    assert lookup(("set", "lt", "f32", "s32"))(a, b) == 0x3F800000
    assert lookup(("set", "gt", "u32", "s32"))(a, b) == 0


def test_selection_by_predicate_and_by_sign() -> None:
    a, b = np.arange(6, dtype=np.uint32), np.uint32(100)
    p = np.array([True, False] * 3)
    assert lookup(("selp", "b32"))(a, b, p).tolist() == [0, 100, 2, 100, 4, 100]
    assert lookup(("selp", "b32"))(a, b, np.bool_(False)) == 100
    signs = np.array([0, 1, 0x80000000, 0x3F800000, 0xBF800000, 0x7FC00000], np.uint32)
    assert lookup(("slct", "u32", "s32"))(a, b, signs).tolist() == [0, 1, 100, 3, 100, 5]
    assert lookup(("slct", "u32", "f32"))(a, b, signs).tolist() == [0, 1, 2, 3, 100, 100]


def test_predicates() -> None:
    p, q = np.array([False, False, True, True]), np.array([False, True, False, True])
    for name, want in (("and", p & q), ("or", p | q), ("xor", p ^ q)):
        got = lookup((name, "pred"))(p, q)
        assert got.dtype == bool
        assert got.tolist() == want.tolist()
    assert lookup(("not", "pred"))(p).tolist() == (~p).tolist()


def test_floats_have_no_unsigned_names_and_signed_ones_neither() -> None:
    for type_ in ("f32", "s32"):
        with pytest.raises(SimulationError, match="exactly one"):
            lookup(("setp", "lo", type_))


@given(st.lists(integers(32), min_size=2, max_size=2), st.lists(integers(16), min_size=4, max_size=4))
def test_vector_operands_start_with_the_low_bits(words: list[int], halves: list[int]) -> None:
    packed = pack(*(np.uint32(x) for x in words))
    assert packed.dtype == np.uint64
    assert int(packed) == words[0] | words[1] << 32
    assert [int(x) for x in unpack(packed, 2)] == words
    packed = pack(*(np.uint16(x) for x in halves))
    assert int(packed) == sum(x << 16 * i for i, x in enumerate(halves))
    assert [int(x) for x in unpack(packed, 4)] == halves
    assert unpack(packed, 4)[0].dtype == np.uint16

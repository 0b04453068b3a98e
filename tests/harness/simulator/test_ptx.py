"""The parser: statements round-trip, scopes make names unique, and what is unknown is named with its line."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.errors import SimulationError
from harness.simulator.ptx import (
    Address,
    Imm,
    Instruction,
    Label,
    Not,
    Operand,
    Pair,
    Reg,
    Symbol,
    Vector,
    instruction,
    parse,
)
from tests.harness.simulator.raw_ptx import kernel_text


def show(operand: Operand) -> str:
    """An operand as PTX text."""
    match operand:
        case Reg(name):
            return name
        case Imm(bits):
            return str(bits)
        case Symbol(name, offset):
            return f"{name}+{offset}" if offset else name
        case Not(reg):
            return f"!{reg.name}"
        case Pair(first, second):
            return f"{first.name}|{second.name}"
        case Vector(items):
            return "{" + ", ".join(map(show, items)) + "}"
        case Address(base, offset, coordinates):
            inner = show(base) + (f"+{offset}" if offset else "")
            if coordinates:
                inner += ", {" + ", ".join(map(show, coordinates)) + "}"
            return f"[{inner}]"


registers = st.from_regex(r"%(r|rd|f|p|rs)[0-9]{1,3}", fullmatch=True).map(Reg)
symbols = st.from_regex(r"[a-z][a-zA-Z_$]{2,10}[0-9]?", fullmatch=True)
offsets = st.integers(-(2**31), 2**31 - 1)
literals = st.integers(-(2**63), 2**64 - 1).map(Imm)
vectors = st.lists(registers | literals, min_size=1, max_size=4).map(lambda items: Vector(tuple(items)))
addresses = st.builds(
    Address,
    st.one_of(registers, symbols.map(Symbol)),
    offsets,
    st.lists(registers | literals, max_size=5).map(tuple),
)
operands = st.one_of(
    registers,
    literals,
    vectors,
    addresses,
    registers.map(Not),
    st.builds(Pair, registers, registers),
    st.builds(Symbol, symbols, st.integers(0, 2**20)),
)
opcodes = st.lists(
    st.sampled_from(["add", "shared::cta", "b32", "L2::256B", "mbarrier"]), min_size=1, max_size=6
)


@given(opcodes, st.lists(operands, max_size=5), st.none() | registers | registers.map(Not))
def test_statements_round_trip(
    parts: list[str], given_operands: list[Operand], guard: Reg | Not | None
) -> None:
    prefix = f"@{show(guard)} " if guard is not None else ""
    text = f"{prefix}{'.'.join(parts)} {', '.join(map(show, given_operands))}"
    parsed = instruction(text.strip(), line=7)
    assert parsed.parts == tuple(parts)
    assert parsed.operands == tuple(given_operands)
    assert (parsed.guard, parsed.line) == (guard, 7)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("0x1F", 31),
        ("-0x10", -16),
        ("0f3F800000", struct.unpack("<I", struct.pack("<f", 1.0))[0]),
        ("0F7FC00000", 0x7FC00000),
        ("0d3FF0000000000000", struct.unpack("<Q", struct.pack("<d", 1.0))[0]),
        ("4294967295U", 2**32 - 1),
        ("-1", -1),
        ("0xFFFFFFFFFFFFFFFF", 2**64 - 1),
    ],
)
def test_literals(text: str, bits: int) -> None:
    assert instruction(f"mov.b64 %rd1, {text}", 1).operands[1] == Imm(bits)


def test_offsets_may_be_negative_and_added_twice() -> None:
    address = Address(Reg("%r1"), -460)
    assert instruction("ld.shared.b32 %r2, [%r1+-460]", 1).operands[1] == address
    assert instruction("ld.param.b32 %r2, [name+8]", 1).operands[1] == Address(Symbol("name"), 8)


NESTED = """
{
    .reg .pred P1;
    LAB_WAIT:
    mbarrier.try_wait.parity.shared.b64 P1, [%r4], %r5, 10000000;
    @P1 bra.uni DONE;
    bra.uni LAB_WAIT;
    DONE:
}
"""


def test_scopes_keep_their_names_apart() -> None:
    (kernel,) = parse(kernel_text(NESTED + NESTED)).kernels.values()
    labels = [item.name for item in kernel.body if isinstance(item, Label)]
    assert len(labels) == len(set(labels)) == 4
    waits = [item for item in kernel.body if isinstance(item, Instruction) and item.parts[0] == "mbarrier"]
    predicates = [item.operands[0].name for item in waits if isinstance(item.operands[0], Reg)]
    assert len(set(predicates)) == 2
    assert [kernel.register_type(name) for name in predicates] == ["pred", "pred"]
    branches = [item for item in kernel.body if isinstance(item, Instruction) and item.parts[0] == "bra"]
    assert {branch.operands[0].name for branch in branches} == set(labels)  # type: ignore[union-attr]


def test_lines_are_those_of_the_text() -> None:
    text = kernel_text("\n/* one\n two */ // three\n  add.s32 %r4,\n     %r5, 1;\n")
    (kernel,) = parse(text).kernels.values()
    added = next(
        item for item in kernel.body if isinstance(item, Instruction) and item.text.startswith("add.s32 %r4")
    )
    assert text.splitlines()[added.line - 1].strip() == "add.s32 %r4,"
    assert added.text == "add.s32 %r4, %r5, 1"


def test_declarations() -> None:
    text = """
.target sm_100a
.extern .shared .align 1024 .b8 dynamic[];
.shared .align 8 .b64 bars[4];
.visible .entry k(.param .align 64 .b8 map[128], .param .u32 n, .param .u64 .ptr .global .align 16 p)
.reqntid 128, 1, 1
.reqnctapercluster 2, 1, 1
{
    .local .align 4 .b8 depot[28];
    .reg .b32 %r<9>;
    .reg .b64 %SP;
    .pragma "nounroll";
    ret;
}
"""
    module = parse(text)
    kernel = module.kernels["k"]
    assert module.target == "sm_100a"
    assert [(p.name, p.size, p.align, p.offset) for p in kernel.params] == [
        ("map", 128, 64, 0),
        ("n", 4, 4, 128),
        ("p", 8, 8, 136),
    ]
    assert {name: (v.size, v.align) for name, v in module.shared.items()} == {
        "dynamic": (0, 1024),
        "bars": (32, 8),
    }
    assert kernel.local["depot"].size == 28
    assert (kernel.required_threads, kernel.required_cluster) == ((128, 1, 1), (2, 1, 1))
    assert (kernel.register_type("%r3"), kernel.register_type("%SP")) == ("b32", "b64")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (".tex .u32 t;", r"PTX line \d+: directive .tex is not known"),
        ("add.s32 %r1, %r2 %r3;", r"PTX line \d+: ',' expected, found '%r3'"),
        ("add.s32 %r1, #5;", r"PTX line \d+: operand '#5' is not understood"),
        ("ld.shared.b32 %r1, [%r2-4];", r"PTX line \d+: '-4' is not understood in an address"),
        ("mov.b64 {%r1, %r2, %rd1;", r"PTX line \d+: the operand list ends early"),
    ],
)
def test_what_is_unknown_is_named(body: str, says: str) -> None:
    with pytest.raises(SimulationError, match=says):
        parse(kernel_text(body))


def test_not_ptx() -> None:
    with pytest.raises(SimulationError, match=r"no \.target"):
        parse("hello")
    with pytest.raises(SimulationError, match=r"no \.entry"):
        parse(".target sm_90a")


@pytest.mark.compiles
def test_everything_compiled_parses(compiled: dict[str, Path]) -> None:
    for target, folder in compiled.items():
        for path in folder.glob("*/kernel.ptx"):
            text = path.read_text()
            module = parse(text)
            statements = sum(
                isinstance(item, Instruction) for kernel in module.kernels.values() for item in kernel.body
            )
            assert module.target == target
            assert statements > 5
            for kernel in module.kernels.values():
                for item in kernel.body:
                    if isinstance(item, Instruction):
                        assert item.parts[0] in text.splitlines()[item.line - 1]

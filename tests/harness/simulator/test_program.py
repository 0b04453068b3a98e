"""Control flow: blocks, reconvergence, and loops that spin on an mbarrier."""

from __future__ import annotations

import pytest

from harness.simulator.errors import SimulationError
from harness.simulator.program import EXIT, Branch, Exit, Jump, Program, Wait
from harness.simulator.ptx import parse
from tests.harness.simulator.raw_ptx import kernel_text


def program(body: str) -> Program:
    return Program(next(iter(parse(kernel_text(body)).kernels.values())))


def block_named(made: Program, label: str) -> int:
    return next(block.index for block in made.blocks if block.label == label)


DIAMOND = """
    @%p0 bra LEFT;
    add.s32 %r4, %r4, 1;
    bra MEET;
LEFT:
    @%p1 bra INNER;
    add.s32 %r4, %r4, 2;
INNER:
    add.s32 %r4, %r4, 3;
MEET:
    add.s32 %r4, %r4, 4;
"""


def test_branches_meet_at_their_post_dominator() -> None:
    made = program(DIAMOND)
    outer = next(block for block in made.blocks if isinstance(block.end, Branch))
    assert made.reconvergence(outer.index) == block_named(made, "MEET")
    left = block_named(made, "LEFT")
    assert made.reconvergence(left) == block_named(made, "INNER")
    assert block_named(made, "INNER") in made.region(outer.index)
    assert made.region(left).isdisjoint({block_named(made, "INNER"), block_named(made, "MEET")})
    assert made.maskable[outer.index]
    assert isinstance(made.blocks[block_named(made, "MEET")].end, Exit)


def test_a_wait_inside_a_branch_is_not_masked() -> None:
    made = program("@%p0 bra SKIP; bar.sync 0; SKIP: add.s32 %r4, %r4, 1;")
    outer = next(block for block in made.blocks if isinstance(block.end, Branch))
    assert not made.maskable[outer.index]


def test_paths_that_only_meet_at_the_end() -> None:
    made = program("@%p0 bra OTHER; ret; OTHER: add.s32 %r4, %r4, 1;")
    outer = next(block for block in made.blocks if isinstance(block.end, Branch))
    assert made.reconvergence(outer.index) == EXIT


@pytest.mark.parametrize(
    "loop",
    [
        "W: mbarrier.try_wait.parity.shared.b64 %p1, [%r4], %r5, 100; @%p1 bra.uni D; bra.uni W; D:",
        "W: mbarrier.try_wait.parity.shared.b64 %p1, [%r4], %r5; @!%p1 bra W;",
        "{ .reg .pred P; W: mbarrier.test_wait.parity.shared.b64 P, [%r4], %r5; @P bra D; bra W; D: }",
        "W: mov.b32 %r7, 9; mbarrier.try_wait.parity.shared.b64 %p1, [%r4], %r5, %r7;"
        "not.pred %p2, %p1; @%p2 bra W;",
        "W: shl.b32 %r8, %r9, 3; add.s32 %r10, %r4, %r8;"
        "mbarrier.try_wait.parity.shared.b64 %p1, [%r10], %r5; not.pred %p2, %p1; @%p2 bra W;",
    ],
)
def test_a_spinning_loop_is_one_wait(loop: str) -> None:
    made = program(loop + " add.s32 %r6, %r6, 1;")
    waits = [block.end for block in made.blocks if isinstance(block.end, Wait)]
    assert [wait.instruction.parts[:2] for wait in waits] == [("mbarrier", "wait")]
    assert not any(isinstance(block.end, Branch) for block in made.blocks)


@pytest.mark.parametrize(
    "loop",
    [
        "W: mbarrier.try_wait.parity.shared.b64 %p1, [%r4], %r5; add.s32 %r6, %r6, 1; @!%p1 bra W;",
        "W: mbarrier.try_wait.parity.shared.b64 %p1, [%r4], %r5; @!%p2 bra W;",
        "V: W: mbarrier.try_wait.parity.shared.b64 %p1, [%r4], %r5; @!%p1 bra V;",
        "W: add.s32 %r4, %r4, 8; mbarrier.try_wait.parity.shared.b64 %p1, [%r4], %r5; @!%p1 bra W;",
        "W: add.s32 %r4, %r8, 8; mov.b32 %r8, %r4;"
        "mbarrier.try_wait.parity.shared.b64 %p1, [%r4], %r5; @!%p1 bra W;",
        "W: mbarrier.try_wait.parity.shared.b64 %p1, [%r4], %r5; not.pred %p2, %p3; @%p2 bra W;",
    ],
)
def test_a_loop_that_does_more_stays_a_loop(loop: str) -> None:
    made = program(loop)
    assert any(isinstance(block.end, Branch) for block in made.blocks)
    assert not any(isinstance(block.end, Wait) for block in made.blocks)


def test_a_branch_without_its_label_is_named() -> None:
    with pytest.raises(SimulationError, match=r"PTX line \d+: no label NOWHERE"):
        program("bra NOWHERE;")


def test_straight_text_falls_through_labels() -> None:
    made = program("A: add.s32 %r4, %r4, 1; B: add.s32 %r4, %r4, 1;")
    first = made.blocks[block_named(made, "A")]
    assert first.end == Jump(block_named(made, "B"))

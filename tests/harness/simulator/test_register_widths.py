"""Registers wider than a result, the predicate of a wait, member masks and types, in hand-written PTX."""

from __future__ import annotations

import pytest
import torch

from harness.simulator.errors import SimulationError
from tests.harness.simulator.raw_ptx import run_ptx

STORE = "st.global.b32 [%rd3], %r5;"


def outcome(body: str, value: int = -5) -> list[int]:
    x, y = torch.full((32,), value, dtype=torch.int32), torch.full((32,), 99, dtype=torch.int32)
    run_ptx(body, x, y)
    return y.tolist()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("ld.global.s16 %r5, [%rd2];", -5),
        ("ld.global.s8 %r5, [%rd2];", -5),
        ("ld.global.u16 %r5, [%rd2]; not.b32 %r5, %r5;", ~65531),
        ("ld.global.b8 %r5, [%rd2]; not.b32 %r5, %r5;", ~251),
        ("ld.global.v2.s16 {%r5, %r6}, [%rd2]; sub.s32 %r5, %r6, %r5;", 4),
        ("ld.global.s32 %rd8, [%rd2]; shr.u64 %rd8, %rd8, 32; cvt.u32.u64 %r5, %rd8;", -1),
        ("ld.global.u32 %rd8, [%rd2]; shr.u64 %rd8, %rd8, 32; cvt.u32.u64 %r5, %rd8;", 0),
        ("ld.global.b32 %r4, [%rd2]; cvt.s8.s32 %r5, %r4;", -5),
        ("ld.global.b32 %r4, [%rd2]; cvt.s16.s32 %r5, %r4;", -5),
        ("ld.global.b32 %r4, [%rd2]; cvt.u16.s32 %r5, %r4; not.b32 %r5, %r5;", ~65531),
        ("mov.b32 %r4, 253; cvt.s8.s32 %r5, %r4;", -3),
    ],
)
def test_a_wider_register_is_filled(body: str, value: int) -> None:
    assert outcome(body + STORE) == [value] * 32


SPIN = """
    mov.b32 %r8, smem;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r8], 1;
    mbarrier.arrive.shared.b64 %rd8, [%r8];
READY:
    bar.sync 0;
    {before}
W:  mbarrier.try_wait.parity.shared.b64 %p1, [%r8], 0;
    {spin}
    selp.b32 %r5, 1, 0, {predicate};
"""


@pytest.mark.parametrize("before", ["", "setp.lt.s32 %p1, %r0, 0; setp.ge.s32 %p2, %r0, 0;"])
@pytest.mark.parametrize(
    ("spin", "predicate", "value"),
    [
        ("@!%p1 bra W;", "%p1", 1),
        ("@%p1 bra D; bra W; D:", "%p1", 1),
        ("not.pred %p2, %p1; @%p2 bra W;", "%p2", 0),
    ],
)
def test_a_waits_predicate_is_true_behind_it(before: str, spin: str, predicate: str, value: int) -> None:
    assert outcome(SPIN.format(before=before, spin=spin, predicate=predicate) + STORE) == [value] * 32


@pytest.mark.parametrize(
    "instruction",
    [
        "vote.sync.ballot.b32 %r5, %p1, -1;",
        "redux.sync.add.s32 %r5, %r0, -1;",
        "shfl.sync.bfly.b32 %r5, %r0, 1, 31, -1;",
        "elect.sync %r5|%p2, -1;",
    ],
)
def test_a_member_that_runs_on_is_named(instruction: str) -> None:
    says = r"warp 0 of CTA \(0, 0, 0\) at PTX line \d+: `[^`]+`: member mask 0xffffffff names lane 16, which"
    with pytest.raises(SimulationError, match=says):
        outcome(f"setp.ge.u32 %p1, %r0, 16; @%p1 bra DONE; {instruction} {STORE} DONE: add.s32 %r7, %r0, 1;")


def test_members_that_exited_or_are_not_named_do_not_count() -> None:
    exited = "setp.ge.u32 %p1, %r0, 16; @%p1 exit; redux.sync.add.s32 %r5, %r0, -1;"
    assert outcome(exited + STORE) == [120] * 16 + [99] * 16
    named = exited.replace("@%p1 exit", "@%p1 bra DONE").replace("-1", "0xffff")
    assert outcome(f"{named} {STORE} DONE: add.s32 %r7, %r0, 1;") == [120] * 16 + [99] * 16


def test_a_second_type_is_refused() -> None:
    for wrong in (
        "add.f16.s32 %r5, %r0, %r0;",
        "add.s32.s32 %r5, %r0, %r0;",
        "ld.global.s32.b32 %r5, [%rd2];",
    ):
        with pytest.raises(SimulationError, match="unknown modifier"):
            outcome(wrong + STORE)


def test_a_lane_that_waits_for_its_warp_is_of_those_it_names() -> None:
    body = "    setp.lt.s32 %p1, %r0, 16;\n    @%p1 bar.warp.sync 65535;\n    bar.warp.sync 65535;\n"
    says = "`bar.warp.sync 65535`: lane 16 executes it but is not in the member mask 0x0000ffff"
    with pytest.raises(SimulationError, match=says):
        run_ptx(body, torch.zeros(32), torch.zeros(32))

"""Branches, masks and barriers of the generated code: small kernels against what each thread must compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.simulator.errors import Deadlock, SimulationError
from tests.harness.simulator.raw_ptx import run_ptx

# How many warps a cohort may hold: 1 forces every warp to run alone.
APART = (None, 1, 2)


def numbers(count: int, low: int = 0, high: int = 60, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count,), generator=random).int()


def outcome(body: str, x: Tensor, size: int, threads: int, apart: int | None, ctas: int = 1) -> Tensor:
    y = torch.full((size,), -1, dtype=torch.int32)
    run_ptx(body, x, y, threads, ctas, apart=apart)
    return y


GUARDED = """
    ld.global.b32 %r4, [%rd2];
    mov.b32 %r5, 7;
    setp.gt.s32 %p0, %r4, 30;
    @%p0 add.s32 %r5, %r4, 100;
    @!%p0 sub.s32 %r5, %r5, %r4;
    st.global.b32 [%rd3], %r5;
"""

# The sum of 0 .. x - 1, every lane a loop of its own length, and in it a branch that lanes take differently.
NESTED = """
    ld.global.b32 %r4, [%rd2];
    mov.b32 %r5, 0;
    mov.b32 %r6, 0;
LOOP:
    setp.ge.s32 %p0, %r6, %r4;
    @%p0 bra DONE;
    and.b32 %r7, %r6, 1;
    setp.eq.s32 %p1, %r7, 0;
    @%p1 bra EVEN;
    setp.lt.s32 %p2, %r6, 9;
    @%p2 bra SMALL;
    add.s32 %r5, %r5, 1000;
    bra NEXT;
SMALL:
    add.s32 %r5, %r5, %r6;
    bra NEXT;
EVEN:
    sub.s32 %r5, %r5, %r6;
NEXT:
    add.s32 %r6, %r6, 1;
    bra LOOP;
DONE:
    st.global.b32 [%rd3], %r5;
"""


def nested(x: int) -> int:
    return sum(-i if i % 2 == 0 else i if i < 9 else 1000 for i in range(x))


# A value from another warp, through shared memory, five times: warps part at the branch, meet at the barrier.
EXCHANGE = """
    ld.global.b32 %r4, [%rd2];
    mov.b32 %r8, smem;
    shl.b32 %r9, %r0, 2;
    add.s32 %r10, %r8, %r9;
    add.s32 %r11, %r0, 33;
    sub.s32 %r12, %r3, 1;
    and.b32 %r11, %r11, %r12;
    shl.b32 %r11, %r11, 2;
    add.s32 %r11, %r8, %r11;
    mov.b32 %r6, 0;
ROUND:
    st.shared.b32 [%r10], %r4;
    bar.sync 0;
    ld.shared.b32 %r5, [%r11];
    shr.u32 %r7, %r0, 5;
    and.b32 %r7, %r7, 1;
    setp.eq.s32 %p1, %r7, 0;
    @%p1 bra EVEN;
    add.s32 %r4, %r4, %r5;
    bar.sync 0;
    bra NEXT;
EVEN:
    xor.b32 %r4, %r4, %r5;
    bar.sync 0;
NEXT:
    add.s32 %r6, %r6, 1;
    setp.lt.s32 %p0, %r6, 5;
    @%p0 bra ROUND;
    st.global.b32 [%rd3], %r4;
"""


def exchanged(x: Tensor, threads: int) -> Tensor:
    held = x.clone().view(-1, threads)
    odd = torch.arange(threads) // 32 % 2 == 1
    for _ in range(5):
        other = held.roll(-33, 1)
        held = torch.where(odd, held + other, held ^ other)
    return held.flatten()


@pytest.mark.parametrize("apart", APART)
def test_guards_merge_with_what_was_there(apart: int | None) -> None:
    x = numbers(128)
    expected = torch.where(x > 30, x + 100, 7 - x)
    assert torch.equal(outcome(GUARDED, x, 128, 128, apart), expected)


@pytest.mark.parametrize("apart", APART)
def test_nested_divergence(apart: int | None) -> None:
    x = numbers(192, seed=1)
    expected = torch.tensor([nested(int(value)) for value in x]).int()
    assert torch.equal(outcome(NESTED, x, 192, 96, apart, ctas=2), expected)


@pytest.mark.parametrize("apart", APART)
@pytest.mark.parametrize("threads", [64, 256])
def test_warps_part_and_meet_at_barriers(threads: int, apart: int | None) -> None:
    x = numbers(3 * threads, seed=2)
    assert torch.equal(outcome(EXCHANGE, x, 3 * threads, threads, apart, ctas=3), exchanged(x, threads))


@pytest.mark.parametrize("apart", APART)
def test_conditional_exit(apart: int | None) -> None:
    x = numbers(128, seed=3)
    body = """
    ld.global.b32 %r4, [%rd2];
    setp.lt.s32 %p0, %r4, 20;
    @%p0 exit;
    setp.gt.s32 %p0, %r4, 40;
    @%p0 ret;
    st.global.b32 [%rd3], %r4;
    """
    expected = torch.where((x >= 20) & (x <= 40), x, -1)
    assert torch.equal(outcome(body, x, 128, 128, apart), expected)


@pytest.mark.parametrize("apart", APART)
def test_conditional_barrier(apart: int | None) -> None:
    """Warps 0 and 1 pass values through a barrier that the others skip."""
    body = """
    ld.global.b32 %r4, [%rd2];
    mov.b32 %r8, smem;
    shl.b32 %r9, %r0, 2;
    add.s32 %r10, %r8, %r9;
    st.shared.b32 [%r10], %r4;
    setp.lt.u32 %p0, %r0, 64;
    @%p0 bar.sync 1, 64;
    xor.b32 %r9, %r9, 128;
    add.s32 %r10, %r8, %r9;
    @%p0 ld.shared.b32 %r4, [%r10];
    st.global.b32 [%rd3], %r4;
    """
    x = numbers(128, seed=4)
    expected = torch.cat([x[32:64], x[:32], x[64:]])
    assert torch.equal(outcome(body, x, 128, 128, apart), expected)


def test_an_endless_loop_ends_with_the_limit() -> None:
    x = y = torch.zeros(32, dtype=torch.int32)
    with pytest.raises(SimulationError, match=r"500 blocks executed, the limit.*warp 0 of CTA \(0, 0, 0\)"):
        run_ptx("AGAIN: add.s32 %r4, %r0, 1; bra AGAIN;", x, y, max_blocks=500)


def test_a_barrier_that_one_warp_never_reaches_is_a_deadlock() -> None:
    x = y = torch.zeros(64, dtype=torch.int32)
    body = "setp.lt.u32 %p0, %r0, 32; @%p0 bar.sync 1, 64;"
    with pytest.raises(Deadlock, match=r"warp 0 of CTA \(0, 0, 0\).*named barrier 1 \(32 of 64 threads\)"):
        run_ptx(body, x, y, threads=64)


def test_a_register_nobody_wrote_is_not_read() -> None:
    x = y = torch.zeros(32, dtype=torch.int32)
    with pytest.raises(SimulationError, match=r"PTX line \d+: `add.s32 %r5, %r4, 1`: .*nothing has written"):
        run_ptx("add.s32 %r5, %r4, 1;", x, y)


def test_a_half_that_nobody_writes_may_be_packed_and_not_used() -> None:
    x, y = torch.arange(32, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    pack = "ld.global.b32 %r4, [%rd2]; mov.b64 %rd5, {%r4, %r5}; mov.b64 {%r6, %r7}, %rd5;"
    run_ptx(f"{pack} st.global.b32 [%rd3], %r6;", x, y)
    assert torch.equal(y, x)
    run_ptx(f"{pack} st.global.b32 [%rd3], %r7;", x, y)
    assert (y == -1).all(), "as a float it is NaN"
    for use in ("add.s32 %r8, %r5, 1;", "mov.b32 %r5, 1;"):
        with pytest.raises(SimulationError, match=r"`mov.b64 %rd5, {%r4, %r5}`: .*nothing has written"):
            run_ptx(f"{pack} {use}", x, y)


@pytest.mark.parametrize("apart", APART)
def test_a_guarded_first_write_leaves_the_other_lanes_alone(apart: int | None) -> None:
    """Warps part with the register unwritten; only lanes that wrote it read it."""
    body = """
    ld.global.b32 %r4, [%rd2];
    setp.lt.u32 %p0, %r0, 40;
    setp.ge.u32 %p1, %r0, 64;
    @%p1 bar.sync 1, 64;
    @%p0 add.s32 %r5, %r4, 1;
    @%p0 st.global.b32 [%rd3], %r5;
    """
    x = numbers(128, seed=5)
    expected = torch.where(torch.arange(128) < 40, x + 1, -1).int()
    assert torch.equal(outcome(body, x, 128, 128, apart), expected)


def test_warps_that_skip_a_branch_cost_the_others_nothing() -> None:
    """One warp of sixteen takes as long behind its branch as it does alone, and the others end before it."""
    long = "".join(f"add.s32 %r{10 + i % 8}, %r{10 + i % 8}, {i};" for i in range(400))
    body = "".join(f"mov.b32 %r{10 + i}, 0;" for i in range(8))
    body += f"shr.u32 %r4, %r0, 5; setp.ne.u32 %p0, %r4, 0; @%p0 bra DONE; {long} DONE: bar.sync 0;"
    x = y = torch.zeros(512, dtype=torch.int32)
    ends = {threads: run_ptx(body, x, y, threads=threads)._finished.max() for threads in (32, 512)}
    all_take_it = run_ptx(body.replace("@%p0 bra DONE;", ""), x, y, threads=512)._finished.max()
    assert ends[512] < 1.2 * ends[32]
    assert all_take_it > 2 * ends[512]

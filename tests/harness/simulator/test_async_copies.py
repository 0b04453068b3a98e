"""Copies without a tensor map and stores that signal, on hand-written kernels."""

from __future__ import annotations

import pytest
import torch

from harness.simulator.errors import Deadlock, SimulationError
from tests.harness.simulator.raw_ptx import run_ptx

# 128 words come in by one bulk copy; 32 threads add 1 to four each; they go out by another.
BULK = """
    mov.b32 %r8, smem;
    add.s32 %r9, %r8, 2048;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r9], 1;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r9], 512;
    cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r8], [%rd0], 512, [%r9];
READY:
    bar.sync 0;
WAIT:
    mbarrier.try_wait.parity.shared.b64 %p1, [%r9], 0;
    @!%p1 bra WAIT;
    shl.b32 %r10, %r0, 4;
    add.s32 %r10, %r10, %r8;
    ld.shared.v4.b32 {%r11, %r12, %r13, %r14}, [%r10];
    add.s32 %r11, %r11, 1;
    add.s32 %r12, %r12, 1;
    add.s32 %r13, %r13, 1;
    add.s32 %r14, %r14, 1;
    st.shared.v4.b32 [%r10], {%r11, %r12, %r13, %r14};
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @%p0 bra DONE;
    cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r8], 512;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
DONE:
"""

# Lane l copies 16 bytes of row l, of which the last 4 lanes take 8 only.
THREAD_COPY = """
    mov.b32 %r8, smem;
    shl.b32 %r9, %r0, 4;
    add.s32 %r10, %r8, %r9;
    cvt.u64.u32 %rd5, %r9;
    add.s64 %rd6, %rd0, %rd5;
    add.s64 %rd7, %rd1, %rd5;
    setp.lt.u32 %p0, %r0, 28;
    selp.b32 %r12, 16, 8, %p0;
    cp.async.ca.shared.global [%r10], [%rd6], 16, %r12;
    cp.async.commit_group;
    cp.async.wait_group 0;
    bar.warp.sync -1;
    ld.shared.v4.b32 {%r14, %r15, %r16, %r17}, [%r10];
    st.global.v4.b32 [%rd7], {%r14, %r15, %r16, %r17};
"""

# Two CTAs: each writes its lanes' values to the other with st.async, and waits for what it gets.
SIGNAL = """
    ld.global.b32 %r4, [%rd2];
    mov.b32 %r8, smem;
    add.s32 %r9, %r8, 2048;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r9], 1;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r9], 128;
READY:
    barrier.cluster.arrive;
    barrier.cluster.wait;
    mov.u32 %r10, %cluster_ctarank;
    xor.b32 %r10, %r10, 1;
    shl.b32 %r11, %r0, 2;
    add.s32 %r11, %r11, %r8;
    mapa.shared::cluster.u32 %r12, %r11, %r10;
    mapa.shared::cluster.u32 %r13, %r9, %r10;
    st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r12], %r4, [%r13];
WAIT:
    mbarrier.try_wait.parity.shared.b64 %p1, [%r9], 0;
    @!%p1 bra WAIT;
    ld.shared.b32 %r5, [%r11];
    st.global.b32 [%rd3], %r5;
"""

# Warp 1 waits for the state that it got by arriving; warp 0 arrives last.
STATES = """
    mov.b32 %r8, smem;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r8], 64;
READY:
    bar.sync 0;
    mbarrier.arrive.shared.b64 %rd8, [%r8];
WAIT:
    mbarrier.test_wait.shared.b64 %p1, [%r8], %rd8;
    @!%p1 bra WAIT;
    mov.u64 %rd9, %clock64;
    setp.gt.u64 %p2, %rd9, 0;
    selp.b32 %r5, 5, 6, %p2;
    st.global.b32 [%rd3], %r5;
"""


def words(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32) * 7 + 3


def test_bulk_copies() -> None:
    x, y = words(128), torch.zeros(128, dtype=torch.int32)
    run_ptx(BULK, x, y)
    assert torch.equal(y, x + 1)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("fence.proxy.async.shared::cta;", "", "without a fence.proxy.async behind it"),
        ("[%r9], 512;", "[%r9], 496;", "16 bytes arrived that were not expected"),
        ("[%r9], 512;", "[%r9], 528;", "16 transaction bytes"),
        ("[%rd0], 512, [%r9]", "[%rd0], 520, [%r9]", "size 0x208: want a multiple of 16"),
        ("[%rd1], [%r8], 512", "[%rd1+16], [%r8], 512", "outside every tensor"),
        ("[%r8], [%rd0], 512", "[%r8+3600], [%rd0], 512", "outside the CTA's own bytes"),
    ],
)
def test_faults_of_bulk_copies(before: str, after: str, says: str) -> None:
    x, y = words(128), torch.zeros(128, dtype=torch.int32)
    assert before in BULK
    with pytest.raises(SimulationError, match=f"warp 0 of CTA .* at PTX line .*{says}"):
        run_ptx(BULK.replace(before, after), x, y)


def test_thread_copies() -> None:
    x, y = words(128), torch.zeros(128, dtype=torch.int32)
    run_ptx(THREAD_COPY, x, y)
    expected = x.clone().view(32, 4)
    expected[28:, 2:] = 0
    assert torch.equal(y.view(32, 4), expected)


def test_a_thread_copy_is_not_there_before_the_wait() -> None:
    x, y = words(128), torch.zeros(128, dtype=torch.int32)
    with pytest.raises(SimulationError, match="read of shared memory at 0x400, which nobody wrote"):
        run_ptx(THREAD_COPY.replace("cp.async.wait_group 0;", "cp.async.wait_group 1;"), x, y)


def test_stores_that_signal() -> None:
    x, y = words(64), torch.zeros(64, dtype=torch.int32)
    run_ptx(SIGNAL, x, y, ctas=2, cluster=2)
    assert torch.equal(y, x.roll(32))


def test_a_store_that_nobody_waits_for_is_not_over_at_the_exit() -> None:
    x, y = words(64), torch.zeros(64, dtype=torch.int32)
    alone = SIGNAL[: SIGNAL.index("WAIT:")]
    with pytest.raises(
        SimulationError, match=r"CTA \(\d, 0, 0\): it exits, and nothing orders before that a copy"
    ):
        run_ptx(alone, x, y, ctas=2, cluster=2)


@pytest.mark.parametrize("apart", [None, 1])
def test_states_of_mbarriers(apart: int | None) -> None:
    x, y = words(64), torch.zeros(64, dtype=torch.int32)
    run_ptx(STATES, x, y, threads=64, apart=apart)
    assert (y == 5).all()
    with pytest.raises(Deadlock, match="waits for phase 0 of the mbarrier"):
        run_ptx(STATES.replace("], 64;", "], 65;"), x, y, threads=64, apart=apart)

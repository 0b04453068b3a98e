"""Warps that come to a warpgroup's instruction one by one, and products in flight while they are apart."""

from __future__ import annotations

import pytest
import torch

from harness.simulator.errors import Deadlock
from tests.harness.simulator.raw_ptx import run_ptx

THREADS = 256
# K-major without swizzle: the second 16 bytes of a row 128 bytes on, the next 8 rows 256 bytes on.
DESCRIPTOR = 128 >> 4 << 16 | 256 >> 4 << 32
# Ones in all of A and B: with K = 16 each product adds 16. Warps 1 and 6 take ways of their own.
PRODUCTS = f"""
    .reg .f32 %f<4>;
    mov.u32 %r4, smem;
    mov.b32 %r5, 1006648320;
    shl.b32 %r6, %r0, 4;
    add.s32 %r6, %r4, %r6;
    st.shared.v4.b32 [%r6], {{%r5, %r5, %r5, %r5}};
    fence.proxy.async.shared::cta;
    bar.sync 0;
    shr.u32 %r7, %r4, 4;
    cvt.u64.u32 %rd5, %r7;
    or.b64 %rd5, %rd5, {DESCRIPTOR};
    shr.u32 %r8, %r0, 5;
    setp.eq.s32 %p1, %r8, 1;
    setp.eq.s32 %p2, %r8, 6;
    or.pred %p1, %p1, %p2;
    mov.pred %p3, -1;
    mov.b32 %f0, 0f00000000; mov.b32 %f1, 0f00000000; mov.b32 %f2, 0f00000000; mov.b32 %f3, 0f00000000;
    @%p1 bra ASIDE;
    bar.sync 1, 192;
ASIDE:
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {{%f0, %f1, %f2, %f3}}, %rd5, %rd5, %p3, 1, 1, 0, 0;
    wgmma.commit_group.sync.aligned;
    @!%p1 bra ON;
    bar.sync 2, 64;
ON:
    wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {{%f0, %f1, %f2, %f3}}, %rd5, %rd5, %p3, 1, 1, 0, 0;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    st.global.f32 [%rd3], %f3;
"""


def test_a_warpgroup_multiplies_when_all_of_it_is_there() -> None:
    out = torch.zeros(THREADS)
    run_ptx(PRODUCTS, torch.zeros(1), out, threads=THREADS)
    assert (out == 32).all()


def test_a_warp_that_never_comes_is_a_deadlock() -> None:
    body = PRODUCTS.replace("    @!%p1 bra ON;", "    @%p2 ret;\n    bra ON;")
    with pytest.raises(Deadlock, match=r"warp 4 of CTA \(0, 0, 0\) .* waits for the rest of its warpgroup"):
        run_ptx(body, torch.zeros(1), torch.zeros(THREADS), threads=THREADS)

"""`wgmma` products of one group, and the fence in front of them, in hand-written PTX."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.simulator.errors import SimulationError
from tests.harness.simulator.planting import planted
from tests.harness.simulator.raw_ptx import run_ptx
from tests.harness.simulator.routers import Operands

PLACE = r"warp \d+ of CTA \(\d+, \d+, \d+\).* at PTX line \d+: `wgmma\.mma_async[^`]+`"
MMA = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16"
# All of A and B are ones, so that a product is 16; thread 0's first element of the accumulator goes to y.
ONES = f"""
    .reg .f32 %f<4>;
    mov.b32 %r8, smem;
    shl.b32 %r10, %r0, 5;
    add.s32 %r10, %r10, %r8;
    mov.b32 %r4, 0x3C003C00;
    st.shared.v4.b32 [%r10], {{%r4, %r4, %r4, %r4}};
    st.shared.v4.b32 [%r10+16], {{%r4, %r4, %r4, %r4}};
    fence.proxy.async.shared::cta;
    bar.sync 0;
    shr.u32 %r11, %r8, 4;
    cvt.u64.u32 %rd8, %r11;
    or.b64 %rd8, %rd8, {128 >> 4 << 16 | 256 >> 4 << 32};
    setp.ne.b32 %p1, 0, 0;
    setp.eq.b32 %p2, 0, 0;
"""
FIRST = f"{MMA} {{%f0, %f1, %f2, %f3}}, %rd8, %rd8, %p1, 1, 1, 0, 0;"
END = "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
STORE = "st.global.b32 [%rd3], %f0;"


def outcome(body: str) -> float:
    x, y = torch.zeros(128), torch.full((128,), -1.0)
    run_ptx(ONES + body, x, y, threads=128)
    return float(y[0])


@pytest.mark.parametrize(
    ("second", "value"),
    [
        ("%rd8, %rd8, %p2, 1, 1, 0, 0;", 32.0),
        ("%rd8, %rd8, %p2, 1, -1, 0, 0;", 0.0),
        ("%rd8, %rd8, %p2, -1, 1, 0, 0;", 0.0),
        ("{%r4, %r4, %r4, %r4}, %rd8, %p2, 1, 1, 0;", 32.0),
        ("{%r4, %r4, %r4, %r4}, %rd8, %p2, 1, -1, 0;", 0.0),
        ("%rd8, %rd8, %p1, 1, -1, 0, 0;", -16.0),
    ],
)
def test_each_product_of_a_group_has_its_own_modifiers(second: str, value: float) -> None:
    body = f"wgmma.fence.sync.aligned; {FIRST} {MMA} {{%f0, %f1, %f2, %f3}}, {second} {END} {STORE}"
    assert outcome(body) == value


@pytest.mark.parametrize(
    "body",
    [
        f"{FIRST} {END}",
        f"wgmma.fence.sync.aligned; {FIRST} {END} {FIRST} {END}",
        f"wgmma.fence.sync.aligned; cvt.rn.f32.u32 %f0, %r0; {FIRST} {END}",
    ],
    ids=["none", "before the accumulator left flight", "before a write"],
)
def test_an_accumulator_without_a_fence_is_named(body: str) -> None:
    with pytest.raises(SimulationError, match=f"{PLACE}: register %f0 has no wgmma.fence since"):
        outcome(body + STORE)


def test_a_fragment_of_a_written_behind_the_fence_is_named() -> None:
    product = f"{MMA} {{%f0, %f1, %f2, %f3}}, {{%r4, %r5, %r4, %r4}}, %rd8, %p1, 1, 1, 0;"
    body = f"mov.b32 %r5, %r0; wgmma.fence.sync.aligned; add.s32 %r5, %r5, 1; {product} {END}"
    with pytest.raises(SimulationError, match=f"{PLACE}: register %r5 has no wgmma.fence since"):
        outcome(body + STORE)


def test_an_accumulator_in_flight_keeps_its_shape() -> None:
    other = FIRST.replace("m64n8k16.f32", "m64n16k16.f16").replace("%p1", "%p2")
    with pytest.raises(SimulationError, match=f"{PLACE}: a product m64n16k16 .* in flight as m64n8k16"):
        outcome(f"wgmma.fence.sync.aligned; {FIRST} {other} {END} {STORE}")


@pytest.mark.compiles
def test_a_compiled_kernel_without_its_fence_is_named(compiled: dict[str, Path]) -> None:
    program = planted(compiled["sm_90a"] / "router_plain", (r"wgmma\.fence\.sync\.aligned;", ""), count=1)
    with pytest.raises(SimulationError, match=f"{PLACE}: register %r\\d+ has no wgmma.fence since"):
        Operands("router_plain", 130).launch(program)

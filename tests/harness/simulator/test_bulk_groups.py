"""Bulk groups: whose they are, and what the two waits for them promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from harness.simulator.errors import SimulationError
from tests.harness.simulator.planting import planted
from tests.harness.simulator.raw_ptx import run_ptx
from tests.harness.simulator.tiny_kernels import TINY_KERNELS

WORDS = 32
# Lane 0 stores 0, 1, ... to y's first 32 words; lane WAITER waits and copies word 1 of them to word 32, and
# the clock's low word to word 33. Then lane 0 writes 99 to the source's word 2, and waits for all it stored.
STORE = f"""
    mov.b32 %r8, smem;
    shl.b32 %r10, %r0, 2;
    add.s32 %r10, %r10, %r8;
    st.shared.b32 [%r10], %r0;
    fence.proxy.async.shared::cta;
    bar.sync 0;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra STORED;
    cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r8], {4 * WORDS};
    cp.async.bulk.commit_group;
STORED:
    setp.ne.s32 %p1, %r0, WAITER;
    @%p1 bra WAITED;
    cp.async.bulk.wait_group 0;
    ld.global.b32 %r11, [%rd1+4];
    mov.u32 %r12, %clock;
    st.global.b32 [%rd1+{4 * WORDS}], %r11;
    st.global.b32 [%rd1+{4 * WORDS + 4}], %r12;
WAITED:
    @%p0 bra DONE;
    mov.b32 %r13, 99;
    st.shared.b32 [%r8+8], %r13;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 0;
DONE:
"""


def stored(body: str, waiter: int = 0) -> torch.Tensor:
    y = torch.full((2 * WORDS,), -1, dtype=torch.int32)
    run_ptx(body.replace("WAITER", str(waiter)), torch.zeros(WORDS), y)
    return y


def test_the_wait_is_for_what_is_written() -> None:
    y = stored(STORE)
    assert y[:WORDS].tolist() == list(range(WORDS))
    assert y[WORDS] == 1


def test_the_wait_for_the_source_is_no_wait_for_what_is_written() -> None:
    y = stored(STORE.replace("wait_group 0", "wait_group.read 0"))
    assert y[WORDS] == -1
    # The source may be written again, and the store lands all the same, later.
    assert y[:WORDS].tolist() == list(range(WORDS))
    assert y[WORDS + 1] < stored(STORE)[WORDS + 1]


@pytest.mark.parametrize("wait", ["", "cp.async.bulk.wait_group 1;", "cp.async.bulk.wait_group.read 1;"])
def test_without_a_wait_the_source_is_not_read_yet(wait: str) -> None:
    assert stored(STORE.replace("cp.async.bulk.wait_group 0;", wait))[2] == 99


@pytest.mark.parametrize("read", ["", ".read"])
def test_a_lane_waits_for_its_own_groups_only(read: str) -> None:
    y = stored(STORE.replace("wait_group 0", f"wait_group{read} 0"), waiter=1)
    assert y[WORDS] == -1
    assert y[2] == 99


def test_a_commit_by_another_lane_is_none() -> None:
    """Lane 0's group is still open behind the commit of lane 1, so that its first wait is for nothing."""
    by_lane_1 = "setp.ne.s32 %p2, %r0, 1; @%p2 bra COMMITTED; cp.async.bulk.commit_group; COMMITTED:"
    body = STORE.replace("    cp.async.bulk.commit_group;\n", "", 1).replace(
        "STORED:", f"STORED: {by_lane_1}"
    )
    assert stored(body)[WORDS] == -1


def test_a_cta_that_exits_before_its_store_has_read() -> None:
    says = r"CTA \(0, 0, 0\) exits before a bulk store has read its shared memory"
    place = r"warp 0 of CTA \(0, 0, 0\) at PTX line \d+: `cp\.async\.bulk\.global[^`]+`: "
    with pytest.raises(SimulationError, match=place + says):
        stored(re.sub(r"cp\.async\.bulk\.wait_group\S* 0;", "", STORE))


@pytest.mark.parametrize("instruction", ["commit_group", "wait_group"])
def test_unknown_modifiers(instruction: str) -> None:
    with pytest.raises(SimulationError, match=rf"PTX line \d+: .*unknown modifier \.junk in .*{instruction}"):
        stored(STORE.replace(instruction, f"{instruction}.junk"))


@pytest.mark.compiles
def test_unknown_modifiers_of_tile_copies(compiled: dict[str, Path]) -> None:
    kernel = TINY_KERNELS["tma_store_f32_128"]
    edit = (r"cp\.async\.bulk\.tensor\.2d\.global\S+", r"\g<0>.L2::junk")
    program = planted(compiled["sm_90a"] / kernel.name, edit)
    with pytest.raises(SimulationError, match=r"PTX line \d+: .*unknown modifier \.L2::junk"):
        program(*kernel.make(0))


@pytest.mark.compiles
def test_a_compiled_store_lands_whichever_wait_follows(compiled: dict[str, Path]) -> None:
    kernel = TINY_KERNELS["tma_store_f32_128"]
    edit = (r"(cp\.async\.bulk\.wait_group)(\s+0;)", r"\1.read\2")
    x, y = kernel.make(0)
    planted(compiled["sm_90a"] / kernel.name, edit)(x, y)
    assert torch.equal(x, y)

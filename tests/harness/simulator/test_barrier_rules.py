"""Rules of mbarriers and named barriers: who may use them when, and what all lanes must agree on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.simulator.errors import SimulationError
from harness.simulator.grids import Grids
from harness.simulator.launch import Launch
from harness.simulator.loaded import load
from harness.simulator.machine import Machine
from harness.simulator.run import memory_of
from harness.simulator.timing import Units
from tests.harness.simulator.gemm_params import GEMMS
from tests.harness.simulator.gemm_reference import make_operands
from tests.harness.simulator.planting import planted
from tests.harness.simulator.raw_ptx import kernel_text, run_ptx

PLACE = r"warp \d of CTA \(\d, 0, 0\) at PTX line \d+: `[^`]+`: "
# CTA 1 waits for a copy of its own, then does OP with an mbarrier of CTA 0, [%r12].
LATE = """
    mov.b32 %r8, smem;
    add.s32 %r9, %r8, 2048;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r8+2056], 1;
    mbarrier.init.shared.b64 [%r9], 1;
READY:
    barrier.cluster.arrive;
    barrier.cluster.wait;
    setp.eq.s32 %p1, %r1, 0;
    @%p1 bra DONE;
    @%p0 bra DONE;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r9], 128;
    cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r8], [%rd0], 128, [%r9];
WAIT:
    mbarrier.try_wait.parity.shared.b64 %p3, [%r9], 0;
    @!%p3 bra WAIT;
    add.s32 %r14, %r8, 2056;
    mapa.shared::cluster.u32 %r12, %r14, 0;
    mov.b16 %rs1, 1;
    OP
DONE:
"""
COMMIT = (
    "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%r14], %rs1;"
)
# Thread 0 of each CTA initializes an mbarrier; CTA 1 arrives on that of CTA 0, which waits.
HANDED_OVER = """
    mov.b32 %r8, smem;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r8], 1;
    FENCE
READY:
    WITHIN
    setp.eq.s32 %p2, %r0, 32;
    @%p2 OTHER
    barrier.cluster.arriveRELAXED;
    barrier.cluster.wait;
    setp.eq.s32 %p1, %r1, 0;
    @%p1 bra WAIT;
    @%p0 bra DONE;
    mapa.shared::cluster.u32 %r12, %r8, 0;
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r12];
    bra DONE;
WAIT:
    mbarrier.try_wait.parity.shared.b64 %p3, [%r8], 0;
    @!%p3 bra WAIT;
DONE:
    barrier.cluster.arrive;
    barrier.cluster.wait;
"""
INIT_FENCE = "fence.mbarrier_init.release.cluster;"
CLUSTER_FENCE = "fence.acq_rel.cluster;"
NO_ORDER = r"nothing orders the mbarrier\.init of the mbarrier at 0x[0-9a-f]+ of CTA \(0, 0, 0\) before this"
# Warp 1 waits for the mbarrier that warp 0 has initialized, and arrived on.
WITHIN_A_CTA = """
    mov.b32 %r8, smem;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r8], 1;
    mbarrier.arrive.shared.b64 _, [%r8];
READY:
    bar.sync 0; //order
WAIT:
    mbarrier.try_wait.parity.shared.b64 %p1, [%r8], 0;
    @!%p1 bra WAIT;
"""


def words(count: int = 64) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32)


def run_blackwell(body: str) -> None:
    """`run_ptx` of a cluster of two CTAs for sm_100a."""
    x, y = words(), words()
    kernel = load(kernel_text(body, target="sm_100a"))["kernel"]
    params = tuple(np.uint64(tensor.data_ptr()).tobytes() for tensor in (x, y))
    launch = Launch("kernel", (2, 1, 1), (32, 1, 1), (2, 1, 1), 0, params)
    grids = Grids.of_launch(kernel, launch, memory_of([x, y]))
    Machine(kernel, grids, np.arange(1), Units(kernel.target)).run()


def handed_over(fence: str = "", relaxed: str = ".relaxed", within: str = "", other: str = "") -> str:
    return (
        HANDED_OVER.replace("FENCE", fence)
        .replace("RELAXED", relaxed)
        .replace("WITHIN", within)
        .replace("@%p2 OTHER", f"@%p2 {other}" if other else "")
    )


@pytest.mark.parametrize("races", [False, True])
def test_no_arrival_on_a_barrier_of_a_cta_that_has_exited(races: bool) -> None:
    body = LATE.replace("OP", "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r12];")
    says = PLACE + r"access to the mbarrier at 0xc08 of CTA \(0, 0, 0\), which has exited"
    with pytest.raises(SimulationError, match=says):
        run_ptx(body, words(), words(), ctas=2, cluster=2, races=races)


def test_no_commit_to_a_cta_that_has_exited() -> None:
    says = PLACE + r"access to the mbarrier at 0xc08 of CTA \(0, 0, 0\), which has exited"
    with pytest.raises(SimulationError, match=says):
        run_blackwell(LATE.replace("OP", COMMIT))


def test_a_commit_that_its_target_does_not_wait_for() -> None:
    """Issued while the other CTA is there, which yet exits without knowing that it has arrived."""
    early = "mov.b16 %rs1, 3; add.s32 %r14, %r8, 2056;"
    body = LATE.replace("setp.eq.s32 %p1, %r1, 0;", f"setp.eq.s32 %p1, %r1, 0; @%p0 bra OVER; {early}")
    body = body[: body.index("    @%p1 bra DONE;")] + f"    @%p1 bra OVER; {COMMIT}\nOVER:\n"
    says = (
        r"CTA \(\d, 0, 0\): it exits, and nothing orders before that a copy or commit issued by "
        r"warp 0 of CTA \(1, 0, 0\) at PTX line \d+: `tcgen05\.commit[^`]+` in its shared memory"
    )
    with pytest.raises(SimulationError, match=says):
        run_blackwell(body)


@pytest.mark.parametrize("races", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        handed_over(INIT_FENCE),
        handed_over(relaxed=""),
        handed_over(CLUSTER_FENCE),
        handed_over(within="bar.sync 0;", other=CLUSTER_FENCE),
    ],
    ids=["fence of the init", "arrival that releases", "fence", "another warp's fence"],
)
def test_an_initialized_barrier_is_handed_over(body: str, races: bool) -> None:
    run_ptx(body, words(128), words(128), threads=64, ctas=2, cluster=2, races=races)


@pytest.mark.parametrize("races", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        handed_over(),
        handed_over("fence.acq_rel.cta;"),
        handed_over(within="bar.sync 0;", other=INIT_FENCE),
        handed_over(other=CLUSTER_FENCE),
    ],
    ids=[
        "no fence",
        "fence of the CTA",
        "another thread's fence of its own inits",
        "fence that knows nothing",
    ],
)
def test_a_relaxed_barrier_hands_over_no_mbarrier(body: str, races: bool) -> None:
    with pytest.raises(SimulationError, match=PLACE + NO_ORDER):
        run_ptx(body, words(128), words(128), threads=64, ctas=2, cluster=2, races=races)


@pytest.mark.parametrize(
    "signal",
    [
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r13], [%rd0], 16, [%r12];",
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r13], %r0, [%r12];",
    ],
    ids=["bulk copy", "st.async"],
)
def test_what_is_asynchronous_wants_an_initialized_barrier_too(signal: str) -> None:
    arrive = "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r12];"
    size = "16" if "bulk" in signal else "4"
    waits = "mbarrier.try_wait.parity.shared.b64 %p3, [%r8], 0;"
    for fence in (INIT_FENCE, ""):
        body = handed_over(fence).replace(arrive, f"add.s32 %r13, %r12, 64; {signal}")
        expect = f"@!%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r8], {size};"
        body = body.replace(f"WAIT:\n    {waits}", f"WAIT:\n    {expect}\nLOOK:\n    {waits}")
        body = body.replace("@!%p3 bra WAIT;", "@!%p3 bra LOOK;")
        if fence:
            run_ptx(body, words(), words(), ctas=2, cluster=2)
            continue
        with pytest.raises(SimulationError, match=PLACE + NO_ORDER):
            run_ptx(body, words(), words(), ctas=2, cluster=2)


def test_threads_of_a_cta_want_a_barrier_behind_the_init() -> None:
    run_ptx(WITHIN_A_CTA, words(), words(), threads=64, races=True)
    with pytest.raises(SimulationError, match=PLACE + NO_ORDER):
        run_ptx(WITHIN_A_CTA.replace("bar.sync 0; //order", ""), words(), words(), threads=64, races=True)


@pytest.mark.parametrize(
    ("cluster", "says"), [(1, "lies outside the CTA"), (2, "rank 4 of a cluster of 2 CTAs")]
)
def test_an_arrival_nowhere_names_the_lane(cluster: int, says: str) -> None:
    """Lane 5 alone arrives, at an address of its own; what the others hold is none."""
    body = """
    mov.b32 %r8, smem;
    setp.ne.s32 %p0, %r0, 5;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r8], 1;
READY:
    shl.b32 %r9, %r0, 27;
    xor.b32 %r9, %r9, 671088640;
    add.s32 %r9, %r9, 50331648;
    add.s32 %r9, %r9, %r8;
    @!%p0 mbarrier.arrive.shared::cluster.b64 _, [%r9];
    """
    x, y = torch.zeros(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    with pytest.raises(SimulationError, match=rf"^lane 5 of {PLACE}.*{says}"):
        run_ptx(body, x, y, ctas=cluster, cluster=cluster)


def test_arrive_drop_takes_its_count_from_later_phases() -> None:
    y = torch.zeros(32, dtype=torch.int32)
    body = """
    mov.b32 %r8, smem;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra DONE;
    mbarrier.init.shared.b64 [%r8], 4;
    mbarrier.arrive_drop.shared.b64 %rd8, [%r8], 2;
    mbarrier.arrive.shared.b64 %rd9, [%r8], 2;
    mbarrier.arrive.shared.b64 %rd9, [%r8], 2;
LAST:
    mbarrier.try_wait.parity.shared.b64 %p1, [%r8], 1;
    @!%p1 bra LAST;
    st.global.b32 [%rd3], 1;
DONE:
    """
    run_ptx(body, words(32), y)
    assert y[0] == 1


@pytest.mark.parametrize("apart", [None, 1])
@pytest.mark.parametrize(
    "leaves", ["@%p0 exit;", "@!%p0 bar.sync 0; @!%p0 st.global.b32 [%rd3], 1; @!%p0 exit;"]
)
def test_warps_that_exit_are_not_waited_for(apart: int | None, leaves: str) -> None:
    """Whether they exit before others arrive at the barrier of all threads, or while these wait there."""
    y = torch.zeros(64, dtype=torch.int32)
    body = f"""
    setp.lt.u32 %p0, %r0, 32;
    {leaves}
    @%p0 bra DONE;
    bar.sync 0;
    st.global.b32 [%rd3], 1;
DONE:
    """
    run_ptx(body, words(), y, threads=64, apart=apart)
    assert y.tolist() == [0] * 32 + [1] * 32


def test_a_barrier_of_a_number_of_threads_waits_for_them() -> None:
    body = "setp.lt.u32 %p0, %r0, 32; @%p0 bra DONE; bar.sync 0, 64;\nDONE:\n"
    with pytest.raises(SimulationError, match=r"waits for named barrier 0 \(32 of 64 threads\)"):
        run_ptx(body, words(), words(), threads=64)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("mbarrier.try_wait.parity.shared.b64 %p1, [%r8], %r5; @!%p1 bra WAIT;", "wait for different phases"),
        ("and.b32 %r6, %r0, 7; bar.sync %r6, 32;", "arrive at different named barriers"),
        ("add.s32 %r6, %r5, 1; shl.b32 %r6, %r6, 5; bar.sync 0, %r6;", "name different numbers of threads"),
    ],
)
def test_lanes_of_a_warp_wait_for_the_same(body: str, says: str) -> None:
    setup = """
    mov.b32 %r8, smem;
    and.b32 %r5, %r0, 1;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r8], 1;
READY:
    bar.sync 0;
WAIT:
    """
    with pytest.raises(SimulationError, match=PLACE + f"lanes of one warp {says}"):
        run_ptx(setup + body, words(), words())


@pytest.mark.parametrize(
    "instruction",
    [
        "griddepcontrol.wait.junk;",
        "griddepcontrol.launch_dependents.junk;",
        "fence.mbarrier_init.junk;",
        "fence.proxy.alias.junk;",
        "fence.proxy.async::generic.junk;",
        "nanosleep.junk.u32 20;",
        "trap.junk;",
    ],
)
def test_unknown_modifiers(instruction: str) -> None:
    with pytest.raises(SimulationError, match=r"unknown modifier \.junk"):
        run_ptx(instruction, words(), words())


def test_unknown_modifier_of_a_commit() -> None:
    with pytest.raises(SimulationError, match=r"unknown modifier \.junk"):
        run_blackwell(LATE.replace("OP", COMMIT.replace(".b64", ".junk.b64")))


def test_bytes_left_over_at_the_exit_name_who_expected_them() -> None:
    body = """
    mov.b32 %r8, smem;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra DONE;
    mbarrier.init.shared.b64 [%r8], 1;
    mbarrier.expect_tx.relaxed.cta.shared.b64 [%r8], 64;
DONE:
    """
    says = (
        r"wrong transaction count: the mbarrier at 0x400 of CTA \(0, 0, 0\).*64 transaction bytes.*"
        r"the last to expect bytes: warp 0 of CTA \(0, 0, 0\) at PTX line \d+: `mbarrier\.expect_tx"
    )
    with pytest.raises(SimulationError, match=says):
        run_ptx(body, words(), words())


@pytest.mark.parametrize("space", ["", ".shared::cta", ".global"])
def test_a_proxy_fence_orders_what_it_names(space: str) -> None:
    body = f"""
    mov.b32 %r8, smem;
    shl.b32 %r9, %r0, 2;
    add.s32 %r9, %r9, %r8;
    st.shared.b32 [%r9], 7;
    fence.proxy.async{space};
    bar.sync 0;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra DONE;
    cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r8], 128;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
DONE:
    """
    y = words(32)
    if space != ".global":
        run_ptx(body, words(32), y)
        assert (y == 7).all()
        return
    with pytest.raises(SimulationError, match=PLACE + ".*without a fence.proxy.async behind it"):
        run_ptx(body, words(32), y)


CLUSTER_BARRIER = r"barrier\.cluster\.arrive(?:\.relaxed)?;\s*barrier\.cluster\.wait;"
PAIR = "gemm_f16_2cta_n128_c2x1_s3"


@pytest.mark.compiles
@pytest.mark.parametrize(
    "removed",
    [r"fence\.mbarrier_init\.release\.cluster;", rf"{CLUSTER_BARRIER}(?=(?:.*\n)*.*{CLUSTER_BARRIER})"],
    ids=["fences", "first cluster barrier"],
)
def test_a_pair_of_ctas_hands_its_barriers_over(blackwell_gemms: Path, removed: str) -> None:
    params = GEMMS[PAIR]
    m, n, k = 256, params.mma_n, (params.stages + 2) * params.stage_k
    program = planted(blackwell_gemms / PAIR, (removed, ""))
    says = r"warp \d of CTA .* at PTX line \d+: `.*`: nothing orders the mbarrier\.init of the mbarrier at 0x"
    with pytest.raises(SimulationError, match=says):
        program(*make_operands(params, m, n, k), torch.empty(m, n))

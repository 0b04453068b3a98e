"""The search for races: correct kernels have none; without one of their barriers they do, in any order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.simulator.errors import SimulationError
from harness.simulator.run import Program
from tests.harness.simulator.planting import Edit, planted
from tests.harness.simulator.raw_ptx import run_ptx
from tests.harness.simulator.routers import ROUTERS, Operands
from tests.harness.simulator.tiny_kernels import TINY_KERNELS

# Each thread reads what the next one of another warp wrote, then writes its own word again.
EXCHANGE = """
    ld.global.b32 %r4, [%rd2];
    mov.b32 %r8, smem;
    shl.b32 %r9, %r0, 2;
    add.s32 %r10, %r8, %r9;
    xor.b32 %r11, %r9, 128;
    add.s32 %r11, %r8, %r11;
    st.shared.b32 [%r10], %r4;
    bar.sync 0; //first
    ld.shared.b32 %r5, [%r11];
    bar.sync 0; //second
    add.s32 %r5, %r5, 1;
    st.shared.b32 [%r10], %r5;
    st.global.b32 [%rd3], %r5;
"""
# Thread 0 of each CTA sets up its mbarrier, for one arrival.
MBARRIER = """
    mov.b32 %r8, smem;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r8+64], 1;
READY:
"""
# Warp 0 tells warp 1 through an mbarrier that its word is there.
HANDSHAKE = f"""{MBARRIER}    bar.sync 0;
    setp.ge.u32 %p1, %r0, 32;
    @%p1 bra READ;
    @%p0 bra DONE;
    st.shared.b32 [%r8], 17;
    mbarrier.arrive.shared.b64 %rd8, [%r8+64];
    bra DONE;
READ:
WAIT:
    mbarrier.try_wait.parity.shared.b64 %p2, [%r8+64], 0;
    @!%p2 bra WAIT;
    ld.shared.b32 %r5, [%r8];
    st.global.b32 [%rd3], %r5;
DONE:
"""

# CTA 1 tells CTA 0 through its mbarrier that its word is there.
BETWEEN_CTAS = f"""{MBARRIER}    barrier.cluster.arrive;
    barrier.cluster.wait;
    setp.eq.s32 %p1, %r1, 0;
    @%p1 bra READ;
    @%p0 bra DONE;
    st.shared.b32 [%r8], 17;
    BEFORE
    mapa.shared::cluster.u32 %r9, %r8, 0;
    mbarrier.arriveRELEASE.shared::cluster.b64 _, [%r9+64];
    bra DONE;
READ:
WAIT:
    mbarrier.try_wait.parityACQUIRE.shared.b64 %p2, [%r8+64], 0;
    @!%p2 bra WAIT;
    BEHIND
    mapa.shared::cluster.u32 %r10, %r8, 1;
    ld.shared::cluster.b32 %r5, [%r10];
    st.global.b32 [%rd3], %r5;
DONE:
    barrier.cluster.arrive;
    barrier.cluster.wait;
"""
OF_NO_SCOPE = r"race: it reads .* wrote, and .* not of cluster scope"
RELEASES = {
    "RELEASE": ".release.cluster",
    "BEFORE": "fence.release.sync_restrict::shared::cta.cluster;",
}
ACQUIRES = {
    "ACQUIRE": ".acquire.cluster",
    "BEHIND": "fence.acquire.sync_restrict::shared::cluster.cluster;",
}


def between_ctas(*parts: str) -> str:
    """`BETWEEN_CTAS` with these of its places filled."""
    body = BETWEEN_CTAS
    for part, text in (RELEASES | ACQUIRES).items():
        body = body.replace(part, text if part in parts else "")
    return body


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("acquire", ACQUIRES)
def test_both_ends_of_cluster_scope_order_ctas(release: str, acquire: str) -> None:
    x, y = torch.zeros(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    run_ptx(between_ctas(release, acquire), x, y, ctas=2, cluster=2, races=True)
    assert (y[:32] == 17).all()


@pytest.mark.parametrize("end", [*RELEASES, *ACQUIRES])
def test_one_end_of_cluster_scope_orders_nothing(end: str) -> None:
    x, y = torch.zeros(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    with pytest.raises(SimulationError, match=OF_NO_SCOPE):
        run_ptx(between_ctas(end), x, y, ctas=2, cluster=2, races=True)


@pytest.mark.parametrize(("end", "wrong"), [("BEFORE", ACQUIRES["BEHIND"]), ("BEHIND", RELEASES["BEFORE"])])
def test_a_fence_of_one_way_is_none_of_the_other(end: str, wrong: str) -> None:
    x, y = torch.zeros(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    body = between_ctas("BEFORE", "BEHIND").replace((RELEASES | ACQUIRES)[end], wrong)
    with pytest.raises(SimulationError, match=OF_NO_SCOPE):
        run_ptx(body, x, y, ctas=2, cluster=2, races=True)


@pytest.mark.parametrize("apart", [None, 1])
def test_barriers_order_accesses(apart: int | None) -> None:
    x, y = torch.arange(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    run_ptx(EXCHANGE, x, y, threads=64, apart=apart, races=True)
    assert torch.equal(y, x.roll(32) + 1)
    run_ptx(HANDSHAKE, x, y, threads=64, apart=apart, races=True)
    assert (y[32:] == 17).all()


@pytest.mark.parametrize("apart", [None, 1])
def test_a_read_too_early_is_a_race(apart: int | None) -> None:
    """With all warps in one cohort, the values even come out right."""
    x, y = torch.arange(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    says = (
        "race: it reads shared memory at 0x[0-9a-f]+, which warp . .* wrote"
        if apart is None
        else "race|nobody wrote"
    )
    with pytest.raises(SimulationError, match=says):
        run_ptx(EXCHANGE.replace("bar.sync 0; //first", ""), x, y, threads=64, apart=apart, races=True)


@pytest.mark.parametrize("apart", [None, 1])
def test_a_write_too_early_is_a_race(apart: int | None) -> None:
    x, y = torch.arange(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    with pytest.raises(
        SimulationError, match=r"warp \d of CTA \(0, 0, 0\).*race: it (writes|reads) shared memory"
    ):
        run_ptx(EXCHANGE.replace("bar.sync 0; //second", ""), x, y, threads=64, apart=apart, races=True)


def test_a_barrier_of_others_orders_nothing() -> None:
    """Warp 1 reads after a barrier that only warps 2 and 3 share: what warp 0 wrote has not been said."""
    x, y = torch.zeros(128, dtype=torch.int32), torch.zeros(128, dtype=torch.int32)
    body = """
    mov.b32 %r8, smem;
    setp.eq.s32 %p0, %r0, 0;
    @%p0 st.shared.b32 [%r8], 5;
    setp.ge.u32 %p1, %r0, 64;
    @%p1 bar.sync 1, 64;
    @!%p0 ld.shared.b32 %r5, [%r8];
    """
    with pytest.raises(SimulationError, match=r"race: it reads .* which warp 0 of the CTA of rank 0 wrote"):
        run_ptx(body, x, y, threads=128, races=True)


@pytest.mark.compiles
@pytest.mark.parametrize("name", [*ROUTERS, "tma_load_f32_64_multicast_4", "distributed_shared_memory_4"])
def test_correct_kernels_have_none(compiled: dict[str, Path], name: str) -> None:
    program = Program.of_folder(compiled["sm_90a"] / name, races=True)
    if name in ROUTERS:
        operands = Operands(name, 130)
        operands.launch(program)
        assert operands.mismatch() == ""
        return
    kernel = TINY_KERNELS[name]
    x, y = kernel.make(0)
    program(x, y)
    assert kernel.mismatch(y, kernel.reference(x, y)) == ""


RELEASE = r"fence\.release\.sync_restrict::shared::cta\.cluster;"
CLUSTER_BARRIER = r"barrier\.cluster\.arrive\.relaxed;\s*barrier\.cluster\.wait;"
PLANTED: dict[str, tuple[str, tuple[Edit, ...]]] = {
    "epilogue without its barrier": ("router_plain", ((r"bar\.sync\s+1, 128;", ""),)),
    # The consumers' barrier is the one behind the release; then the producer's is the second of three.
    "lists merged without the cluster's barrier": (
        "router_split",
        (
            (rf"{RELEASE}\s*//.*\s*{CLUSTER_BARRIER}", ""),
            (rf"({CLUSTER_BARRIER}(?:.*\n)*?)\s*{CLUSTER_BARRIER}", r"\1"),
        ),
    ),
    "lists that nobody has released to the cluster": ("router_split", ((RELEASE, ""),)),
}


@pytest.mark.compiles
@pytest.mark.parametrize("fence", ["", "fence.acq_rel.cta;", "fence.acq_rel.cluster;", "fence.sc.gpu;"])
def test_order_between_ctas_wants_cluster_scope(compiled: dict[str, Path], fence: str) -> None:
    """An arrival that does not release by itself does so behind a fence of cluster scope or wider."""
    kernel = TINY_KERNELS["distributed_shared_memory_4"]
    edit = (r"barrier\.cluster\.arrive;", f"{fence} barrier.cluster.arrive.relaxed;")
    relaxed = planted(compiled["sm_90a"] / kernel.name, edit)
    program = Program(relaxed.recorder, relaxed.kernels, races=True)
    x, y = kernel.make(0)
    if "cluster" in fence or "gpu" in fence:
        program(x, y)
        assert kernel.mismatch(y, kernel.reference(x, y)) == ""
        return
    with pytest.raises(SimulationError, match=OF_NO_SCOPE):
        program(x, y)


@pytest.mark.compiles
@pytest.mark.parametrize("name", PLANTED)
def test_races_in_routers_are_named(compiled: dict[str, Path], name: str) -> None:
    router, edits = PLANTED[name]
    sound = planted(compiled["sm_90a"] / router, *edits)
    program = Program(sound.recorder, sound.kernels, races=True)
    with pytest.raises(
        SimulationError, match=r"warp \d+ of CTA .* at PTX line \d+: `.*`: (race: it|read of shared)"
    ):
        Operands(router, 64).launch(program)


@pytest.mark.compiles
def test_a_tile_stored_before_all_have_written_is_named(compiled: dict[str, Path]) -> None:
    kernel = TINY_KERNELS["tma_store_f32_128"]
    edit = (r"^(\s*fence\.proxy\.async.*\n(?:.*\n)*?)\s*bar\.sync\s+0;", r"\1")
    sound = planted(compiled["sm_90a"] / kernel.name, edit)
    program = Program(sound.recorder, sound.kernels, races=True)
    with pytest.raises(SimulationError, match=r"race: it reads|without a fence"):
        program(*kernel.make(0))

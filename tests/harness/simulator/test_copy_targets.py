"""Copies to where nothing may be written: over an mbarrier, below the CTA's own memory, after its exit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.simulator import tensor_map
from harness.simulator.errors import SimulationError
from tests.harness.simulator.planting import planted
from tests.harness.simulator.raw_ptx import run_ptx
from tests.harness.simulator.routers import Operands
from tests.harness.simulator.tiny_kernels import TINY_KERNELS

PLACE = r"warp \d+ of CTA \(\d+, \d+, \d+\).* at PTX line \d+: `{}[^`]+`: "
TILE_LOAD = r"^(\s*cp\.async\.bulk\.tensor\.2d\.shared::\S+\s+\[)(%r\d+)(?:\+\d+)?(\].*)$"

# A bulk copy of 128 bytes to smem + TO, which signals the mbarrier at smem + 2048; another lies behind that.
BULK = """
    mov.b32 %r8, smem;
    add.s32 %r9, %r8, 2048;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r9], 1;
    mbarrier.init.shared.b64 [%r9+8], 1;
    BEFORE
    mbarrier.arrive.expect_tx.shared.b64 _, [%r9], 128;
    cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r8+TO], [%rd0], 128, [%r9];
READY:
    bar.sync 0;
    WAIT
"""
WAIT = "SPIN: mbarrier.try_wait.parity.shared.b64 %p1, [%r9], 0; @!%p1 bra SPIN;"

# Each thread copies 4 bytes to smem + 4 t + TO, where thread 0 initialized an mbarrier 128 bytes in.
THREAD_COPY = """
    mov.b32 %r8, smem;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r8+128], 1;
READY:
    bar.sync 0;
    shl.b32 %r9, %r0, 2;
    add.s32 %r9, %r9, %r8;
    cp.async.ca.shared.global [%r9+TO], [%rd2], 4;
    cp.async.wait_all;
"""

# CTA 0 exits at once, and CTA 1 copies to it LATER, behind a wait.
CLUSTER = """
    mov.b32 %r8, smem;
    setp.ne.s32 %p0, %r0, 0;
    @%p0 bra READY;
    mbarrier.init.shared.b64 [%r8+2048], 1;
    mbarrier.init.shared.b64 [%r8+2056], 1;
READY:
    barrier.cluster.arrive;
    barrier.cluster.wait;
    mov.u32 %r10, %cluster_ctarank;
    setp.eq.s32 %p1, %r10, 0;
    or.pred %p1, %p1, %p0;
    @%p1 bra DONE;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r8+2048], 128;
    cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r8], [%rd1], 128, [%r8+2048];
SPIN:
    mbarrier.try_wait.parity.shared.b64 %p3, [%r8+2048], 0;
    @!%p3 bra SPIN;
    mov.b32 %r11, 0;
    mov.b16 %rs1, 1;
    mapa.shared::cluster.u32 %r12, %r8, %r11;
    LATER
DONE:
"""
TILE = "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
TO_EXITED = {
    "tile load": f"{TILE} [%r12+256], [%rd0, {{%r11}}], [%r12+2056];",
    "multicast": f"{TILE}.multicast::cluster [%r8+256], [%rd0, {{%r11}}], [%r8+2056], %rs1;",
    "bulk copy": "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
    "[%r12+256], [%rd1], 128, [%r12+2056];",
}


def words(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32)


def tile_operands() -> tuple[torch.Tensor, torch.Tensor]:
    """(a tensor map of the other, 64 words)."""
    y = words(64)
    described = tensor_map.TensorMap(y.data_ptr(), tensor_map.DataType.INT32, (64,), (), (32,), (1,))
    raw = torch.zeros(256, dtype=torch.uint8)
    x = raw[-raw.data_ptr() % 64 :][: tensor_map.BYTES]
    x.copy_(torch.frombuffer(bytearray(tensor_map.encode(described)), dtype=torch.uint8))
    return x, y


@pytest.mark.compiles
@pytest.mark.parametrize("name", ["router_plain", "router_cluster"])
@pytest.mark.parametrize(
    ("to", "says"),
    [
        (512, "shared address 0x200, 16 bytes: outside the CTA's own bytes, 0x400 to"),
        (1024, r"a tile load of \d+ bytes to shared address 0x400, over the mbarrier at 0x[4-7]\w\w of CTA"),
    ],
)
def test_tile_loads_of_a_router(compiled: dict[str, Path], name: str, to: int, says: str) -> None:
    program = planted(compiled["sm_90a"] / name, (TILE_LOAD, rf"mov.b32 \2, {to}; \1\2\3"))
    with pytest.raises(SimulationError, match=PLACE.format(r"cp\.async\.bulk\.tensor") + says):
        Operands(name, 130).launch(program)


@pytest.mark.compiles
def test_a_tile_load_that_ends_outside(compiled: dict[str, Path]) -> None:
    kernel = TINY_KERNELS["tma_load_f32_128"]
    program = planted(compiled["sm_90a"] / kernel.name, (TILE_LOAD, r"add.s32 \2, \2, 1024; \1\2\3"))
    with pytest.raises(SimulationError, match=PLACE.format(r"cp\.async") + ".* outside the CTA's own bytes"):
        program(*kernel.make(0))


@pytest.mark.parametrize("to", [1936, 2048])
def test_a_bulk_copy_over_an_mbarrier(to: int) -> None:
    says = f"a bulk copy of 128 bytes to shared address {1024 + to:#x}, over the mbarrier at 0xc00 of CTA"
    with pytest.raises(SimulationError, match=PLACE.format(r"cp\.async\.bulk\.shared") + says):
        run_ptx(BULK.replace("TO", str(to)).replace("WAIT", WAIT).replace("BEFORE", ""), words(64), words(64))


@pytest.mark.parametrize(("to", "before"), [(1920, ""), (2064, ""), (1936, "BEHIND")])
def test_a_bulk_copy_beside_an_mbarrier(to: int, before: str) -> None:
    body = BULK.replace("TO", str(to)).replace("WAIT", WAIT).replace("BEFORE", "")
    if before:  # ends where the second mbarrier was, and the first one lies elsewhere
        body = (
            body.replace("2048", "2240")
            .replace("[%r9+8]", "[%r8+2056]")
            .replace("    mbarrier.arrive", "    mbarrier.inval.shared.b64 [%r8+2056];\n    mbarrier.arrive")
        )
    run_ptx(body, words(64), words(64))


def test_thread_copies_over_an_mbarrier() -> None:
    run_ptx(THREAD_COPY.replace("TO", "0"), words(32), words(32))
    says = "cp.async of 4 bytes to shared address 0x480, over the mbarrier at 0x480 of CTA"
    with pytest.raises(SimulationError, match=PLACE.format(r"cp\.async\.ca") + says):
        run_ptx(THREAD_COPY.replace("TO", "4"), words(32), words(32))


@pytest.mark.parametrize("to", [-512, 4096 - 64])
def test_thread_copies_outside(to: int) -> None:
    with pytest.raises(SimulationError, match=PLACE.format(r"cp\.async\.ca") + ".*the CTA's own bytes"):
        run_ptx(THREAD_COPY.replace("TO", str(to)), words(32), words(32))


@pytest.mark.parametrize("copy", TO_EXITED.values(), ids=TO_EXITED)
def test_copies_to_a_cta_that_has_exited(copy: str) -> None:
    says = "access to the shared memory of a CTA that has exited"
    with pytest.raises(SimulationError, match=r"warp 0 of CTA \(1, 0, 0\) at PTX line \d+: `cp.*: " + says):
        run_ptx(CLUSTER.replace("LATER", copy), *tile_operands(), ctas=2, cluster=2)


@pytest.mark.parametrize("kind", ["tile load", "bulk copy"])
def test_copies_that_come_after_their_ctas_exit(kind: str) -> None:
    body = BULK.replace("TO", "0").replace("WAIT", "").replace("BEFORE", "")
    if kind == "tile load":
        line = next(line for line in body.splitlines() if "cp.async" in line)
        body = body.replace(line, f"mov.b32 %r11, 0; {TILE} [%r8], [%rd0, {{%r11}}], [%r9];")
    says = rf"a {kind} reaches the shared memory of CTA \(0, 0, 0\), which has exited"
    with pytest.raises(SimulationError, match=PLACE.format(r"cp\.async\.bulk") + says):
        run_ptx(body, *tile_operands())


@pytest.mark.parametrize("rank", [1, 2])
def test_a_tile_load_to_a_rank_outside_the_cluster(rank: int) -> None:
    body = BULK.replace("TO", "0").replace("WAIT", WAIT).replace("BEFORE", "")
    line = next(line for line in body.splitlines() if "cp.async" in line)
    copy = f"mov.b32 %r11, 0; add.s32 %r12, %r8, {rank << 24}; {TILE} [%r12], [%rd0, {{%r11}}], [%r9];"
    with pytest.raises(SimulationError, match=f"tile load to rank {rank} of a cluster of 1 CTAs"):
        run_ptx(body.replace(line, copy), *tile_operands(), ctas=3)

"""clusterlaunchcontrol: with every cluster launched, a request fails, in every CTA that shares the answer."""

from __future__ import annotations

import pytest
import torch

from harness.simulator.errors import SimulationError
from tests.harness.simulator.raw_ptx import run_ptx

CTAS = 2
ASK = (
    "clusterlaunchcontrol.try_cancel.async.shared::cta"
    ".mbarrier::complete_tx::bytes.multicast::cluster::all.b128"
)
BODY = f"""
    mov.u32 %r4, smem;
    setp.eq.s32 %p1, %r0, 0;
    mov.u32 %r5, %cluster_ctarank;
    setp.eq.s32 %p2, %r5, 0;
    and.pred %p2, %p2, %p1;
    mov.b32 %r6, 1;
    mov.b32 %r7, 16;
    @%p1 mbarrier.init.shared.b64 [%r4], %r6;
    @%p1 mbarrier.arrive.expect_tx.shared.b64 %rd5, [%r4], %r7;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    @%p2 {ASK} [%r4+16], [%r4];
W:  mbarrier.try_wait.parity.shared.b64 %p3, [%r4], 0;
    @!%p3 bra W;
    ld.shared.v2.b64 {{%rd6, %rd7}}, [%r4+16];
    {{
    .reg .b128 %handle;
    mov.b128 %handle, {{%rd6, %rd7}};
    clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 %p4, %handle;
    }}
    selp.b32 %r8, 1, 2, %p4;
    st.global.b32 [%rd3], %r8;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
"""


def test_nothing_is_left_to_cancel() -> None:
    out = torch.zeros(CTAS * 32, dtype=torch.int32)
    run_ptx(BODY, torch.zeros(1), out, ctas=CTAS, cluster=CTAS)
    assert (out == 2).all()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("%r4", "a response of 16 bytes to shared address 0x400, over the mbarrier"),
        ("%r4+4096", "shared"),
        ("%r4+8", "response at 0x408: want a multiple of 16"),
    ],
)
def test_a_response_goes_where_a_copy_may(place: str, message: str) -> None:
    body = BODY.replace(f"{ASK} [%r4+16]", f"{ASK} [{place}]")
    with pytest.raises(SimulationError, match=message):
        run_ptx(body, torch.zeros(1), torch.zeros(CTAS * 32, dtype=torch.int32), ctas=CTAS, cluster=CTAS)


def test_a_response_to_a_cta_that_has_gone_is_an_error() -> None:
    body = BODY.replace("W:  mbarrier.try_wait", "    @!%p2 ret;\nW:  mbarrier.try_wait")
    with pytest.raises(SimulationError, match=r"a response reaches the shared memory of CTA .* has exited"):
        run_ptx(body, torch.zeros(1), torch.zeros(CTAS * 32, dtype=torch.int32), ctas=CTAS, cluster=CTAS)

"""Defects planted in PTX that uses tensor memory: each is an error that says what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.simulator.errors import Deadlock, SimulationError
from harness.simulator.loaded import load
from harness.simulator.recorder import Recorder
from harness.simulator.run import Program
from tests.harness.simulator import handshake_ptx
from tests.harness.simulator.gemm_params import GEMMS
from tests.harness.simulator.gemm_reference import make_operands
from tests.harness.simulator.test_planted_faults import PLACE

UNORDERED = "and nothing orders the two: "
AFTER = UNORDERED + "the barrier between them counts with a tcgen05.fence::after_thread_sync behind it"
COMMIT = UNORDERED + "want a wait for a tcgen05.commit behind it"
RELEASE_LOAD = (
    UNORDERED + "want a tcgen05.wait::ld, a tcgen05.fence::before_thread_sync and a barrier behind it"
)
RELEASE_STORE = (
    UNORDERED + "want a tcgen05.wait::st, a tcgen05.fence::before_thread_sync and a barrier behind it"
)


def test_the_kernel_is_right_without_a_defect() -> None:
    out = handshake_ptx.run(handshake_ptx.KERNEL)
    for number in range(handshake_ptx.ROUNDS):
        assert (out[number] == handshake_ptx.MMA_K * (number + 1)).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("proxy fence", "without a fence.proxy.async behind it"),
        ("wait st", RELEASE_STORE),
        ("before zeros", RELEASE_STORE),
        ("after zeros", AFTER),
        ("after full", AFTER),
        ("wait ld", RELEASE_LOAD),
        ("before free", RELEASE_LOAD),
        ("free wait", COMMIT),
        ("after free", AFTER),
        ("after dealloc", AFTER),
        ("zeros", "nobody wrote tensor memory of CTA 0, lane 0, column 0"),
        ("full wait", "more arrivals on the mbarrier"),
    ],
)
def test_a_missing_line(name: str, message: str) -> None:
    with pytest.raises(SimulationError, match=f"{PLACE}.*{re.escape(message)}"):
        handshake_ptx.run(handshake_ptx.without(name))


def test_columns_that_nobody_frees() -> None:
    message = f"a CTA exits with 32 columns of tensor memory allocated by {PLACE}"
    with pytest.raises(SimulationError, match=message):
        handshake_ptx.run(handshake_ptx.without("dealloc"))


def test_a_product_that_its_cta_does_not_wait_for() -> None:
    waits = ("//<full wait>", "//<free wait>", "//<commit>", "arrive.")
    gone = (*waits, "//<dealloc>", "tcgen05.ld", "st.global")
    lines = [line for line in handshake_ptx.KERNEL.splitlines() if not any(word in line for word in gone)]
    with pytest.raises(SimulationError, match=f"{PLACE}: a CTA exits before it is complete"):
        handshake_ptx.run("\n".join(lines))


@pytest.mark.parametrize(
    "name",
    ["before zeros", "after zeros", "after full", "wait ld", "before free", "after free", "after dealloc"],
)
def test_order_that_barriers_and_registers_imply(name: str) -> None:
    out = handshake_ptx.run(handshake_ptx.without(name), implied_order=True)
    for number in range(handshake_ptx.ROUNDS):
        assert (out[number] == handshake_ptx.MMA_K * (number + 1)).all()


@pytest.mark.parametrize(("name", "message"), [("wait st", RELEASE_STORE), ("free wait", COMMIT)])
def test_order_that_nothing_implies(name: str, message: str) -> None:
    with pytest.raises(SimulationError, match=f"{PLACE}.*{re.escape(message)}"):
        handshake_ptx.run(handshake_ptx.without(name), implied_order=True)


def test_a_missing_commit_is_a_deadlock() -> None:
    with pytest.raises(Deadlock, match=r"waits for parity 0 of the mbarrier at 0x1c00 of CTA \(0, 0, 0\)"):
        handshake_ptx.run(handshake_ptx.without("commit"))


ALLOC = "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32"
DEALLOC = "tcgen05.dealloc.cta_group::1.sync.aligned.b32"
LAST_HALF = ", ".join(f"%r{32 + i}" for i in range(16))
MMA = "tcgen05.mma.cta_group::1.kind::f16.collector::a::discard [%r5], %rd3, %rd4, %r10, %p8;"


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("alloc", f"{ALLOC} [%r2+6160], 48;", "want a power of two from 32 to 512"),
        ("alloc", f"{ALLOC} [%r2+6160], 16;", "want a power of two from 32 to 512"),
        (
            "alloc",
            f"{ALLOC} [%r2+6168], 512; {ALLOC} [%r2+6160], 32;",
            "an allocation of 32 columns of tensor memory by a CTA that holds 512 of 512",
        ),
        (
            "alloc",
            f"{ALLOC} [%r2+6168], 32; {ALLOC} [%r2+6160], 64;",
            "an allocation of 64 columns of tensor memory behind one of 32: they may not grow",
        ),
        (
            "relinquish",
            "tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned; " + f"{ALLOC} [%r2+6168], 32;",
            "tcgen05.alloc after tcgen05.relinquish_alloc_permit",
        ),
        (
            "relinquish",
            "tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;",
            "cta_group::2 in a kernel that uses cta_group::1",
        ),
        ("dealloc", f"{DEALLOC} %r5, 64;", "the allocation there has 32"),
        ("dealloc", f"{DEALLOC} %r5, 32; {DEALLOC} %r5, 32;", "nothing is allocated there"),
        ("product", MMA, "mma issued by 32 lanes of a warp: want one thread"),
        (
            "product",
            f"add.s32 %r5, %r5, 16; @%p6 {MMA}",
            "columns 16 to 47 of tensor memory are not allocated",
        ),
        (
            "released",
            f"RELEASED: tcgen05.ld.sync.aligned.32x32b.x16.b32 {{{LAST_HALF}}}, [%r7+16];",
            "and nothing orders the two: want",
        ),
        (
            "quarter",
            "add.s32 %r7, %r5, 0;",
            "a warp of lanes 32 to 63 accesses 32 lanes from lane 0",
        ),
    ],
)
def test_a_wrong_line(name: str, line: str, message: str) -> None:
    with pytest.raises(SimulationError, match=f"{PLACE}.*{re.escape(message)}"):
        handshake_ptx.run(handshake_ptx.with_line(name, line))


def run_gemm(folder: Path, name: str, change: Callable[[str], str]) -> None:
    """Run a GEMM whose PTX has been changed, on more stages of K than its ring holds."""
    params = GEMMS[name]
    m, n, k = 128, params.mma_n, (params.stages + 2) * params.stage_k
    ptx = (folder / name / "kernel.ptx").read_text()
    changed = change(ptx)
    assert changed != ptx
    program = Program(Recorder.of_artifact(folder / name), load(changed))
    program(*make_operands(params, m, n, k), torch.empty(m, n))


def replaced(pattern: str, new: str) -> Callable[[str], str]:
    """The first match of `pattern` replaced by `new`."""
    return lambda ptx: re.sub(pattern, new, ptx, count=1)


def released_too_soon(ptx: str) -> str:
    """The stage's commit in front of its products."""
    commit = re.search(r"\ttcgen05\.commit[^;]*;\n", ptx)
    assert commit is not None
    rest = ptx[: commit.start()] + ptx[commit.end() :]
    first = rest.index("\ttcgen05.mma")
    return rest[:first] + commit[0] + rest[first:]


def copied_over_the_accumulator(ptx: str) -> str:
    """The first copy of scale factors to where the products accumulate."""
    accumulator = re.search(r"tcgen05\.mma[^\[]*(\[%r\d+\])", ptx)
    assert accumulator is not None
    return replaced(r"(tcgen05\.cp[^\[]*)\[%r\d+\]", rf"\1{accumulator[1]}")(ptx)


SCALED = "gemm_nvf4_1cta_n128_c1x1_s3"


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "gemm_f16_1cta_n128_c1x1_s1",
            released_too_soon,
            rf"{PLACE}.*a copy overwrites shared memory of CTA \(0, 0, 0\) "
            r".* which tcgen05\.mma\S* \(PTX .* may still read",
        ),
        (
            "gemm_f16_2cta_n128_c2x1_s3",
            released_too_soon,
            rf"{PLACE}.*a copy overwrites shared memory of CTA \([01], 0, 0\) .* may still read",
        ),
        (
            SCALED,
            replaced(r"add\.s32 \t(%r\d+), (%r\d+), 128;(?=(.|\n)*tcgen05\.cp)", r"add.s32 \t\1, \2, 96;"),
            f"{PLACE}.*the accumulator, 128 columns from 0 on, "
            "overlaps an operand of its own, 4 columns from 96 on",
        ),
        (
            SCALED,
            copied_over_the_accumulator,
            rf"{PLACE}.*tensor memory of CTA \(0, 0, 0\), lanes 0 on"
            r".* that tcgen05\.cp\S* \(PTX line \d+\) for warp 4 writes, and nothing orders the two",
        ),
        (SCALED, replaced(r"\ttcgen05\.cp[^;]*;", ""), f"{PLACE}.*nobody wrote tensor memory of CTA 0"),
        (
            SCALED,
            replaced(r"\ttcgen05\.dealloc[^;]*;", ""),
            f"a CTA exits with 256 columns of tensor memory allocated by {PLACE}",
        ),
        (
            SCALED,
            replaced(r"\ttcgen05\.alloc[^;]*;", r"\g<0>\n\g<0>\n\g<0>"),
            f"{PLACE}.*an allocation of 256 columns of tensor memory by a CTA that holds 512 of 512",
        ),
        (
            "gemm_f16_2cta_n128_c2x1_s3",
            replaced(r"mov\.b32 \t(%r\d+), 128;(?=\s+tcgen05\.alloc)", r"mov.b32 \t\1, 1024;"),
            f"{PLACE}.*an allocation of 1024 columns of tensor memory: want a power of two from 32 to 512",
        ),
        (
            SCALED,
            replaced(r"mov\.b32 \t(%r\d+), 256;(?=\s+tcgen05\.alloc)", r"mov.b32 \t\1, 128;"),
            f"{PLACE}.*not allocated",
        ),
    ],
)
def test_a_defect_in_a_gemm(
    blackwell_gemms: Path, name: str, change: Callable[[str], str], message: str
) -> None:
    with pytest.raises(SimulationError, match=message):
        run_gemm(blackwell_gemms, name, change)

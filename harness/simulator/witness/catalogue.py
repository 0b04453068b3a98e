"""The cases: which examples are called, and how."""

from __future__ import annotations

from collections.abc import Iterator

from harness.simulator.witness.case import Case
from harness.simulator.witness.dense import BlackwellGemm, HopperGemm

BLACKWELL = "blackwell/kernel"
HOPPER = "hopper/kernel"


def cases() -> list[Case]:
    return [*_blackwell_dense(), *_hopper_dense()]


def _blackwell_dense() -> Iterator[Case]:
    persistent = f"{BLACKWELL}/dense_gemm/dense_gemm_persistent"
    for cluster in ((1, 1), (2, 1), (1, 2), (2, 2)):
        yield BlackwellGemm(persistent, (512, 384, 256, 1), cluster=cluster)
    for cluster in ((2, 1), (2, 2), (4, 1)):
        yield BlackwellGemm(persistent, (512, 512, 256, 1), (256, 128), cluster, two_cta=True)


def _hopper_dense() -> Iterator[Case]:
    yield HopperGemm(f"{HOPPER}/dense_gemm/dense_gemm")

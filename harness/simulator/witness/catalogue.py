"""The cases: which examples are called, and how. Problems are a few tiles each way, most with tails."""

from __future__ import annotations

from collections.abc import Iterator

from harness.simulator.witness.attention import AmpereAttention, BlackwellAttention, HopperAttention
from harness.simulator.witness.blockscaled import BlockScaledGemm, TutorialBlockScaledGemm
from harness.simulator.witness.case import Case
from harness.simulator.witness.dense import BlackwellGemm, HopperGemm, SimtGemm, TensorOpGemm, TutorialGemm

BLACKWELL = "blackwell/kernel"
HOPPER = "hopper/kernel"
AMPERE = "ampere/kernel"
DENSE = f"{BLACKWELL}/dense_gemm"
SCALED = f"{BLACKWELL}/blockscaled_gemm/dense_blockscaled_gemm_persistent"

# M, N, K and L: tiles of 128 and a K tile of 64 elements, the last ones cut off.
TAILS = (328, 264, 200, 2)
WHOLE = (512, 512, 256, 1)


def cases() -> list[Case]:
    """All of them, the most telling first."""
    return [*_dense(), *_scaled(), *_hopper(), *_ampere(), *_attention()]


def _dense() -> Iterator[Case]:
    persistent = f"{DENSE}/dense_gemm_persistent"
    for cluster in ((1, 1), (2, 1), (1, 2), (2, 2)):
        yield BlackwellGemm(persistent, TAILS, cluster=cluster)
    for cluster in ((2, 1), (2, 2), (4, 1)):
        yield BlackwellGemm(persistent, TAILS, (256, 128), cluster, two_cta=True)
    for tile in ((64, 32), (64, 96), (128, 224), (128, 256)):
        yield BlackwellGemm(persistent, TAILS, tile)
    for tile in ((128, 64), (256, 96), (256, 256)):
        yield BlackwellGemm(persistent, TAILS, tile, (2, 1), two_cta=True)
    for ab, acc, c in (
        ("bf16", "f32", "bf16"),
        ("f16", "f16", "f16"),
        ("f16", "f32", "f32"),
        ("f32", "f32", "f32"),
        ("e4m3", "f32", "e4m3"),
        ("e5m2", "f32", "f16"),
        ("e4m3", "f16", "f16"),
        ("s8", "s32", "s32"),
    ):
        yield BlackwellGemm(persistent, (336, 272, 208, 1), ab=ab, acc=acc, c=c)
    for majors in ("mkn", "knn", "kkm", "mnm"):
        yield BlackwellGemm(persistent, TAILS, majors=majors)
    yield BlackwellGemm(persistent, TAILS, (256, 128), (2, 1), two_cta=True, majors="mnm")
    yield BlackwellGemm(persistent, WHOLE, tma_store=False)
    yield BlackwellGemm(persistent, WHOLE, (256, 128), (2, 1), two_cta=True, tma_store=False)
    for name in ("dense_gemm", "dense_gemm_software_pipeline"):
        yield BlackwellGemm(f"{DENSE}/{name}", TAILS, kernel="DenseGemmKernel")
        yield BlackwellGemm(f"{DENSE}/{name}", TAILS, cluster=(2, 2), kernel="DenseGemmKernel")
        yield BlackwellGemm(
            f"{DENSE}/{name}", TAILS, (256, 128), (2, 1), kernel="DenseGemmKernel", two_cta=True
        )
        yield BlackwellGemm(f"{DENSE}/{name}", WHOLE, kernel="DenseGemmKernel", tma_store=False)
    for number in ("0", "1", "2", "3", "3_1", "4", "5"):
        yield TutorialGemm(f"blackwell/tutorial/tutorial_gemm/fp16_gemm_{number}", (512, 512, 256, 1))
    for name in ("dense_gemm_persistent_prefetch", "dense_gemm_persistent_dynamic"):
        yield BlackwellGemm(f"{DENSE}/{name}", TAILS)
        yield BlackwellGemm(f"{DENSE}/{name}", TAILS, (256, 128), (2, 1), two_cta=True)


def _scaled() -> Iterator[Case]:
    tails = (320, 288, 416, 2)
    for cluster in ((1, 1), (2, 1), (1, 2), (2, 2)):
        yield BlockScaledGemm(SCALED, tails, (128, 128), cluster)
    for cluster in ((2, 1), (2, 2), (4, 1)):
        yield BlockScaledGemm(SCALED, tails, (256, 128), cluster)
    for tile, cluster in (
        ((128, 64), (1, 1)),
        ((128, 192), (1, 1)),
        ((128, 256), (1, 1)),
        ((256, 64), (2, 1)),
        ((256, 192), (2, 1)),
        ((256, 256), (2, 2)),
    ):
        yield BlockScaledGemm(SCALED, (512, 576, 512, 1), tile, cluster)
    for a, b, scale, block, c in (
        ("e2m1", "e2m1", "ue8m0", 16, "f16"),
        ("e2m1", "e2m1", "ue8m0", 32, "bf16"),
        ("e4m3", "e4m3", "ue8m0", 32, "f32"),
        ("e5m2", "e4m3", "ue8m0", 32, "e5m2"),
        ("e4m3", "e2m1", "ue8m0", 32, "f32"),
        ("e2m1", "e5m2", "ue8m0", 32, "f32"),
    ):
        for tile, cluster in (((128, 128), (1, 1)), ((256, 128), (2, 1))):
            yield BlockScaledGemm(SCALED, (320, 288, 512, 1), tile, cluster, a, b, scale, block, c)
    for number in (0, 1):
        yield TutorialBlockScaledGemm(
            f"blackwell/tutorial/tutorial_gemm/nvfp4_gemm_{number}", (512, 512, 512, 1), c="f16"
        )
    yield BlockScaledGemm(
        SCALED, (256, 256, 256, 1), a="e4m3", b="e4m3", scale="ue8m0", block=32, majors="mnm"
    )


def _hopper() -> Iterator[Case]:
    for persistent, name in ((False, "dense_gemm"), (True, "dense_gemm_persistent")):
        example = f"{HOPPER}/dense_gemm/{name}"
        for cluster in ((1, 1), (2, 1), (1, 2), (2, 2)):
            yield HopperGemm(example, TAILS, cluster=cluster, persistent=persistent)
        for tile in ((64, 64), (128, 64), (128, 256)):
            yield HopperGemm(example, TAILS, tile, persistent=persistent)
        for ab, acc, c in (
            ("f16", "f16", "f16"),
            ("f16", "f32", "f32"),
            ("e4m3", "f32", "f16"),
            ("e5m2", "f32", "e4m3"),
            ("s8", "s32", "s32"),
        ):
            yield HopperGemm(example, (336, 272, 208, 1), ab=ab, acc=acc, c=c, persistent=persistent)
        for majors in ("mkn", "knn", "kkm", "mnm"):
            yield HopperGemm(example, TAILS, majors=majors, persistent=persistent)


def _ampere() -> Iterator[Case]:
    gemm = f"{AMPERE}/dense_gemm/tensorop_gemm"
    yield TensorOpGemm(gemm, TAILS)
    yield TensorOpGemm(gemm, TAILS, majors="mnm")
    yield TensorOpGemm(gemm, (336, 272, 208, 1), ab="bf16", c="bf16")
    yield TensorOpGemm(gemm, (336, 272, 208, 1), ab="f16", acc="f16")
    yield SimtGemm(f"{AMPERE}/dense_gemm/sgemm", (256, 256, 40, 1), ab="f32", c="f32")


def _attention() -> Iterator[Case]:
    for causal in (False, True):
        yield AmpereAttention(
            f"{AMPERE}/attention/flash_attention_v2", (1, 192, 160, 2, 2, 64), causal=causal
        )
        for persistent in (False, True):
            yield HopperAttention(
                f"{HOPPER}/attention/fmha", (2, 256, 256, 2, 1, 64), causal=causal, persistent=persistent
            )
            yield BlackwellAttention(
                f"{BLACKWELL}/attention/fmha/fmha",
                (2, 512, 384, 2, 1, 64),
                causal=causal,
                persistent=persistent,
            )
    yield HopperAttention(f"{HOPPER}/attention/fmha", (1, 200, 328, 4, 2, 128))
    yield BlackwellAttention(f"{BLACKWELL}/attention/fmha/fmha", (1, 200, 328, 4, 2, 128))

"""Compiled Hopper kernels keep what their config promises: seen in the cubin and PTX, without a GPU.

One config for each thing that a config can change, on problems so small that they compile fast, and the
defaults of the default problem.
"""

from __future__ import annotations

import re
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest

from harness.artifact import ArtifactManifest
from harness.compile import PTX
from harness.compile_pool import CompilePool
from harness.compile_result import CompileResult
from kernels.families import family
from kernels.problem import PRESETS, RouterProblem, Score
from kernels.sm90.config import BARRIER_BYTES, WARPGROUP, Sm90Config, TwoKernelConfig

pytestmark = pytest.mark.compiles

TARGET = "sm_90a"
FUSED, TWO_KERNEL = family("fused_sm90"), family("two_kernel_sm90")
PRO = PRESETS["deepseek-v4-pro"]
SMALL = RouterProblem("small", hidden=512, experts=96, top_k=4)
SIGMOID = RouterProblem("sigmoid", hidden=512, experts=96, top_k=8, score=Score.SIGMOID)
SOFTMAX = RouterProblem("softmax", hidden=512, experts=96, top_k=8, score=Score.SOFTMAX, bias=False)
PLAIN_SOFTMAX = RouterProblem(
    "plain", hidden=512, experts=96, top_k=8, score=Score.SOFTMAX, bias=False, renorm=False
)


def one_group(**changes: Any) -> dict[str, Any]:
    """A config of one consumer warpgroup, with 64 tokens and 48 experts in a tile."""
    return {"tile_m": 64, "tile_n": 48, "stages": 3, "warpgroups": 1} | changes


CASES: dict[str, tuple[RouterProblem, Sm90Config]] = {
    "cooperative_m": (SMALL, Sm90Config(tile_n=32, stages=3)),
    "cooperative_n": (SIGMOID, Sm90Config(tile_m=64, tile_n=96, stages=3, schedule="cooperative_n")),
    "pingpong": (SOFTMAX, Sm90Config(tile_m=64, tile_n=32, schedule="pingpong", early_release=True)),
    "shared_b": (SMALL, Sm90Config(**one_group(cluster_m=2))),
    "shared_both": (SMALL, Sm90Config(**one_group(cluster_m=2, expert_split=2, multicast_a=True))),
    "split_k": (SMALL, Sm90Config(**one_group(expert_split=2, split_k=2))),
    "grid_split_padded": (SMALL, Sm90Config(**one_group(tile_m=16, tile_n=32, grid_split=3))),
    "two_kernel": (PLAIN_SOFTMAX, TwoKernelConfig(**one_group(cluster_m=2))),
    "default_at_1": (PRO, FUSED.default_config(PRO, 1)),
    "default_at_16384": (PRO, FUSED.default_config(PRO, 16384)),
}


@dataclass(frozen=True)
class Compiled:
    problem: RouterProblem
    config: Sm90Config
    manifest: ArtifactManifest
    ptx: str

    def has(self, pattern: str) -> bool:
        return re.search(pattern, self.ptx) is not None


@pytest.fixture(scope="module")
def compiles(compile_pool: CompilePool) -> dict[str, Future[CompileResult]]:
    """Every case, on its way through the compiler."""
    return {
        name: compile_pool.submit(
            TWO_KERNEL if isinstance(config, TwoKernelConfig) else FUSED, problem, config, TARGET
        )
        for name, (problem, config) in CASES.items()
    }


@pytest.fixture(params=CASES)
def compiled(request: pytest.FixtureRequest, compiles: dict[str, Future[CompileResult]]) -> Compiled:
    result = compiles[request.param].result()
    assert result.artifact is not None, result.reason
    return Compiled(
        *CASES[request.param], result.artifact.manifest, (result.artifact.folder / PTX).read_text()
    )


def test_nothing_spills(compiled: Compiled) -> None:
    kernels = compiled.manifest.resources
    assert len(kernels) == (2 if isinstance(compiled.config, TwoKernelConfig) else 1)
    assert {kernel.kernel: kernel.local_bytes for kernel in kernels if kernel.local_bytes} == {}
    assert not compiled.has(r"\.local\b"), "an array that is indexed at run time"


def test_shared_memory_is_what_the_rules_count(compiled: Compiled) -> None:
    c = compiled.config
    (gemm,) = (kernel for kernel in compiled.manifest.resources if "RouterGemm" in kernel.kernel)
    bias = 4 * c.n_tiles(compiled.problem) * c.tile_n
    assert gemm.dynamic_smem_bytes is not None
    assert c.ring_bytes < gemm.dynamic_smem_bytes <= c.ring_bytes + BARRIER_BYTES + bias + c.scratch_bytes


def test_the_tensor_cores_multiply_tiles_of_the_asked_shape(compiled: Compiled) -> None:
    shapes = set(re.findall(r"wgmma\.mma_async\.sync\.aligned\.(\w+)\.f32\.bf16\.bf16", compiled.ptx))
    assert shapes == {f"m64n{compiled.config.columns_per_warpgroup}k16"}


def test_a_block_has_the_asked_warpgroups(compiled: Compiled) -> None:
    assert compiled.has(rf"\.reqntid {WARPGROUP * (1 + compiled.config.warpgroups)}, 1, 1\b")


def test_loads_are_multicast_exactly_where_asked(compiled: Compiled) -> None:
    c = compiled.config
    loads = re.findall(r"cp\.async\.bulk\.tensor\.2d\.shared::\S+", compiled.ptx)
    shared = {c.a_multicast > 1, c.cluster_m > 1}  # of A and of B
    assert {"multicast::cluster" in load for load in loads} == shared


def test_ctas_meet_and_read_each_other_exactly_where_a_split_asks(compiled: Compiled) -> None:
    c = compiled.config
    assert compiled.has(r"barrier\.cluster\.arrive") == (c.cluster_size > 1)
    assert compiled.has(r"ld\.shared::cluster") == (c.group_size > 1)
    assert compiled.has(r"atom\.\S*add") == (c.grid_split > 1)


def test_padding_is_cleared_exactly_where_there_is_some(compiled: Compiled) -> None:
    assert compiled.has(r"fence\.proxy\.async\.shared::cta") == (compiled.config.tile_m < 64)


def test_only_the_asked_score_function_is_there(compiled: Compiled) -> None:
    score = compiled.problem.score
    assert compiled.has(r"sqrt\.") == (score is Score.SQRT_SOFTPLUS)
    assert compiled.has(r"rcp\.approx") == (score is Score.SQRT_SOFTPLUS)
    assert compiled.has(r"ex2\.approx")

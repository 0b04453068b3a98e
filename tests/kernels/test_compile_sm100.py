"""Compiled Blackwell kernels keep what their config promises: seen in the cubin and PTX, without a GPU.

One config for each thing that a config can change, on problems so small that they compile fast, and the
defaults of the default problem.
"""

from __future__ import annotations

import re
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from harness.artifact import ArtifactManifest
from harness.cache import ArtifactCache
from harness.compile import PTX
from harness.compile_pool import CompilePool
from harness.compile_result import CompileResult
from kernels.families import family
from kernels.problem import PRESETS, RouterProblem, Score
from kernels.sm100.config import Sm100Config, TwoKernelConfig

pytestmark = pytest.mark.compiles

FUSED, TWO_KERNEL = family("fused_sm100"), family("two_kernel_sm100")
PRO = PRESETS["deepseek-v4-pro"]
SMALL = RouterProblem("small", hidden=1024, experts=384, top_k=6)
SIGMOID = RouterProblem("sigmoid", hidden=1024, experts=256, top_k=8, score=Score.SIGMOID)
SOFTMAX = RouterProblem("softmax", hidden=1024, experts=128, top_k=2, score=Score.SOFTMAX, bias=False)


def config(**changes: Any) -> Sm100Config:
    return Sm100Config(**{"stages": 2, "epi_n": 16} | changes)


def two_kernel(**changes: Any) -> TwoKernelConfig:
    return TwoKernelConfig(**asdict(config(**changes)))


PAIR: dict[str, Any] = {"mma_m": 256, "cta_group": 2, "cluster_m": 2}
OVERLAP: dict[str, Any] = {"mma_n": 256, "acc_stages": 1, "early_release": True}
CASES: dict[str, tuple[RouterProblem, Sm100Config]] = {
    "plain": (SMALL, config()),
    "early_release": (SIGMOID, config(early_release=True)),
    "overlap": (SMALL, config(**OVERLAP)),
    "pair": (SMALL, config(mma_n=192, **PAIR)),
    "pair_of_overlaps": (SIGMOID, config(**PAIR, **OVERLAP)),
    "two_warpgroups": (SMALL, config(mma_n=192, epi_warpgroups=2, early_release=True)),
    "shared_experts": (SMALL, config(mma_n=64, cluster_m=4)),
    "shared_both": (SIGMOID, config(expert_split=2, multicast_a=True, **PAIR)),
    "expert_split": (SMALL, config(expert_split=3)),
    "split_k": (SMALL, config(mma_n=64, expert_split=3, split_k=2)),
    "grid_split": (SMALL, config(mma_n=64, grid_split=6, split_k=4)),
    "swapped": (SOFTMAX, config(mma_n=64, swap_operands=True)),
    "swapped_split": (SMALL, config(mma_n=64, swap_operands=True, expert_split=3, split_k=2)),
    "two_kernel": (replace(SOFTMAX, renorm=False), two_kernel(mma_n=64)),
    "default_at_1": (PRO, FUSED.default_config(PRO, 1)),
    "default_at_16384": (PRO, FUSED.default_config(PRO, 16384)),
}


@dataclass(frozen=True)
class Compiled:
    problem: RouterProblem
    config: Sm100Config
    manifest: ArtifactManifest
    ptx: str

    def has(self, pattern: str) -> bool:
        return re.search(pattern, self.ptx) is not None

    def constant(self, register: str) -> int:
        """The value of a register that is set once."""
        (value,) = re.findall(rf"mov\.b32\s+{register}, (\d+);", self.ptx)
        return int(value)


@pytest.fixture(scope="module")
def compiles(compile_pool: CompilePool) -> dict[str, Future[CompileResult]]:
    """Every case, on its way through the compiler."""
    return {
        name: compile_pool.submit(
            TWO_KERNEL if isinstance(config, TwoKernelConfig) else FUSED, problem, config, "sm_100a"
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
    (gemm,) = (kernel for kernel in compiled.manifest.resources if "RouterGemm" in kernel.kernel)
    assert gemm.dynamic_smem_bytes == compiled.config.smem_bytes(compiled.problem)


def test_tensor_memory_is_allocated_and_freed_once(compiled: Compiled) -> None:
    group = compiled.config.cta_group
    (allocated,) = re.findall(rf"tcgen05\.alloc\.cta_group::{group}\.\S+\s+\[\S+\], (\S+);", compiled.ptx)
    (freed,) = re.findall(rf"tcgen05\.dealloc\.cta_group::{group}\.\S+\s+\S+, (\S+);", compiled.ptx)
    (gemm,) = (kernel for kernel in compiled.manifest.resources if "RouterGemm" in kernel.kernel)
    assert gemm.tmem_columns == compiled.config.tmem_allocation
    assert compiled.constant(allocated) == compiled.config.tmem_allocation == compiled.constant(freed)
    assert compiled.has(rf"tcgen05\.relinquish_alloc_permit\.cta_group::{group}\b")


def test_the_tensor_cores_multiply_block_scaled_nvfp4(compiled: Compiled) -> None:
    group = compiled.config.cta_group
    mmas = re.findall(r"tcgen05\.mma\.(cta_group::\d\.kind::\w+\.\w+\.\w+)", compiled.ptx)
    assert mmas == [f"cta_group::{group}.kind::mxf4nvf4.block_scale.block16"] * 4
    copies = re.findall(r"tcgen05\.cp\.(\S+)", compiled.ptx)
    atoms = (compiled.config.rows + compiled.config.scale_columns) // 128
    assert copies == [f"cta_group::{group}.32x128b.warpx4"] * (4 * atoms)


def test_a_block_has_the_asked_warps(compiled: Compiled) -> None:
    assert compiled.has(rf"\.reqntid {compiled.config.threads}, 1, 1\b")


def test_loads_are_multicast_exactly_where_asked(compiled: Compiled) -> None:
    c = compiled.config
    loads = re.findall(r"cp\.async\.bulk\.tensor\.\S+", compiled.ptx)
    experts = c.cluster_m // c.cta_group
    rows, columns = (experts, c.a_multicast) if c.swap_operands else (c.a_multicast, experts)
    column_scales = c.a_multicast if c.swap_operands else c.cluster_m
    shared = [ctas > 1 for ctas in (rows, columns, rows, column_scales)]
    assert ["multicast::cluster" in load for load in loads] == shared


def test_ctas_meet_and_read_each_other_exactly_where_a_split_asks(compiled: Compiled) -> None:
    c = compiled.config
    fused = not isinstance(c, TwoKernelConfig)
    assert compiled.has(r"barrier\.cluster\.arrive") == (c.cluster_size > 1)
    assert compiled.has(r"ld\.shared::cluster") == (c.group_size > 1)
    assert compiled.has(r"atom\.\S*add") == (fused and c.grid_split > 1)


def test_early_release_comes_before_the_scores_and_late_release_behind_them(compiled: Compiled) -> None:
    c = compiled.config
    if c.stages_accumulators or isinstance(c, TwoKernelConfig):
        return
    _, after_load = compiled.ptx.split("tcgen05.wait::ld", 1)
    release, score = after_load.index("mbarrier.arrive"), after_load.index("ex2.approx")
    assert (release < score) == c.early_release


def test_tensor_memory_changes_hands_between_fences(compiled: Compiled) -> None:
    before_load, after_load = compiled.ptx.split("tcgen05.ld.", 1)
    epilogue = before_load.rsplit("tcgen05.alloc", 1)[1]
    since_wait = epilogue.split("mbarrier.try_wait")[1]
    assert "tcgen05.fence::after_thread_sync" in since_wait
    read, since_read = after_load.split("tcgen05.wait::ld", 1)
    assert "mbarrier.arrive" not in read
    assert "tcgen05.fence::before_thread_sync" in since_read[: since_read.index("mbarrier.arrive")]


def test_the_other_target_compiles_too(tmp_path: Path) -> None:
    with CompilePool(ArtifactCache(tmp_path), workers=1) as pool:
        result = pool.submit(FUSED, SMALL, config(), "sm_103a").result()
    assert result.artifact is not None, result.reason
    assert ".target sm_103a" in (result.artifact.folder / PTX).read_text()

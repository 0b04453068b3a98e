"""The compile pool: whatever the compiler does costs one candidate, and nothing is compiled twice."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.artifact import LAUNCHER
from harness.cache import ArtifactCache, artifact_key
from harness.compile import CUBIN, PTX, compile_cached
from harness.compile_pool import CompilePool, CompileResult
from harness.record import Outcome, Resources
from harness.resources import read_resources, with_dynamic_smem, with_tensor_memory
from harness.toolchain import ToolchainError, compiler_versions
from kernels.problem import RouterProblem
from tests.harness.tiny_family import LOCAL_FLOATS, PROBLEM, TARGET, TinyConfig, TinyFamily

pytestmark = pytest.mark.compiles
FAMILY = TinyFamily()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompilePool]:
    cache = ArtifactCache(tmp_path_factory.mktemp("cache"))
    with CompilePool(cache, workers=1, timeout_s=8.0) as pool:
        yield pool


def compiled(pool: CompilePool, config: TinyConfig) -> CompileResult:
    return pool.submit(FAMILY, PROBLEM, config, TARGET).result()


def test_an_artifact_is_complete_and_found_again(pool: CompilePool) -> None:
    first = compiled(pool, TinyConfig())
    assert (first.outcome, first.reason, first.from_cache) == (Outcome.COMPILED, "", False)
    assert first.artifact is not None
    manifest = first.artifact.manifest
    assert set(manifest.digests) == {LAUNCHER, CUBIN, PTX}
    assert manifest.config == {"offset": 0, "fault": "none"}
    assert f".target {TARGET}" in (first.artifact.folder / PTX).read_text()

    again = compiled(pool, TinyConfig())
    assert again.from_cache
    assert again.artifact == first.artifact
    assert again.seconds == first.seconds


def test_resources_come_from_the_cubin(pool: CompilePool) -> None:
    artifact = compiled(pool, TinyConfig()).artifact
    assert artifact is not None
    (kernel,) = artifact.manifest.resources
    assert "kernel" in kernel.kernel
    # The hardware gives a thread at most 255 registers; reading anything needs a few.
    assert 4 < kernel.registers <= 255
    assert (kernel.local_bytes, kernel.static_smem_bytes) == (0, 0)


def test_local_memory_is_noticed(pool: CompilePool) -> None:
    artifact = compiled(pool, TinyConfig(fault="local")).artifact
    assert artifact is not None
    (kernel,) = artifact.manifest.resources
    assert kernel.local_bytes >= 4 * LOCAL_FLOATS


@pytest.mark.parametrize(
    ("fault", "outcome", "reason"),
    [
        ("error", Outcome.COMPILE_ERROR, "ValueError: tile does not fit"),
        ("crash", Outcome.COMPILE_ERROR, "the compiler crashed: SIGSEGV"),
        ("hang", Outcome.TIMEOUT, "the compiler did not finish within 8 s"),
    ],
)
def test_a_failing_compile_costs_one_candidate(
    pool: CompilePool, fault: str, outcome: Outcome, reason: str
) -> None:
    bad = pool.submit(FAMILY, PROBLEM, TinyConfig(fault=fault), TARGET)
    good = pool.submit(FAMILY, PROBLEM, TinyConfig(offset=len(fault)), TARGET)
    assert (bad.result().outcome, bad.result().reason) == (outcome, reason)
    assert bad.result().artifact is None
    assert good.result().outcome is Outcome.COMPILED
    again = compiled(pool, TinyConfig(fault=fault))
    assert again.from_cache
    assert (again.outcome, again.reason) == (outcome, reason)


def test_ctrl_c_is_for_the_parent_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It reaches every process of a terminal: also a worker that is still starting Python."""
    with CompilePool(ArtifactCache(tmp_path), workers=1) as pool:
        compiling = pool.submit(FAMILY, PROBLEM, TinyConfig(), TARGET)
        while not compiling.done():
            for task in Path("/proc/self/task").iterdir():
                for child in (task / "children").read_text().split():
                    os.kill(int(child), signal.SIGINT)
            time.sleep(0.01)
        assert compiling.result().outcome is Outcome.COMPILED
    assert "KeyboardInterrupt" not in capfd.readouterr().err


def test_an_unknown_target_is_refused(pool: CompilePool) -> None:
    with pytest.raises(ToolchainError, match=r"unknown target 'sm_42': known are sm_90a"):
        pool.submit(FAMILY, PROBLEM, TinyConfig(), "sm_42")


def test_a_missing_linker_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ToolchainError, match=r"no linker .* install one"):
        CompilePool(ArtifactCache(tmp_path / "cache"))


def test_what_is_not_a_cubin_is_refused() -> None:
    with pytest.raises(ValueError, match="not a readable cubin"):
        read_resources(b"PTX")
    with pytest.raises(ValueError, match="not a cubin"):
        read_resources(Path("/proc/self/exe").read_bytes())


def test_a_process_of_another_target_is_not_the_configs_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is remembered: it had made a config uncompilable for whoever used the cache next."""
    monkeypatch.setitem(sys.modules, "cutlass", ModuleType("cutlass"))
    monkeypatch.setenv("CUTE_DSL_ARCH", "sm_100a")
    with pytest.raises(ToolchainError, match="this process compiles for sm_100a, not for sm_90a"):
        compile_cached(tmp_path, FAMILY, PROBLEM, TinyConfig(), TARGET)
    key = artifact_key(FAMILY, PROBLEM, TinyConfig(), TARGET, compiler_versions())
    assert ArtifactCache(tmp_path).lookup(key) is None


class BrokenDsl(TinyFamily):
    """Stands for a DSL that cannot be imported on this machine."""

    def compile(self, problem: RouterProblem, config: TinyConfig, target: str) -> Any:
        raise ImportError("libcuda_dialect.so: cannot open shared object file")


def test_what_the_machine_lacks_is_no_candidates_failure(pool: CompilePool) -> None:
    config = TinyConfig(offset=100)
    for _ in range(2):  # the second time it is not known
        with pytest.raises(ToolchainError, match=r"^this machine cannot compile: ImportError: libcuda_dial"):
            pool.submit(BrokenDsl(), PROBLEM, config, TARGET).result()
    assert pool.cache.lookup(artifact_key(BrokenDsl(), PROBLEM, config, TARGET, compiler_versions())) is None


def test_a_folder_that_goes_away_is_no_candidates_failure(tmp_path: Path) -> None:
    with CompilePool(ArtifactCache(tmp_path), workers=1) as pool:
        assert compiled(pool, TinyConfig()).outcome is Outcome.COMPILED
        shutil.rmtree(pool._dumps.name)  # as somebody does who tidies up /tmp
        with pytest.raises(ToolchainError, match="No such file or directory"):
            compiled(pool, TinyConfig(offset=1))


def test_dynamic_shared_memory_goes_to_the_kernel_whose_launch_asks_for_it() -> None:
    config = "!llvm.struct<(array<3 x i32>, array<3 x i32>, i64, ptr, ptr, i32)>"

    def launch(number: int, value: int, kernel: str) -> str:
        return (
            f"%{number}1 = llvm.mlir.constant({value} : i64) : i64\n"
            f"%{number}2 = llvm.getelementptr %9[0, 2] : (!llvm.ptr) -> !llvm.ptr, {config}\n"
            f"    llvm.store %{number}1, %{number}2 : i64, !llvm.ptr\n"
            f"%{number}3 = llvm.mlir.addressof @kernels_{kernel} : !llvm.ptr\n"
        )

    kernels = (Resources("gate", 40, 0, 1024), Resources("gemm", 240, 0, 1024))
    found = with_dynamic_smem(kernels, launch(1, 173056, "gemm") + launch(2, 0, "gate"))
    assert [(kernel.kernel, kernel.dynamic_smem_bytes) for kernel in found] == [("gate", 0), ("gemm", 173056)]


def test_tensor_memory_goes_to_the_kernel_that_allocates_it() -> None:
    ptx = (
        ".visible .entry gate()\n{ ret; }\n.visible .entry gemm()\n{\nmov.b32 \t%r7, 256;\n"
        "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 \t[%r1], %r7;\n}"
    )
    kernels = (Resources("gate", 40, 0, 0), Resources("gemm", 80, 0, 0))
    found = with_tensor_memory(kernels, ptx)
    assert [(kernel.kernel, kernel.tmem_columns) for kernel in found] == [("gate", 0), ("gemm", 256)]
    with pytest.raises(ValueError, match="%r7 of a tensor-memory allocation is not a constant"):
        with_tensor_memory(kernels, ptx.replace("mov.b32", "add.u32"))

"""Candidates that go wrong on a real GPU: the fused Hopper router with a fault behind it.

    python -m tests.harness.faulty_family pack PACK            compile and pack good and bad candidates
    python -m tests.harness.faulty_family measure PACK OUT     on the GPU host: measure them, one record each

Each bad candidate must end with its own outcome and the good ones among them with `ok`.
"""

from __future__ import annotations

import runpy
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifact import Artifact
from harness.cuda_runner import CudaRunner
from harness.executor import MeasurePlan
from harness.executors import ONE_THREAD
from harness.launcher import load_launcher
from harness.process_executor import ProcessExecutor
from harness.record import Source
from harness.runner import Candidate
from harness.simulator.runner import Sm90aRunner
from kernels.family import KernelFamily, ParamValue
from kernels.problem import PRESETS, RouterProblem
from kernels.sm90.families import FusedSm90

PROBLEM = PRESETS["deepseek-v4-pro"]
TARGET = "sm_90a"
FAULTS = ("none", "out_of_bounds", "wrong_id", "endless", "segfault", "out_of_memory")
# A good candidate stands behind every bad one: it finds out what the bad one left behind.
SWEPT = tuple(swept for fault in FAULTS[1:] for swept in (fault, "none"))
TOO_MANY_ELEMENTS = 1 << 40  # 4 TiB


@dataclass(frozen=True)
class FaultyConfig:
    fault: str = "none"
    copy: int = 0  # candidates of one fault, told apart


class FaultyFamily(KernelFamily):
    name = "faulty_sm90"
    targets = (TARGET,)
    config_type = FaultyConfig

    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        return {"fault": FAULTS, "copy": tuple(range(len(SWEPT)))}

    def illegal_reason(self, problem: RouterProblem, config: FaultyConfig, target: str) -> str | None:
        return None

    def default_config(self, problem: RouterProblem, m: int) -> FaultyConfig:
        return FaultyConfig()

    def compile(self, problem: RouterProblem, config: FaultyConfig, target: str) -> Any:
        from tests.harness.faulty_kernel import compile_faulty

        return compile_faulty(problem, FusedSm90().default_config(problem, 64), config.fault)

    def workspace_elements(self, problem: RouterProblem, config: FaultyConfig, m: int) -> int:
        if config.fault == "out_of_memory":
            return TOO_MANY_ELEMENTS
        return FusedSm90().workspace_elements(problem, FusedSm90().default_config(problem, 64), m)

    def source_files(self) -> tuple[Path, ...]:
        here = Path(__file__)
        return (here, here.with_name("faulty_kernel.py"), *FusedSm90().source_files())


class FaultyCudaRunner(CudaRunner):
    """Knows the faulty family, which is not one of `kernels.families`."""

    def load(self, artifact: Artifact) -> Candidate:
        return Candidate.of_manifest(artifact.manifest, load_launcher(artifact), FaultyFamily())


def faulty_executor() -> ProcessExecutor:
    """A CUDA executor for the faulty family."""
    runner = "tests.harness.faulty_family:FaultyCudaRunner"
    return ProcessExecutor(runner, name="cuda", source=Source.MEASURED)


class FaultySimulatorRunner(Sm90aRunner):
    """The same without a GPU."""

    def kernels_of(self, artifact: Artifact) -> KernelFamily:
        return FaultyFamily()


def faulty_simulator() -> ProcessExecutor:
    """A simulator for the faulty family."""
    runner = "tests.harness.faulty_family:FaultySimulatorRunner"
    return ProcessExecutor(runner, name="simulator", source=Source.MODELLED, environment=ONE_THREAD)


def compile_all(cache: Path, configs: list[FaultyConfig], problem: RouterProblem = PROBLEM) -> list[Artifact]:
    """Their artifacts, in order; raises `RuntimeError` when one does not compile."""
    from harness.cache import ArtifactCache
    from harness.compile_pool import CompilePool

    with CompilePool(ArtifactCache(cache)) as pool:
        futures = [pool.submit(FaultyFamily(), problem, config, TARGET) for config in configs]
        results = [future.result() for future in futures]
    if failed := [result.reason for result in results if result.artifact is None]:
        raise RuntimeError(failed[0])
    return [result.artifact for result in results if result.artifact is not None]


def pack(out: Path) -> None:
    from harness.pack import write_pack

    with tempfile.TemporaryDirectory() as cache:
        configs = [FaultyConfig(fault, copy) for copy, fault in enumerate(SWEPT)]
        artifacts = compile_all(Path(cache), configs)
        print(write_pack(out, artifacts, MeasurePlan(m_values=(1, 64, 1024), timeout_s=20.0)))


@contextmanager
def unpacked(folder: Path) -> Iterator[None]:
    """The pack's wheels and runtime library, for a host that has neither."""
    with tempfile.TemporaryDirectory() as site:
        runpy.run_path(str(folder / "measure.py"))["unpack"](Path(site))
        yield


def measure(folder: Path, out: Path) -> None:
    from harness.pack_measure import measure_pack

    def report(record: Any, done: int, total: int) -> None:
        fault, outcome = record.config["fault"], record.outcome.value
        print(f"[{done}/{total}] {fault:14} {outcome:13} {record.reason}", flush=True)

    measure_pack(folder, out, lambda target: faulty_executor(), report=report)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pack", out]:
            pack(Path(out))
        case ["measure", folder, out]:
            measure(Path(folder), Path(out))
        case _:
            sys.exit(__doc__)

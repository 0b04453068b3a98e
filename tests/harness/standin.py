"""A stand-in for a device, for CI: the router's reference behind the launch signature, on the CPU.

Its family has one parameter that means something, `tile` (it sets the modelled time), and one, `fault`, that
says how a candidate goes wrong. `StandinPool` "compiles" such candidates at once, `standin_executor` runs
them in a real worker process. Times are modelled, and say so.
"""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import torch

from harness.artifact import LAUNCHER, Artifact, ArtifactManifest
from harness.cache import ArtifactCache, artifact_key
from harness.compile_result import CompileResult
from harness.executor import MeasurePlan
from harness.executors import ONE_THREAD
from harness.process_executor import ProcessExecutor
from harness.record import Conditions, DeviceFacts, Measurement, Rates, Source
from harness.runner import Candidate, Launch, Runner
from harness.timing import bytes_moved, floor_us, flops, summarize
from kernels.family import KernelFamily, ParamValue
from kernels.problem import RouterProblem
from kernels.reference import route

PROBLEM = RouterProblem("standin", hidden=64, experts=16, top_k=2)
TARGET = "sm_90a"
FAULTS = (
    "none",
    "out_of_bounds",
    "wrong_id",
    "endless",
    "segfault",
    "out_of_memory",
    "error",
    "segfault_while_timed",
    "unsteady",
)
RATES = Rates(copy_bytes_per_s=2.5e12, matrix_flop_per_s=8e14, empty_launch_us=1.0)


@dataclass(frozen=True)
class StandinConfig:
    tile: int = 32
    fault: str = "none"


class StandinFamily(KernelFamily):
    name = "standin"
    targets = (TARGET,)
    config_type = StandinConfig

    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        return {"tile": (16, 32, 64), "fault": FAULTS}

    def illegal_reason(self, problem: RouterProblem, config: StandinConfig, target: str) -> str | None:
        return None

    def default_config(self, problem: RouterProblem, m: int) -> StandinConfig:
        return StandinConfig()

    def compile(self, problem: RouterProblem, config: StandinConfig, target: str) -> Any:
        raise NotImplementedError("StandinPool compiles stand-ins")

    def workspace_elements(self, problem: RouterProblem, config: StandinConfig, m: int) -> int:
        return 1

    def source_files(self) -> tuple[Path, ...]:
        return (Path(__file__),)


TOOLCHAIN = {"stand-in-compiler": "1.0"}


class StandinPool:
    """`harness.compile_pool.CompilePool` for stand-ins: artifacts appear at once, in a real cache."""

    workers = 1

    def __init__(self, root: Path) -> None:
        self.cache = ArtifactCache(root)

    def submit(
        self, family: KernelFamily, problem: RouterProblem, config: Any, target: str
    ) -> Future[CompileResult]:
        key = artifact_key(family, problem, config, target, {})
        found = self.cache.lookup(key)
        artifact = found if isinstance(found, Artifact) else self._publish(key, family, problem, config)
        result: Future[CompileResult] = Future()
        result.set_result(CompileResult.of_artifact(artifact, from_cache=found is not None))
        return result

    def artifact(self, config: StandinConfig, problem: RouterProblem = PROBLEM) -> Artifact:
        artifact = self.submit(StandinFamily(), problem, config, TARGET).result().artifact
        assert artifact is not None
        return artifact

    def _publish(self, key: str, family: KernelFamily, problem: RouterProblem, config: Any) -> Artifact:
        with self.cache.scratch(key) as folder:
            (folder / LAUNCHER).write_bytes(b"stand-in")
            manifest = ArtifactManifest(
                key=key,
                family=family.name,
                problem=asdict(problem),
                config=asdict(config),
                target=TARGET,
                toolchain=TOOLCHAIN,
                digests={LAUNCHER: sha256(b"stand-in").hexdigest()},
            )
            return self.cache.publish(manifest, folder)


def _router(problem: RouterProblem, fault: str) -> Launch:
    """The reference as a launch function that commits `fault`."""

    def launch(
        a: torch.Tensor,
        b: torch.Tensor,
        bias: torch.Tensor,
        alpha: torch.Tensor,
        workspace: torch.Tensor,
        weights: torch.Tensor,
        ids: torch.Tensor,
    ) -> None:
        match fault:
            case "endless":
                threading.Event().wait()
            case "segfault":
                ctypes.string_at(0)
            case "out_of_memory":
                bytearray(1 << 60)
            case "error":
                raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors")
        logits = alpha.double() * (a.double() @ b.double().T)
        routed_weights, routed_ids = route(logits, problem, bias if problem.bias else None)
        weights.copy_(routed_weights)
        ids.copy_(routed_ids)
        if fault == "wrong_id":
            # The last row's last place goes to the expert that deserves it least.
            ids[-1, -1] = route(-logits, problem, -bias if problem.bias else None)[1][-1, 0]
        if fault == "out_of_bounds":
            behind = weights.storage_offset() + weights.numel()
            torch.as_strided(weights, (1,), (1,), behind).fill_(1.0)

    return launch


class StandinRunner(Runner):
    """Runs the reference for whatever it loads; faults are those of `StandinConfig`."""

    torch_device = "cpu"

    def device(self) -> DeviceFacts:
        return DeviceFacts(name="stand-in")

    def rates(self) -> Rates:
        return RATES

    def load(self, artifact: Artifact) -> Candidate:
        manifest = artifact.manifest
        problem = msgspec.convert(manifest.problem, RouterProblem)
        self._fault = str(manifest.config.get("fault", "none"))
        self._tile = int(manifest.config.get("tile", 32))
        return Candidate(_router(problem, self._fault), problem, lambda m: 1)

    def measure(self, candidate: Candidate, m: int, plan: MeasurePlan, rates: Rates) -> Measurement:
        if self._fault == "segfault_while_timed" and m == plan.m_values[-1]:
            ctypes.string_at(0)
        cold_us = (1.0 + abs(self._tile - 32) / 32) * (5.0 + m / 100)
        return Measurement(
            m=m,
            cold=summarize([cold_us] * plan.samples),
            warm=summarize([0.9 * cold_us] * plan.samples),
            floor_us=floor_us(candidate.problem, m, rates),
            bytes_moved=bytes_moved(candidate.problem, m),
            flops=flops(candidate.problem, m),
            conditions=Conditions(),
            repeats=plan.max_repeats if self._fault == "unsteady" else 0,
            steady=self._fault != "unsteady",
            quantized=plan.quantize,
        )


def standin_executor() -> ProcessExecutor:
    """An executor whose worker process runs stand-ins."""
    return ProcessExecutor(
        "tests.harness.standin:StandinRunner",
        name="standin",
        source=Source.MODELLED,
        environment=ONE_THREAD,
    )

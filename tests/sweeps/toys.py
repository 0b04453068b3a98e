"""A toy family, pool and executor: a whole sweep in milliseconds, with every way to fail at will."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.artifact import Artifact, ArtifactManifest
from harness.compile_result import CompileResult
from harness.executor import Evaluation, Executor, MeasurePlan
from harness.record import (
    DeviceFacts,
    Measurement,
    Outcome,
    ParamValue,
    Rates,
    Resources,
    Source,
    Timing,
    TrialRecord,
)
from kernels.family import KernelFamily, Rule
from kernels.problem import RouterProblem
from sweeps.space import config_id, config_params

PROBLEM = RouterProblem("toy", hidden=64, experts=16, top_k=2)
TARGET = "sm_90a"
M_VALUES = (1, 64)

CHOICES: dict[str, tuple[ParamValue, ...]] = {
    "tile": (8, 16, 32, 64),
    "stages": (1, 2, 3, 4),
    "mode": ("plain", "split"),
    "early": (False, True),
}


@dataclass(frozen=True)
class ToyConfig:
    tile: int = 16
    stages: int = 2
    mode: str = "plain"
    early: bool = False


class ToyFamily(KernelFamily):
    """64 combinations, of which those with tile * stages <= 64 and no early plain are legal."""

    name = "toy"
    targets = (TARGET,)
    config_type = ToyConfig

    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        return dict(CHOICES)

    def illegal_reason(self, problem: RouterProblem, config: ToyConfig, target: str) -> str | None:
        if config.tile * config.stages > 64:
            return f"{config.tile * config.stages} rows: at most 64"
        if config.early and config.mode == "plain":
            return "early needs mode = split"
        return None

    def default_config(self, problem: RouterProblem, m: int) -> ToyConfig:
        return ToyConfig(tile=8 if m < 16 else 16)

    def compile(self, problem: RouterProblem, config: ToyConfig, target: str) -> Any:
        raise NotImplementedError("toys are compiled by a toy pool")

    def workspace_elements(self, problem: RouterProblem, config: ToyConfig, m: int) -> int:
        return 1

    def source_files(self) -> tuple[Path, ...]:
        return (Path(__file__),)


class ToyBaseline(ToyFamily):
    name = "toy_baseline"


class RuledToyFamily(ToyFamily):
    """The same with its constraints as rules, too."""

    def rules(self) -> tuple[Rule, ...]:
        return (
            Rule(("tile", "stages"), lambda problem, c: "rows" if c.tile * c.stages > 64 else None),
            Rule(("mode", "early"), lambda problem, c: "early" if c.early and c.mode == "plain" else None),
        )


def toy_time_us(params: Mapping[str, ParamValue], m: int) -> float:
    """Smooth in the parameters, with its best inside the legal space: tile 32, stages 2, split, early."""
    tile, stages = int(params["tile"]), int(params["stages"])
    slow = 1 + abs(tile - 32) / 16 + abs(stages - 2) / 2 + (params["mode"] == "plain") + (not params["early"])
    return slow * (2 + m / 64)


def measurement(m: int, cold_us: float) -> Measurement:
    cold = Timing((cold_us,), cold_us, 0.0)
    warm = Timing((0.9 * cold_us,), 0.9 * cold_us, 0.0)
    return Measurement(m=m, cold=cold, warm=warm, floor_us=1.0, bytes_moved=1, flops=1)


def toy_record(
    params: Mapping[str, ParamValue], outcome: Outcome = Outcome.OK, role: str = "candidate", **changes: Any
) -> TrialRecord:
    timed = outcome in (Outcome.OK, Outcome.UNSTABLE)
    fields: dict[str, Any] = {
        "family": "toy",
        "problem": msgspec.to_builtins(PROBLEM),
        "target": TARGET,
        "config": dict(params),
        "outcome": outcome,
        "source": Source.MEASURED,
        "role": role,
        "measurements": tuple(measurement(m, toy_time_us(params, m)) for m in M_VALUES) if timed else (),
    }
    return TrialRecord(**(fields | changes))


def toy_artifact(params: Mapping[str, ParamValue]) -> Artifact:
    key = config_id(params)
    manifest = ArtifactManifest(
        key=key,
        family="toy",
        problem={},
        config=dict(params),
        target=TARGET,
        toolchain={},
        digests={},
        resources=(Resources("toy", registers=32, local_bytes=0, static_smem_bytes=0),),
    )
    return Artifact(Path(key), manifest)


class ToyPool:
    """Compiles in no time, in this thread; the configs of `failing` (by `config_id`) do not compile."""

    def __init__(self, failing: Mapping[str, Outcome] | None = None, workers: int = 2) -> None:
        self.workers = workers
        self.failing = failing or {}
        self.submitted: list[dict[str, ParamValue]] = []

    def submit(
        self, family: KernelFamily, problem: RouterProblem, config: Any, target: str
    ) -> Future[CompileResult]:
        params = config_params(config)
        assert family.illegal_reason(problem, config, target) is None, params
        self.submitted.append(params)
        key = config_id(params)
        future: Future[CompileResult] = Future()
        if key in self.failing:
            future.set_result(CompileResult(key, None, self.failing[key], "the toy compiler refuses"))
        else:
            future.set_result(CompileResult(key, toy_artifact(params), Outcome.COMPILED))
        return future


class ToyExecutor(Executor):
    """Measures in no time; the configs of `failing` (by `config_id`) end with that outcome.

    `before` is called with the parameters at the start of each evaluation: tests block or stop there.
    """

    name = "toy"
    source = Source.MEASURED

    def __init__(
        self,
        failing: Mapping[str, Outcome] | None = None,
        before: Callable[[dict[str, ParamValue]], None] = lambda params: None,
    ) -> None:
        self.failing = failing or {}
        self.before = before
        self.evaluated: list[dict[str, ParamValue]] = []
        self.plans: list[MeasurePlan] = []

    def device(self) -> DeviceFacts:
        return DeviceFacts("Toy")

    def rates(self) -> Rates:
        return Rates(1e12, 1e15)

    def evaluate(self, artifact: Artifact, plan: MeasurePlan) -> Evaluation:
        params = dict(artifact.manifest.config)
        self.evaluated.append(params)
        self.plans.append(plan)
        self.before(params)
        outcome = self.failing.get(config_id(params), Outcome.OK)
        if outcome not in (Outcome.OK, Outcome.UNSTABLE):
            return Evaluation(outcome, f"the toy device says {outcome}")
        return Evaluation(
            outcome, measurements=tuple(measurement(m, toy_time_us(params, m)) for m in plan.m_values)
        )

    def close(self) -> None:
        pass

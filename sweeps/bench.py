"""The tuner's own overhead per trial: a whole sweep whose compiles and measurements take no time.

Everything else is real: the default sweep's space, TPE with its proposals snapped, one record per trial with
as many samples as a real one, and the SQLite store.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.artifact import Artifact, ArtifactManifest
from harness.compile_result import CompileResult
from harness.executor import Evaluation, Executor, MeasurePlan
from harness.provenance import provenance
from harness.record import DeviceFacts, Measurement, Outcome, Rates, Source, Timing
from harness.trial import RunFacts
from kernels.family import KernelFamily
from kernels.problem import RouterProblem
from sweeps import store
from sweeps.driver import Driver
from sweeps.job import Workshop
from sweeps.objective import lesson
from sweeps.places import Place
from sweeps.run import study_info
from sweeps.sampler import make_sampler
from sweeps.space import Space, config_id, config_params
from sweeps.spec import DEFAULT_SPEC, load_spec
from sweeps.stop import StopRequest


class InstantPool:
    """Every config compiles at once, to nothing."""

    workers = 8

    def submit(
        self, family: KernelFamily, problem: RouterProblem, config: Any, target: str
    ) -> Future[CompileResult]:
        params = config_params(config)
        key = config_id(params)
        manifest = ArtifactManifest(key, family.name, {}, params, target, {}, {})
        future: Future[CompileResult] = Future()
        future.set_result(CompileResult(key, Artifact(Path(key), manifest), Outcome.COMPILED))
        return future


class InstantExecutor(Executor):
    """Every config is measured at once, with made-up times: nothing of them leaves this module."""

    name = "instant"
    source = Source.MODELLED

    def device(self) -> DeviceFacts:
        return DeviceFacts("none")

    def rates(self) -> Rates:
        return Rates(1.0, 1.0)

    def evaluate(self, artifact: Artifact, plan: MeasurePlan) -> Evaluation:
        us = 1.0 + int(artifact.key, 16) % 1000 / 100  # any order of the configs will do
        timing = Timing((us,) * plan.samples, us, 0.0)
        measured = tuple(Measurement(m, timing, timing, 1.0, 1, 1) for m in plan.m_values)
        return Evaluation(Outcome.OK, measurements=measured)

    def close(self) -> None:
        pass


def overhead_ms(trials: int) -> float:
    """Milliseconds of the main thread per trial, over `trials` trials."""
    spec = load_spec(DEFAULT_SPEC, {"search.trials": trials, "confirm.rounds": 0})
    from kernels.families import family

    space = Space(family(spec.family), spec.problem, spec.target, spec.parameters)
    sampler = make_sampler(
        space,
        "tpe",
        seed=0,
        exhaustive_limit=0,
        lessons=len(spec.objective_m_values),
        lesson=lesson(spec.objective.metric, spec.objective_m_values),
    )
    with tempfile.TemporaryDirectory() as folder, InstantExecutor() as executor:
        place = Place(str(Path(folder) / "bench.db"), "bench")
        study = store.open_study(
            store.open_storage(place.storage, create=True),
            study_info(spec, place, executor.name, executor.source, space, created="", command=""),
            sampler,
            space.distributions(),
        )
        facts = RunFacts.of(executor, replace(provenance(), commit=""))
        workshop = Workshop(
            spec.problem, spec.target, InstantPool(), executor, MeasurePlan(spec.m_values), facts
        )
        driver = Driver(spec, space, study, sampler, workshop, baselines=[], stop=StopRequest())
        driver.run()
        return driver.overhead_ms

"""A whole sweep of the toy space in a SQLite file of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
from optuna.trial import TrialState

from harness.executor import Executor, MeasurePlan
from harness.record import ParamValue, Provenance, TrialRecord
from harness.trial import RunFacts
from sweeps import store
from sweeps.driver import Driver, Ending
from sweeps.job import Workshop
from sweeps.objective import lesson
from sweeps.sampler import make_sampler
from sweeps.space import Space
from sweeps.spec import BaselineSpec, ConfirmSpec, SearchSpec, SweepSpec
from sweeps.stop import StopRequest
from tests.sweeps.toys import M_VALUES, PROBLEM, TARGET, ToyBaseline, ToyFamily, ToyPool

SPEC = SweepSpec(
    problem=PROBLEM,
    family="toy",
    m_values=M_VALUES,
    search=SearchSpec(sampler="tpe", trials=None),
    baseline=BaselineSpec(family="toy_baseline"),
    confirm=ConfirmSpec(finalists=1, rounds=2),
)
SPACE = Space(ToyFamily(), PROBLEM, TARGET)
BASELINE: dict[str, ParamValue] = {"tile": 8, "stages": 1, "mode": "plain", "early": False}
ALL = [SPACE.params(index) for index in range(len(SPACE))]


class Sweep:
    """A sweep of the toy space in a SQLite file of its own."""

    def __init__(
        self,
        path: Path,
        *,
        pool: ToyPool | None = None,
        executor: Executor | None = None,
        spec: SweepSpec = SPEC,
        stop: StopRequest | None = None,
        baselines: Sequence[dict[str, ParamValue]] = (BASELINE,),
    ) -> None:
        self.pool = pool or ToyPool()
        info = store.StudyInfo(
            "toy", "toy", msgspec.to_builtins(PROBLEM), TARGET, "toy", "measured", M_VALUES, "cold", M_VALUES
        )
        sampler = make_sampler(
            SPACE,
            spec.search.sampler,
            seed=spec.search.seed,
            exhaustive_limit=10,
            lessons=len(spec.objective_m_values),
            lesson=lesson(spec.objective.metric, spec.objective_m_values),
        )
        self.study = store.open_study(
            store.open_storage(str(path), create=True), info, sampler, SPACE.distributions()
        )
        facts = RunFacts.of(executor, Provenance("2026-01-01", "abc"))
        plan = MeasurePlan(m_values=M_VALUES)
        self.driver = Driver(
            spec,
            SPACE,
            self.study,
            sampler,
            Workshop(PROBLEM, TARGET, self.pool, executor, plan, facts),
            baselines=[(ToyBaseline(), params) for params in baselines],
            stop=stop or StopRequest(),
        )

    def run(self) -> Ending:
        return self.driver.run()

    def records(self, role: str = "candidate") -> list[TrialRecord]:
        return [record for record in store.records(self.study) if record.role == role]

    def states(self) -> Counter[TrialState]:
        return Counter(trial.state for trial in self.study.get_trials() if trial.params)

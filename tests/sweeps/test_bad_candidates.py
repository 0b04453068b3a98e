"""Bad candidates are swept along with good ones: each ends with its own outcome and the sweep finishes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from harness.executor import Executor, MeasurePlan
from harness.provenance import provenance
from harness.record import Outcome
from harness.trial import RunFacts
from sweeps import store
from sweeps.driver import Driver, Ending
from sweeps.job import Workshop
from sweeps.objective import PENALTY
from sweeps.sampler import make_sampler
from sweeps.space import Space
from sweeps.spec import ConfirmSpec, SearchSpec, SweepSpec
from sweeps.stop import StopRequest
from tests.harness.standin import PROBLEM, TARGET, StandinFamily, StandinPool, standin_executor

BAD = {
    "out_of_bounds": Outcome.WRONG_RESULT,
    "endless": Outcome.TIMEOUT,
    "segfault": Outcome.CRASHED,
    "wrong_id": Outcome.WRONG_RESULT,
}
M_VALUES = (1, 16)


@pytest.fixture
def executor() -> Iterator[Executor]:
    with standin_executor() as opened:
        yield opened


def test_bad_candidates_are_swept_along_with_good_ones(tmp_path: Path, executor: Executor) -> None:
    restrictions = {"fault": ("none", *BAD), "tile": (32, 64)}
    space = Space(StandinFamily(), PROBLEM, TARGET, restrictions)
    spec = SweepSpec(
        problem=PROBLEM,
        family="standin",
        m_values=M_VALUES,
        search=SearchSpec(sampler="exhaustive", trials=None),
        confirm=ConfirmSpec(finalists=1, rounds=1),
    )
    sampler = make_sampler(space, "exhaustive", seed=1, exhaustive_limit=100)
    info = store.StudyInfo(
        "standin",
        "standin",
        msgspec.to_builtins(PROBLEM),
        TARGET,
        executor.name,
        executor.source,
        M_VALUES,
        "cold",
        M_VALUES,
    )
    storage = store.open_storage(str(tmp_path / "standin.db"), create=True)
    study = store.open_study(storage, info, sampler, space.distributions())
    workshop = Workshop(
        PROBLEM,
        TARGET,
        StandinPool(tmp_path / "cache"),
        executor,
        MeasurePlan(M_VALUES, samples=3, timeout_s=5.0),
        RunFacts.of(executor, provenance()),
    )
    ending = Driver(spec, space, study, sampler, workshop, baselines=[], stop=StopRequest()).run()

    assert ending is Ending.EXHAUSTED
    candidates = [record for record in store.records(study) if record.role == "candidate"]
    wanted = {fault: BAD.get(fault, Outcome.OK) for fault in restrictions["fault"]}
    assert len(candidates) == 2 * len(wanted)
    for record in candidates:
        assert record.outcome is wanted[str(record.config["fault"])], record
        assert bool(record.measurements) == (record.outcome is Outcome.OK)
        assert bool(record.reason) == (record.outcome is not Outcome.OK)
    values = {trial.params["fault"]: trial.value for trial in study.get_trials() if trial.params}
    assert all(values[fault] == PENALTY for fault in BAD)
    assert values["none"] < PENALTY
    assert [record.config["fault"] for record in store.records(study) if record.role == "confirmation"] == [
        "none"
    ]

"""A sweep accounts for every config, learns from failures, and loses nothing when it is stopped."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import optuna
import pytest
from optuna.trial import TrialState

from harness.executor import Executor, ExecutorError, MeasurePlan
from harness.record import Outcome, ParamValue, Provenance, Source
from harness.trial import RunFacts
from sweeps import store
from sweeps.confirm import finalists
from sweeps.driver import Driver, Ending
from sweeps.job import Workshop
from sweeps.objective import PENALTY
from sweeps.sampler import make_sampler
from sweeps.space import Space, config_id
from sweeps.spec import BaselineSpec, ConfirmSpec, SearchSpec, SweepSpec
from sweeps.stop import StopRequest
from tests.sweeps.toys import (
    M_VALUES,
    PROBLEM,
    TARGET,
    ToyBaseline,
    ToyExecutor,
    ToyFamily,
    ToyPool,
    toy_record,
    toy_time_us,
)

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
    ) -> None:
        self.pool = pool or ToyPool()
        info = store.StudyInfo(
            "toy", "toy", msgspec.to_builtins(PROBLEM), TARGET, "toy", "measured", M_VALUES, "cold", M_VALUES
        )
        sampler = make_sampler(
            SPACE, spec.search.sampler, seed=spec.search.seed, exhaustive_limit=10, m_values=M_VALUES
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
            baseline=(ToyBaseline(), BASELINE),
            stop=stop or StopRequest(),
        )

    def run(self) -> Ending:
        return self.driver.run()

    def records(self, role: str = "candidate") -> list[Any]:
        return [record for record in store.records(self.study) if record.role == role]

    def states(self) -> Counter[TrialState]:
        return Counter(trial.state for trial in self.study.get_trials() if trial.params)


def search(**changes: Any) -> SweepSpec:
    return replace(SPEC, search=replace(SPEC.search, **changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "toy.db"


def test_a_whole_space_is_swept_once_and_every_outcome_accounted_for(path: Path) -> None:
    ways = [
        Outcome.OK,
        Outcome.WRONG_RESULT,
        Outcome.CRASHED,
        Outcome.TIMEOUT,
        Outcome.UNSTABLE,
        Outcome.COMPILE_ERROR,
    ]
    wanted = {config_id(params): ways[index % len(ways)] for index, params in enumerate(ALL)}
    pool = ToyPool({key: outcome for key, outcome in wanted.items() if outcome is Outcome.COMPILE_ERROR})
    sweep = Sweep(path, pool=pool, executor=ToyExecutor(wanted))
    assert sweep.run() is Ending.EXHAUSTED
    assert {config_id(record.config): record.outcome for record in sweep.records()} == wanted
    assert len(sweep.records()) == len(ALL)
    assert sweep.states() == {TrialState.COMPLETE: len(ALL)}


def test_told_values_and_penalties(path: Path) -> None:
    broken = config_id(ALL[3])
    sweep = Sweep(path, executor=ToyExecutor({broken: Outcome.CRASHED}), spec=search(sampler="random"))
    sweep.run()
    for trial in sweep.study.get_trials(states=(TrialState.COMPLETE,)):
        if config_id(trial.params) == broken:
            assert trial.value == PENALTY
        else:
            by_hand = (toy_time_us(trial.params, 1) * toy_time_us(trial.params, 64)) ** 0.5
            assert trial.value == pytest.approx(by_hand)
    assert sweep.study.best_trial.params == {"tile": 32, "stages": 2, "mode": "split", "early": True}


def test_the_trials_budget_holds_over_all_runs(path: Path) -> None:
    assert Sweep(path, executor=ToyExecutor(), spec=search(trials=7)).run() is Ending.TRIALS
    again = Sweep(path, executor=ToyExecutor(), spec=search(trials=7))
    again.run()
    assert len(again.records()) == 7
    assert len(again.pool.submitted) == len(finalists(again.records(), 1, "cold", M_VALUES)) + 1
    more = Sweep(path, executor=ToyExecutor(), spec=search(trials=9))
    more.run()
    assert len({config_id(record.config) for record in more.records()}) == 9


def test_the_time_budget_ends_the_search_and_releases_what_was_not_measured(path: Path) -> None:
    # The budget is over before the second trial: the first waits until it must be.
    executor = ToyExecutor(before=lambda params: time.sleep(0.3))
    sweep = Sweep(path, executor=executor, spec=search(minutes=0.2 / 60))
    assert sweep.run() is Ending.MINUTES
    assert 0 < len(sweep.records()) < len(ALL)
    assert sweep.states()[TrialState.RUNNING] == 0


def test_baseline_and_confirmations_are_recorded_beside_the_candidates(path: Path) -> None:
    executor = ToyExecutor()
    sweep = Sweep(path, executor=executor)
    sweep.run()
    assert [record.family for record in sweep.records("baseline")] == ["toy_baseline"]
    confirmed = sweep.records("confirmation")
    winners = finalists(sweep.records(), 1, "cold", M_VALUES)
    entrants = {("toy", config_id(params)) for params in winners} | {("toy_baseline", config_id(BASELINE))}
    assert Counter((record.family, config_id(record.config)) for record in confirmed) == dict.fromkeys(
        entrants, 2
    )
    # Interleaved: each round measures every entrant before the next round begins.
    first_round = confirmed[: len(entrants)]
    assert {(record.family, config_id(record.config)) for record in first_round} == entrants
    assert len({plan.seed for plan in executor.plans[:-4]}) == len(ALL)


def test_confirmations_are_not_repeated(path: Path) -> None:
    Sweep(path, executor=ToyExecutor()).run()
    again = Sweep(path, executor=(executor := ToyExecutor()))
    again.run()
    assert executor.evaluated == []


def test_without_an_executor_everything_is_compiled_and_nothing_told(path: Path) -> None:
    refused = config_id(ALL[0])
    sweep = Sweep(path, pool=ToyPool({refused: Outcome.COMPILE_ERROR}))
    assert sweep.run() is Ending.EXHAUSTED
    outcomes = Counter(record.outcome for record in sweep.records())
    assert outcomes == {Outcome.COMPILED: len(ALL) - 1, Outcome.COMPILE_ERROR: 1}
    assert all(record.source is Source.NONE and record.device is None for record in sweep.records())
    assert all(record.resources for record in sweep.records() if record.outcome is Outcome.COMPILED)
    assert sweep.records("confirmation") == []
    assert [trial.value for trial in sweep.study.get_trials(states=(TrialState.COMPLETE,))] == [PENALTY]


def test_a_stop_finishes_the_trial_in_flight_and_the_next_run_goes_on_with_the_rest(path: Path) -> None:
    stop = StopRequest()
    measured: list[str] = []

    def stop_at_the_fifth(params: dict[str, ParamValue]) -> None:
        measured.append(config_id(params))
        if len(measured) == 5:
            stop.asked = True

    sweep = Sweep(path, executor=ToyExecutor(before=stop_at_the_fifth), stop=stop)
    assert sweep.run() is Ending.STOPPED
    recorded = len(sweep.records()) + len(sweep.records("baseline"))
    assert recorded == len(measured)
    assert sweep.states()[TrialState.RUNNING] == 0
    waiting = sweep.study.get_trials(states=(TrialState.WAITING,))
    released = {config_id(trial.system_attrs["fixed_params"]) for trial in waiting}
    assert released

    again = Sweep(path, executor=ToyExecutor(before=lambda params: measured.append(config_id(params))))
    before = len(measured)
    assert again.run() is Ending.EXHAUSTED
    assert released == set(measured[before : before + len(released)])
    assert len(again.records()) == len(ALL)
    assert len({config_id(record.config) for record in again.records()}) == len(ALL)


def test_a_broken_executor_ends_the_sweep_and_loses_nothing(path: Path) -> None:
    def break_at(params: dict[str, ParamValue]) -> None:
        if len(executor.evaluated) == 6:
            raise ExecutorError("the driver went away")

    executor = ToyExecutor(before=break_at)
    sweep = Sweep(path, executor=executor)
    with pytest.raises(ExecutorError, match="the driver went away"):
        sweep.run()
    assert len(sweep.records()) + len(sweep.records("baseline")) == len(executor.evaluated) - 1
    again = Sweep(path, executor=ToyExecutor())
    assert again.run() is Ending.EXHAUSTED
    assert len(again.records()) == len(ALL)


def test_a_released_config_that_became_illegal_is_recorded_and_not_compiled(path: Path) -> None:
    sweep = Sweep(path, executor=ToyExecutor())
    illegal: dict[str, Any] = {"tile": 64, "stages": 4, "mode": "plain", "early": False}
    sweep.study.enqueue_trial(illegal)
    sweep.run()
    (record,) = (record for record in sweep.records() if record.outcome is Outcome.ILLEGAL)
    assert record.reason == "256 rows: at most 64"
    assert illegal not in sweep.pool.submitted


def test_candidates_are_compiled_while_one_is_measured(path: Path) -> None:
    """The GPU never waits for the main thread: behind a blocked measurement the next are compiled already."""
    blocked = threading.Event()

    def wait_for_the_next(params: dict[str, ParamValue]) -> None:
        if len(executor.evaluated) == 2:
            assert blocked.wait(30), "nothing was compiled meanwhile"

    class Pool(ToyPool):
        def submit(self, *arguments: Any) -> Any:
            future = super().submit(*arguments)
            if len(executor.evaluated) == 2 and len(self.submitted) >= 4:
                blocked.set()
            return future

    executor = ToyExecutor(before=wait_for_the_next)
    sweep = Sweep(path, pool=Pool(), executor=executor, spec=search(trials=8))
    sweep.run()
    assert len(sweep.records()) == 8


def test_finalists_are_the_best_at_each_m_and_overall_and_only_ok_ones() -> None:
    ok = [toy_record(params) for params in ALL]
    wrong = [replace(ok[0], outcome=Outcome.WRONG_RESULT), replace(ok[1], outcome=Outcome.UNSTABLE)]
    best = min(ok, key=lambda record: toy_time_us(record.config, 1))
    assert finalists([*wrong, *ok[2:]], 1, "cold", M_VALUES) == [best.config]
    assert finalists(wrong, 1, "cold", M_VALUES) == []


def test_optuna_s_own_best_trial_is_a_candidate(path: Path) -> None:
    sweep = Sweep(path, executor=ToyExecutor())
    sweep.run()
    loaded = optuna.load_study(study_name="toy", storage=store.open_storage(str(path)))
    assert '"role":"candidate"' in loaded.best_trial.user_attrs["record"]

"""A sweep accounts for every config, learns from failures, and loses nothing when it is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from harness.artifact import Artifact
from harness.compile_result import CompileResult
from harness.executor import Evaluation, ExecutorError, MeasurePlan
from harness.record import Outcome, ParamValue, Source, TrialRecord
from harness.toolchain import ToolchainError
from sweeps import store
from sweeps.confirm import finalists
from sweeps.driver import Ending
from sweeps.objective import PENALTY
from sweeps.sampler import SnappingSampler
from sweeps.space import config_id
from sweeps.spec import ConfirmSpec, ObjectiveSpec, SweepSpec
from sweeps.stop import StopRequest, stop_on_signal
from tests.sweeps.toy_driver import ALL, BASELINE, SPEC, Sweep
from tests.sweeps.toys import (
    M_VALUES,
    ToyExecutor,
    ToyPool,
    measurement,
    toy_record,
    toy_time_us,
)

OPTIMUM: dict[str, ParamValue] = {"tile": 32, "stages": 2, "mode": "split", "early": True}


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
    assert sweep.study.best_trial.params == OPTIMUM


def test_the_trials_budget_holds_over_all_runs(path: Path) -> None:
    assert Sweep(path, executor=ToyExecutor(), spec=search(trials=7)).run() is Ending.TRIALS
    again = Sweep(path, executor=ToyExecutor(), spec=search(trials=7))
    again.run()
    assert len(again.records()) == 7
    assert len(again.pool.submitted) == len(finalists(again.records(), 1, "cold", M_VALUES)) + 1
    more = Sweep(path, executor=ToyExecutor(), spec=search(trials=9))
    more.run()
    assert len({config_id(record.config) for record in more.records()}) == 9


def test_the_time_budget_ends_the_search_and_releases_what_was_not_measured(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third measurement outlasts the budget: it is waited for and recorded, those behind it are not."""
    now_s = [0.0]
    released = threading.Event()

    def outlast_the_budget_at_the_third(params: dict[str, ParamValue]) -> None:
        if len(executor.evaluated) == 3:
            now_s[0] = 61.0
            assert released.wait(30), "nothing was released"

    def release(*arguments: Any) -> None:
        release_in_store(*arguments)
        released.set()

    release_in_store = store.release
    monkeypatch.setattr("sweeps.driver.store.release", release)
    clock = SimpleNamespace(monotonic=lambda: now_s[0], perf_counter=time.perf_counter)
    monkeypatch.setattr("sweeps.driver.time", clock)
    executor = ToyExecutor(before=outlast_the_budget_at_the_third)
    sweep = Sweep(
        path,
        executor=executor,
        spec=replace(search(minutes=1), confirm=replace(SPEC.confirm, rounds=0)),
    )
    assert sweep.run() is Ending.MINUTES
    assert len(executor.evaluated) == 3
    assert len(sweep.records("baseline")) == 1
    assert len(sweep.records()) == 2
    assert sweep.states()[TrialState.RUNNING] == 0
    assert sweep.study.get_trials(states=(TrialState.WAITING,))


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


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_baselines_that_a_stopped_sweep_had_not_measured_are_measured_by_the_next(
    path: Path, stop_at: int
) -> None:
    stop = StopRequest()
    measured: list[str] = []

    def stop_in_the_baselines(params: dict[str, ParamValue]) -> None:
        measured.append(config_id(params))
        if len(measured) == stop_at:
            stop.ask()

    baselines = [BASELINE, ALL[7], ALL[11]]
    sweep = Sweep(path, executor=ToyExecutor(before=stop_in_the_baselines), stop=stop, baselines=baselines)
    assert sweep.run() is Ending.STOPPED
    assert len(sweep.records("baseline")) == stop_at
    again = Sweep(path, executor=ToyExecutor(), baselines=baselines)
    again.run()
    assert [record.config for record in again.records("baseline")] == baselines


def test_a_baseline_that_does_not_build_is_said(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = ToyPool({config_id(BASELINE): Outcome.COMPILE_ERROR})
    Sweep(path, pool=pool, executor=ToyExecutor(), spec=search(trials=1)).run()
    assert "baseline toy_baseline: compile_error: the toy compiler refuses" in capsys.readouterr().err


class BreaksDown(ToyPool):
    """After `lasts` compiles the machine cannot compile any more."""

    def __init__(self, lasts: int) -> None:
        super().__init__()
        self._lasts = lasts

    def submit(self, *arguments: Any) -> Future[CompileResult]:
        future = super().submit(*arguments)
        if len(self.submitted) > self._lasts:
            future = Future()
            future.set_exception(ToolchainError("this machine cannot compile: no space left on device"))
        return future


def test_a_machine_that_cannot_compile_any_more_ends_the_sweep_and_costs_no_config(path: Path) -> None:
    sweep = Sweep(path, pool=BreaksDown(5), executor=ToyExecutor())
    with pytest.raises(ToolchainError, match="no space left"):
        sweep.run()
    assert {record.outcome for record in sweep.records()} == {Outcome.OK}
    assert sweep.states()[TrialState.RUNNING] == 0
    again = Sweep(path, executor=ToyExecutor())
    assert again.run() is Ending.EXHAUSTED
    assert Counter(config_id(record.config) for record in again.records()) == Counter(map(config_id, ALL))


def best_so_far(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if "best so far" in line]


def test_what_a_stopped_sweep_found_is_the_best_so_far_of_the_next(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Sweep(path, executor=ToyExecutor(), spec=search(trials=len(ALL) // 2))
    first.run()
    assert min(toy_time_us(record.config, 1) for record in first.records()) == toy_time_us(OPTIMUM, 1)
    assert best_so_far(capsys)
    Sweep(path, executor=ToyExecutor()).run()
    assert best_so_far(capsys) == []


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
            # Only what has been compiled meanwhile can be released: on a busy machine that takes a moment.
            while len(sweep.pool.submitted) <= len(measured):
                time.sleep(0.01)
            stop.ask()

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


def knowledge(sampler: optuna.samplers.BaseSampler) -> list[list[tuple[str, float]]]:
    """What each model of a sampler has learned: configs and values, in its order."""
    assert isinstance(sampler, SnappingSampler)
    return [
        [
            (config_id(trial.params), trial.values[0])
            for trial in model._study.get_trials(states=(TrialState.COMPLETE,))
        ]
        for model in sampler._models
    ]


def test_the_next_run_knows_what_the_stopped_one_learned_at_each_m(path: Path) -> None:
    broken = {config_id(params): Outcome.CRASHED for params in ALL[::4]}
    first = Sweep(path, executor=ToyExecutor(broken), spec=search(trials=20))
    first.run()
    learned = knowledge(first.study.sampler)
    expected = [
        [
            (key, PENALTY if key in broken else pytest.approx(toy_time_us(record.config, m)))
            for record in first.records()
            for key in [config_id(record.config)]
        ]
        for m in M_VALUES
    ]
    assert any(key in broken for key, _ in expected[0])
    assert learned == expected
    again = Sweep(path, executor=ToyExecutor(), spec=search(trials=20))
    again.run()
    assert knowledge(again.study.sampler) == learned


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


def timed(index: int, *cold_us: float, **changes: Any) -> TrialRecord:
    """A record of the config `ALL[index]` with these times at `M_VALUES`."""
    measured = tuple(measurement(m, us) for m, us in zip(M_VALUES, cold_us, strict=True))
    return toy_record(ALL[index], measurements=measured, **changes)


def test_finalists_are_the_fastest_at_each_m_and_a_compromise_is_none() -> None:
    records = [timed(0, 1, 9), timed(1, 2, 8), timed(2, 2.5, 2.5), timed(3, 8, 2), timed(4, 9, 1)]
    assert finalists(records, 1, "cold", M_VALUES) == [ALL[0], ALL[4]]
    assert finalists(records, 2, "cold", M_VALUES) == [ALL[0], ALL[1], ALL[4], ALL[3]]
    assert finalists(records, 1, "cold", M_VALUES[:1]) == [ALL[0]]


def test_a_finalist_is_a_candidate_that_passed_the_check_steady_or_not_and_each_is_one_once() -> None:
    refused = [
        timed(0, 1, 1, outcome=Outcome.WRONG_RESULT),
        timed(1, 1, 1, outcome=Outcome.CRASHED),
        timed(2, 1, 1, role="baseline"),
        timed(3, 1, 1, role="confirmation"),
    ]
    assert finalists(refused, 1, "cold", M_VALUES) == []
    unstable = timed(4, 2, 2, outcome=Outcome.UNSTABLE)
    assert finalists([*refused, unstable, timed(5, 3, 3)], 1, "cold", M_VALUES) == [ALL[4]]


def test_the_winners_at_every_m_are_confirmed_whatever_m_the_objective_names(path: Path) -> None:
    """The export chooses at every M of the sweep, so winners outside the objective are measured, too."""

    class Opposite(ToyExecutor):
        def evaluate(self, artifact: Artifact, plan: MeasurePlan) -> Evaluation:
            place = ALL.index(dict(artifact.manifest.config))
            times = (1.0 + place, 1.0 + len(ALL) - place)
            return Evaluation(Outcome.OK, measurements=timed(place, *times).measurements)

    spec = replace(SPEC, objective=ObjectiveSpec(m_values=M_VALUES[:1]), confirm=ConfirmSpec(1, 1))
    sweep = Sweep(path, executor=Opposite(), spec=spec)
    sweep.run()
    confirmed = [record.config for record in sweep.records("confirmation") if record.family == "toy"]
    assert sorted(map(ALL.index, confirmed)) == [0, len(ALL) - 1]


def test_optuna_s_own_best_trial_is_a_candidate(path: Path) -> None:
    sweep = Sweep(path, executor=ToyExecutor())
    sweep.run()
    loaded = optuna.load_study(study_name="toy", storage=store.open_storage(str(path)))
    assert '"role":"candidate"' in loaded.best_trial.user_attrs["record"]


class ToyProcess(subprocess.Popen[str]):
    """`toy_sweep.py` in a process of its own, from the root of the checkout."""

    def __init__(self, path: Path, stop_at: int) -> None:
        command = [sys.executable, "-m", "tests.sweeps.toy_sweep", str(path), str(stop_at)]
        super().__init__(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )

    def wait_until_measuring(self) -> None:
        assert self.stdout is not None
        assert self.stdout.readline() == "measuring\n"

    def finish(self) -> str:
        return self.communicate("\n", timeout=120)[0].strip()


@pytest.mark.parametrize("stop_at", [1, 7])
def test_kill_9_loses_at_most_the_trial_in_flight(path: Path, stop_at: int) -> None:
    killed = ToyProcess(path, stop_at)
    killed.wait_until_measuring()
    killed.kill()
    killed.communicate()
    before = Sweep(path).records() + Sweep(path).records("baseline")
    assert len(before) == stop_at - 1

    assert ToyProcess(path, 0).finish() == Ending.EXHAUSTED.name
    sweep = Sweep(path)
    assert sorted(config_id(record.config) for record in sweep.records()) == sorted(map(config_id, ALL))
    assert sweep.states()[TrialState.RUNNING] == 0
    measured = Counter(Path(f"{path}.measured").read_text().split())
    # Twice: the one in flight, and the baseline's config, which is a candidate of the other family, too.
    assert sum(measured.values()) == len(ALL) + 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_trial_in_flight_and_stops(path: Path, number: int) -> None:
    process = ToyProcess(path, 7)
    process.wait_until_measuring()
    process.send_signal(number)
    assert process.finish() == Ending.STOPPED.name
    measured = Path(f"{path}.measured").read_text().count("\n")
    assert 7 <= measured < len(ALL)
    sweep = Sweep(path)
    assert len(sweep.records()) + len(sweep.records("baseline")) == measured
    assert ToyProcess(path, 0).finish() == Ending.EXHAUSTED.name
    assert Path(f"{path}.measured").read_text().count("\n") == len(ALL) + 1


@pytest.mark.parametrize(("outcome", "recorded"), [(Outcome.CRASHED, 2), (Outcome.OK, 3)])
def test_a_second_stop_gives_up_the_trial_in_flight(path: Path, outcome: Outcome, recorded: int) -> None:
    """The executor is closed under the evaluation. That its worker was killed is not recorded; what it has
    measured by then is."""
    closed = threading.Event()
    stop = StopRequest()

    class Closable(ToyExecutor):
        def close(self) -> None:
            closed.set()

    def stop_twice_at_the_third(params: dict[str, ParamValue]) -> None:
        if len(executor.evaluated) == 3:
            stop.ask()
            stop.ask()
            assert closed.wait(30), "the executor was not closed"
            executor.failing = {config_id(params): outcome}

    executor = Closable(before=stop_twice_at_the_third)
    sweep = Sweep(path, executor=executor, stop=stop)
    assert sweep.run() is Ending.STOPPED
    assert len(sweep.records()) + len(sweep.records("baseline")) == recorded
    assert Sweep(path, executor=ToyExecutor()).run() is Ending.EXHAUSTED
    assert Counter(record.outcome for record in Sweep(path).records()) == {Outcome.OK: len(ALL)}


def test_signals_ask_then_press_then_interrupt() -> None:
    with stop_on_signal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        assert not stop.now
        signal.raise_signal(signal.SIGTERM)
        assert stop.now
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

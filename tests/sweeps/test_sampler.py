"""Whatever proposes: never illegal, never twice, and the whole space in the end."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from harness.record import Outcome, Source
from kernels.problem import PRESETS
from kernels.sm90.families import FusedSm90
from sweeps import store
from sweeps.sampler import SnappingSampler, SpaceExhausted, make_sampler
from sweeps.space import Space, config_params
from tests.sweeps.toys import PROBLEM, TARGET, ToyConfig, ToyFamily, toy_record, toy_time_us

SPACE = Space(ToyFamily(), PROBLEM, TARGET)
DISTRIBUTIONS = SPACE.distributions()
FIRST = [config_params(ToyConfig(tile=tile)) for tile in (16, 8)]


def sampler(kind: str, seed: int) -> SnappingSampler:
    return make_sampler(SPACE, kind, seed=seed, exhaustive_limit=10, first=FIRST)  # type: ignore[arg-type]


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(["exhaustive", "random", "tpe", "auto"]),
    seed=st.integers(0, 2**31),
    ahead=st.integers(1, 7),
    failing=st.integers(1, 5),
)
def test_every_legal_config_once_and_nothing_else(kind: str, seed: int, ahead: int, failing: int) -> None:
    study = optuna.create_study(sampler=sampler(kind, seed))
    asked: list[int | None] = []
    running: list[optuna.Trial] = []
    while len(study.sampler.unseen):  # type: ignore[attr-defined]
        trial = study.ask(DISTRIBUTIONS)
        asked.append(SPACE.index(trial.params))
        running.append(trial)
        if len(running) == ahead:
            done = running.pop(trial.number % ahead)
            good = done.number % failing
            study.tell(done, toy_time_us(done.params, 1) if good else 1e6)
    assert sorted(asked) == list(range(len(SPACE)))  # type: ignore[type-var]
    with pytest.raises(SpaceExhausted):
        study.ask(DISTRIBUTIONS)


def test_the_proposal_is_taken_where_it_is_legal_and_unseen() -> None:
    class Fixed(RandomSampler):
        def sample_relative(self, study, trial, search_space):  # type: ignore[no-untyped-def]
            return dict(wanted)

    wanted = {"tile": 32, "stages": 2, "mode": "split", "early": True}
    study = optuna.create_study(sampler=SnappingSampler(SPACE, seed=0, proposers=[Fixed()]))
    assert study.ask(DISTRIBUTIONS).params == wanted
    second = study.ask(DISTRIBUTIONS).params
    assert sum(second[name] != wanted[name] for name in wanted) == 1


def test_what_is_to_come_first_does() -> None:
    study = optuna.create_study(sampler=sampler("tpe", 3))
    assert [study.ask(DISTRIBUTIONS).params for _ in FIRST] == FIRST


def test_auto_is_exhaustive_up_to_the_limit() -> None:
    def proposers(limit: int) -> int:
        return len(make_sampler(SPACE, "auto", seed=0, exhaustive_limit=limit, lessons=3)._models)

    assert proposers(len(SPACE)) == 0
    assert proposers(len(SPACE) - 1) == 3


def test_released_configs_are_asked_again_and_records_without_a_value_are_not() -> None:
    study = optuna.create_study(sampler=sampler("random", 0))
    released, compiled = study.ask(DISTRIBUTIONS), study.ask(DISTRIBUTIONS)
    record = toy_record(compiled.params, Outcome.COMPILED, source=Source.NONE)
    store.keep(study, compiled, record)
    store.tell(study, compiled.number, None)
    store.release(study, released)
    assert study.ask(DISTRIBUTIONS).params == released.params
    rest = [study.ask(DISTRIBUTIONS).params for _ in range(len(SPACE) - 2)]
    assert compiled.params not in rest
    assert released.params not in rest


def test_baselines_and_confirmations_do_not_reach_the_sampler() -> None:
    def asked(extra: bool) -> list[dict[str, object]]:
        study = optuna.create_study(sampler=sampler("tpe", 5))
        found = []
        for _ in range(25):
            trial = study.ask(DISTRIBUTIONS)
            found.append(trial.params)
            if extra:
                store.add(study, toy_record(trial.params, role="confirmation"))
            study.tell(trial, toy_time_us(trial.params, 1))
        return found

    assert asked(extra=True) == asked(extra=False)


def test_tpe_learns_from_penalties_to_leave_a_failing_corner() -> None:
    """All of mode = plain fails. Told as failures to learn from, TPE asks fewer of them than chance would."""

    def plain_share(kind: str, seed: int) -> int:
        study = optuna.create_study(sampler=sampler(kind, seed))
        asked = 0
        for number in range(26):
            trial = study.ask(DISTRIBUTIONS)
            fails = trial.params["mode"] == "plain"
            asked += fails and number >= 16
            study.tell(trial, 1e6 if fails else toy_time_us(trial.params, 1))
        return asked

    seeds = range(8)
    by_tpe = sum(plain_share("tpe", seed) for seed in seeds)
    by_chance = sum(plain_share("random", seed) for seed in seeds)
    assert by_tpe < 0.6 * by_chance, (by_tpe, by_chance)


def test_trials_in_flight_count_as_asked() -> None:
    study = optuna.create_study(sampler=sampler("tpe", 1))
    trials = [study.ask(DISTRIBUTIONS) for _ in range(len(SPACE))]
    assert len({tuple(trial.params.items()) for trial in trials}) == len(SPACE)
    assert all(t.state is TrialState.RUNNING for t in study.get_trials())


class Listening(RandomSampler):
    """Proposes nothing and remembers what its study held when it was last asked."""

    def sample_relative(self, study, trial, search_space):  # type: ignore[no-untyped-def]
        self.heard = [t.value for t in study.get_trials(states=(TrialState.COMPLETE,))]
        return {}


def test_each_proposer_hears_its_own_lesson_and_takes_its_turn() -> None:
    listeners = [Listening(), Listening()]
    study = optuna.create_study(
        sampler=SnappingSampler(
            SPACE, seed=0, proposers=listeners, lesson=lambda trial, value: [value, 10 * value + trial.number]
        )
    )
    for value in (3.0, 4.0, 5.0):
        study.tell(study.ask(DISTRIBUTIONS), value)
    study.tell(study.ask(DISTRIBUTIONS), state=TrialState.FAIL)
    # Asked in turns: the first proposer for trials 0 and 2, the second for 1 and 3.
    assert listeners[0].heard == [3.0, 4.0]
    assert listeners[1].heard == [30.0, 41.0, 52.0]


def test_a_resumed_sampler_knows_the_lessons_of_the_run_before() -> None:
    def lesson(trial: optuna.trial.FrozenTrial, value: float) -> list[float]:
        return [value, -value]

    study = optuna.create_study(sampler=SnappingSampler(SPACE, seed=0))
    for value in (3.0, 4.0):
        study.tell(study.ask(DISTRIBUTIONS), value)
    listeners = [Listening(), Listening()]
    resumed = SnappingSampler(SPACE, seed=0, proposers=listeners, lesson=lesson)
    resumed.load(study)
    study.sampler = resumed
    for _ in listeners:
        study.ask(DISTRIBUTIONS)
    assert [listener.heard for listener in listeners] == [[3.0, 4.0], [-3.0, -4.0]]


def test_a_model_per_m_finds_better_winners_per_m_than_one_of_their_mean() -> None:
    """Two M that want opposite ends of every parameter of the fused kernel; one budget for both searches."""
    space = Space(
        FusedSm90(), PRESETS["deepseek-v4-pro"], "sm_90a", {"tile_k": [64], "schedule": ["cooperative_m"]}
    )
    places = {
        name: {choice: index / max(1, len(choices) - 1) for index, choice in enumerate(choices)}
        for name, choices in space.choices.items()
    }

    def times(params: dict[str, Any]) -> tuple[float, float]:
        distance = [places[name][value] for name, value in params.items()]
        return math.exp(sum(distance)), math.exp(sum(1 - d for d in distance))

    def winners(per_m: bool, seed: int) -> float:
        told: dict[int, tuple[float, float]] = {}
        made = make_sampler(
            space,
            "tpe",
            seed=seed,
            exhaustive_limit=0,
            lessons=2 if per_m else 1,
            lesson=(lambda trial, value: told[trial.number]) if per_m else None,
        )
        study = optuna.create_study(sampler=made)
        for _ in range(60):
            trial = study.ask(space.distributions())
            told[trial.number] = times(trial.params)
            study.tell(trial, math.sqrt(math.prod(told[trial.number])))
        return sum(math.log(min(column)) for column in zip(*told.values(), strict=True))

    seeds = range(3)
    per_m = sum(winners(True, seed) for seed in seeds) / len(seeds)
    mean = sum(winners(False, seed) for seed in seeds) / len(seeds)
    print(f"log of the winners' times: a model per M {per_m:.2f}, one of the mean {mean:.2f}")
    assert per_m < mean - 0.5

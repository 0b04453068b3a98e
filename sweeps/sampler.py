"""The sampler: whatever proposes, only legal configs that were never asked before come out.

Optuna's samplers know neither the legality predicate nor that measuring a config twice teaches nothing. So
a proposal of theirs is *snapped*: of the legal configs that no trial of the study has, the one that differs
from the proposal in the fewest parameters is asked, ties broken at random. Trials that are still running or
waiting count as asked. Where nobody proposes (exhaustive and random sweeps, and TPE's first trials) the next
config of a fixed random order is asked, after those that the sweep begins with.

There are as many proposers as a trial teaches **lessons**, one for each M of the objective. What people
export is the best config per M, and what wins at M = 1 loses at 16384 (on an H100 their ranks correlate
negatively): one model of the mean over M would search for compromises. The proposers take turns, and every
trial teaches each of them how it did at its own M.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from kernels.family import ParamValue
from sweeps.space import Space
from sweeps.store import was_asked

# Before TPE models anything. Its default, 10, leaves a space of ten parameters with choices never seen.
STARTUP_TRIALS = 16


class SpaceExhausted(RuntimeError):
    """Every legal config has been asked."""


# What a finished trial teaches: one value for each proposer.
Lesson = Callable[[FrozenTrial, float], Sequence[float]]


class _Model:
    """A proposer with a study of its own in memory.

    Optuna would fetch the trials in flight from the store afresh at each ask: 25 ms per trial with 8 of them.
    """

    def __init__(self, proposer: BaseSampler, distributions: dict[str, BaseDistribution]) -> None:
        self._proposer = proposer
        self._distributions = distributions
        # A parameter with a single choice is none to a proposer.
        self._open = {name: d for name, d in distributions.items() if not d.single()}
        self._study = optuna.create_study(sampler=proposer)
        self._in_flight: dict[int, int] = {}  # number of a trial -> its number here

    def start(self, number: int, params: Mapping[str, Any]) -> None:
        """Trial `number` is running."""
        self._add(params, None)
        self._in_flight[number] = len(self._study.get_trials(deepcopy=False)) - 1

    def finish(self, number: int, value: float | None) -> None:
        """Trial `number` has ended; without a value it taught nothing."""
        if (own := self._in_flight.pop(number, None)) is not None:
            state = TrialState.FAIL if value is None else TrialState.COMPLETE
            self._study.tell(own, value, state)

    def learn(self, params: Mapping[str, Any], value: float) -> None:
        """A trial of an earlier run."""
        self._add(params, value)

    def propose(self) -> dict[str, Any]:
        """A joint proposal; empty while the proposer would rather have random configs."""
        asked = self._study.ask()
        frozen = self._study.get_trials(deepcopy=False)[asked.number]
        proposal = self._proposer.sample_relative(self._study, frozen, self._open)
        # What is asked in the end is another config: the proposal leaves no trace.
        self._study.tell(asked, state=TrialState.FAIL)
        return proposal

    def _add(self, params: Mapping[str, Any], value: float | None) -> None:
        self._study.add_trial(
            optuna.create_trial(
                state=TrialState.RUNNING if value is None else TrialState.COMPLETE,
                value=value,
                params=dict(params),
                distributions=self._distributions,
            )
        )


class SnappingSampler(BaseSampler):
    """Asks legal configs of `space`, each once: the proposers' in turn, snapped, or a fixed random order.

    It remembers what was asked and told, beginning with `load`: nobody else may ask from the study meanwhile.

    Args:
        first: indices of the configs to ask first, such as those in use.
        proposers: relative (joint) samplers; none for the fixed order alone.
        lesson: what a trial told `value` teaches, one value for each proposer; `value` itself by default.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        first: Sequence[int] = (),
        proposers: Sequence[BaseSampler] = (),
        lesson: Lesson | None = None,
    ) -> None:
        self._space = space
        self._distributions = space.distributions()
        self._models = [_Model(proposer, self._distributions) for proposer in proposers]
        self._lesson = lesson or (lambda _, value: [value] * len(proposers))
        self._turn = 0
        # Two streams: the order stays the same however many ties were broken before a run stopped.
        order_rng, self._ties = np.random.default_rng(seed).spawn(2)
        shuffled = order_rng.permutation(len(space))
        self._order = np.concatenate([np.array(first, dtype=np.intp), shuffled[~np.isin(shuffled, first)]])
        self._seen = np.zeros(len(space), dtype=bool)

    @property
    def unseen(self) -> NDArray[np.intp]:
        """Indices of the legal configs that were never asked, in the order of the sweep."""
        remaining: NDArray[np.intp] = self._order[~self._seen[self._order]]
        return remaining

    def load(self, study: Study) -> None:
        """Take over what `study` has; once, before the first ask."""
        for trial in study.get_trials(deepcopy=False):
            if was_asked(trial):
                self._see(trial.params or trial.system_attrs.get("fixed_params", {}))
            if trial.state is TrialState.COMPLETE and trial.params and trial.value is not None:
                for model, value in zip(self._models, self._lesson(trial, trial.value), strict=True):
                    model.learn(trial.params, value)
                self._turn += 1

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # Optuna takes an enqueued trial's parameters from there, whatever is returned here.
        params = trial.system_attrs.get("fixed_params") or self._choose()
        self._see(params)
        if self._space.index(params) is not None:
            for model in self._models:
                model.start(trial.number, params)
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise RuntimeError(f"{param_name} is not a parameter of {self._space.family.name}")

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        lessons: Sequence[float | None] = [None] * len(self._models)
        if state is TrialState.COMPLETE and values is not None:
            lessons = self._lesson(trial, values[0])
        for model, value in zip(self._models, lessons, strict=True):
            model.finish(trial.number, value)

    def _choose(self) -> dict[str, Any]:
        unseen = self.unseen
        if not len(unseen):
            raise SpaceExhausted(f"all {len(self._space)} legal configs have been asked")
        if not (proposal := self._propose()):
            return self._space.params(int(unseen[0]))
        fixed = {name: choices[0] for name, choices in self._space.choices.items()}
        return self._space.params(self._space.nearest(fixed | proposal, unseen, self._ties))

    def _propose(self) -> dict[str, Any]:
        if not self._models:
            return {}
        model = self._models[self._turn % len(self._models)]
        self._turn += 1
        return model.propose()

    def _see(self, params: Mapping[str, Any]) -> None:
        if (index := self._space.index(params)) is not None:
            self._seen[index] = True


def make_sampler(
    space: Space,
    kind: Literal["auto", "exhaustive", "tpe", "random"],
    *,
    seed: int,
    exhaustive_limit: int,
    first: Iterable[Mapping[str, ParamValue]] = (),
    lessons: int = 1,
    lesson: Lesson | None = None,
) -> SnappingSampler:
    """The sampler of a sweep. `auto` is exhaustive up to `exhaustive_limit` legal configs, TPE beyond.

    Exhaustive and random sweeps both ask in a random order without repetition: they differ in when they end,
    which is not the sampler's business. `first` are configs to begin with; illegal and repeated ones are left
    out. A trial teaches `lessons` lessons, one for each of as many TPE samplers.
    """
    found = dict.fromkeys(space.index(params) for params in first)
    tpe = kind == "tpe" or (kind == "auto" and len(space) > exhaustive_limit)
    return SnappingSampler(
        space,
        seed=seed,
        first=[index for index in found if index is not None],
        proposers=[
            TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed + index)
            for index in range(lessons if tpe else 0)
        ],
        lesson=lesson if tpe else None,
    )

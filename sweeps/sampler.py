"""The sampler: whatever proposes, only legal configs that were never asked before come out.

Optuna's samplers know neither the legality predicate nor that measuring a config twice teaches nothing. So
a proposal of theirs is *snapped*: of the legal configs that no trial of the study has, the one that differs
from the proposal in the fewest parameters is asked, ties broken at random. Trials that are still running or
waiting count as asked. Where nobody proposes (exhaustive and random sweeps, and TPE's first trials) the next
config of a fixed random order is asked, after those that the sweep begins with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


class SnappingSampler(BaseSampler):
    """Asks legal configs of `space`, each once: `proposer`'s proposals snapped, or a fixed random order.

    It remembers what was asked and told, beginning with `load`: nobody else may ask from the study meanwhile.
    Reading the store anew at each ask took 25 ms more per trial with 8 trials in flight, because Optuna then
    fetches those afresh; the proposer works on a study of its own in memory, for the same reason.

    Args:
        first: indices of the configs to ask first, such as those in use.
        proposer: a relative (joint) sampler; None for the fixed order alone.
    """

    def __init__(
        self, space: Space, *, seed: int, first: Sequence[int] = (), proposer: BaseSampler | None = None
    ) -> None:
        self._space = space
        self._proposer = proposer
        self._distributions = space.distributions()
        # A parameter with a single choice is none to a proposer.
        self._open = {name: d for name, d in self._distributions.items() if not d.single()}
        # Two streams: the order stays the same however many ties were broken before a run stopped.
        order_rng, self._ties = np.random.default_rng(seed).spawn(2)
        shuffled = order_rng.permutation(len(space))
        self._order = np.concatenate([np.array(first, dtype=np.intp), shuffled[~np.isin(shuffled, first)]])
        self._seen = np.zeros(len(space), dtype=bool)
        self._memory = optuna.create_study(sampler=proposer)
        self._in_memory: dict[int, int] = {}  # number of a trial in flight -> its number in memory

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
            if trial.state is TrialState.COMPLETE and trial.params:
                self._memory.add_trial(trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # Optuna takes an enqueued trial's parameters from there, whatever is returned here.
        params = trial.system_attrs.get("fixed_params") or self._choose()
        self._see(params)
        if self._space.index(params) is not None:
            running = optuna.create_trial(
                state=TrialState.RUNNING, params=params, distributions=self._distributions
            )
            self._memory.add_trial(running)
            self._in_memory[trial.number] = len(self._memory.get_trials(deepcopy=False)) - 1
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise RuntimeError(f"{param_name} is not a parameter of {self._space.family.name}")

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if (number := self._in_memory.pop(trial.number, None)) is not None:
            self._memory.tell(number, values, state)

    def _choose(self) -> dict[str, Any]:
        unseen = self.unseen
        if not len(unseen):
            raise SpaceExhausted(f"all {len(self._space)} legal configs have been asked")
        if not (proposal := self._propose()):
            return self._space.params(int(unseen[0]))
        fixed = {name: choices[0] for name, choices in self._space.choices.items()}
        return self._space.params(self._space.nearest(fixed | proposal, unseen, self._ties))

    def _propose(self) -> dict[str, Any]:
        if self._proposer is None:
            return {}
        asked = self._memory.ask()
        frozen = self._memory.get_trials(deepcopy=False)[asked.number]
        proposal = self._proposer.sample_relative(self._memory, frozen, self._open)
        # What is asked in the end is another config: the proposal leaves no trace.
        self._memory.tell(asked, state=TrialState.FAIL)
        return proposal

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
) -> SnappingSampler:
    """The sampler of a sweep. `auto` is exhaustive up to `exhaustive_limit` legal configs, TPE beyond.

    Exhaustive and random sweeps both ask in a random order without repetition: they differ in when they end,
    which is not the sampler's business. `first` are configs to begin with; illegal and repeated ones are left
    out.
    """
    found = dict.fromkeys(space.index(params) for params in first)
    tpe = kind == "tpe" or (kind == "auto" and len(space) > exhaustive_limit)
    return SnappingSampler(
        space,
        seed=seed,
        first=[index for index in found if index is not None],
        proposer=TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed) if tpe else None,
    )

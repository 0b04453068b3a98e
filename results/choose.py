"""Choose the best config at each M, and compare it with the two-kernel path.

Only steady measurements of candidates that passed the check are eligible, and a config that ever gave a
wrong result, crashed or hung, in the sweep or when it was confirmed, is not. The fastest candidate and all
that tie with it are as good as each other; `results.stats.tie_key` picks one.

Where the sweep's fastest candidate was measured again (role `confirmation`, interleaved with the other
finalists), the confirmations decide among the confirmed configs, their rounds pooled: the sweep's own
measurement of a winner is the luckiest of many, so it flatters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.record import ConfigKey, Outcome, Source, Timing, TrialRecord, config_key
from results.stats import Verdict, compare, pool, tie_key
from results.study import Objective, Study, timed_group, usable

DISQUALIFYING = frozenset({Outcome.WRONG_RESULT, Outcome.CRASHED, Outcome.TIMEOUT})


@dataclass(frozen=True)
class Contender:
    """One config at one M: all of its eligible measurements in one role, pooled."""

    record: TrialRecord  # the first of them
    cold: Timing
    warm: Timing
    floor_us: float
    rounds: int

    def time(self, objective: Objective) -> Timing:
        return self.cold if objective == "cold" else self.warm


@dataclass(frozen=True)
class Choice:
    """The best config at one M.

    Attributes:
        tied: the other configs that are as fast within the noise, in the order of the tie rule.
        confirmed: whether confirmations decided, not the sweep's own measurements.
        baseline: the two-kernel path at this M, None where it was not measured.
        verdict: the best against the baseline.
    """

    m: int
    objective: Objective
    best: Contender
    tied: tuple[Contender, ...]
    confirmed: bool
    baseline: Contender | None
    verdict: Verdict | None

    @property
    def best_us(self) -> float:
        return self.best.time(self.objective).median_us

    @property
    def baseline_us(self) -> float | None:
        return self.baseline.time(self.objective).median_us if self.baseline else None

    @property
    def speedup(self) -> float | None:
        """Baseline time / best time: above 1 where the fused kernel is faster."""
        return self.baseline_us / self.best_us if self.baseline_us else None

    @property
    def floor_share(self) -> float:
        return self.best.floor_us / self.best_us


def choose(study: Study, m: int) -> Choice | None:
    """The best config at `m` under the study's objective; None when no candidate is eligible there.

    Raises `ResultsError` when the study's times are of several sources or devices.
    """
    group = timed_group(study.records)
    exact = group is not None and group.source is Source.MODELLED
    objective = study.info.objective
    disqualified = {config_key(record) for record in study.records if record.outcome in DISQUALIFYING}
    swept = _contenders(study.candidates, m, disqualified)
    again = _contenders(study.confirmations, m, disqualified)
    if not swept:
        return None
    fastest = min(swept, key=lambda key: swept[key].time(objective).median_us)
    confirmed = fastest in again
    pool_of = {key: again[key] for key in again if key in swept} if confirmed else swept
    finalists = sorted(
        _as_fast_as_the_fastest(pool_of, objective, exact), key=lambda each: tie_key(each.record)
    )
    best = finalists[0]
    baseline = _baseline(study, m, again, confirmed)
    return Choice(
        m=m,
        objective=objective,
        best=best,
        tied=tuple(finalists[1:]),
        confirmed=confirmed,
        baseline=baseline,
        verdict=compare(best.time(objective), baseline.time(objective), exact=exact) if baseline else None,
    )


def choose_all(study: Study) -> tuple[Choice, ...]:
    """The choice at every M of the study that has one."""
    choices = (choose(study, m) for m in study.info.m_values)
    return tuple(choice for choice in choices if choice)


def _contenders(
    records: Sequence[TrialRecord], m: int, disqualified: set[ConfigKey]
) -> dict[ConfigKey, Contender]:
    grouped: dict[ConfigKey, list[TrialRecord]] = {}
    for record in records:
        key = config_key(record)
        if usable(record, m) and key not in disqualified:
            grouped.setdefault(key, []).append(record)
    return {key: _contender(same, m) for key, same in grouped.items()}


def _contender(same: Sequence[TrialRecord], m: int) -> Contender:
    measured = [found for record in same if (found := record.at(m))]
    return Contender(
        record=same[0],
        cold=pool([at.cold for at in measured]),
        warm=pool([at.warm for at in measured]),
        floor_us=median(at.floor_us for at in measured),
        rounds=len(measured),
    )


def _as_fast_as_the_fastest(
    contenders: dict[ConfigKey, Contender], objective: Objective, exact: bool
) -> list[Contender]:
    fastest = min(contenders.values(), key=lambda each: each.time(objective).median_us).time(objective)
    return [
        each
        for each in contenders.values()
        if compare(each.time(objective), fastest, exact=exact) is not Verdict.SLOWER
    ]


def _baseline(study: Study, m: int, again: dict[ConfigKey, Contender], confirmed: bool) -> Contender | None:
    """The best baseline config at `m`; measured again beside the finalists where confirmations decided.

    Only candidates and baselines are confirmed, so a confirmed config that is no candidate is a baseline: a
    sweep that was stopped, or out of time, may have measured it then for the first time.
    """
    swept = _contenders(study.baselines, m, set())
    candidates = {config_key(record) for record in study.candidates}
    late = {key: each for key, each in again.items() if key not in candidates}
    both = {**late, **swept}
    contenders = [again.get(key, each) if confirmed else each for key, each in both.items()]
    return min(contenders, key=lambda each: each.time(study.info.objective).median_us, default=None)

"""The told value: what the sampler minimizes.

A good trial is told the geometric mean over M of its median time over the floor at that M: 1 is perfect,
and a factor won at M = 1 weighs as much as the same factor at M = 16384. What the sampler learns from is
finer: the same ratio at each M by itself (`lesson`).

A failed trial is told `PENALTY`, as a completed one. Told only as failed, TPE would not see it and propose
the same corner for ever. The value is finite and above what any working kernel can reach; TPE ranks values
and does not weigh them, so how far above does not matter. The record's outcome says what really became of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from optuna.trial import FrozenTrial

from harness.record import Outcome, TrialRecord, from_json
from sweeps.sampler import Lesson
from sweeps.store import RECORD_ATTR

# At M = 1 the floor is some 2 us: the penalty stands for 2 s, which the executor's time limit ends first.
PENALTY = 1e6

Metric = Literal["cold", "warm"]


def floor_ratio(record: TrialRecord, metric: Metric, m_values: Iterable[int]) -> float:
    """Geometric mean of median time / floor over `m_values`; raises `ValueError` for an M not measured."""
    logs = []
    for m in m_values:
        measured = record.at(m)
        if measured is None:
            raise ValueError(f"the record has no measurement at M = {m}")
        timing = measured.cold if metric == "cold" else measured.warm
        logs.append(math.log(timing.median_us / measured.floor_us))
    return math.exp(math.fsum(logs) / len(logs))


def told_value(record: TrialRecord, metric: Metric, m_values: Iterable[int]) -> float | None:
    """What the sampler is told about a trial; None where nothing was run, so nothing is known.

    An unstable trial is told its measured value: its times are noisy, not wrong.
    """
    match record.outcome:
        case Outcome.COMPILED:
            return None
        case Outcome.OK | Outcome.UNSTABLE:
            return min(floor_ratio(record, metric, m_values), PENALTY)
        case _:
            return PENALTY


def lesson(metric: Metric, m_values: Sequence[int]) -> Lesson:
    """What a finished trial teaches the sampler: time over floor at each of `m_values`, from its record.

    A failed trial teaches its penalty at every M.
    """

    def ratios(trial: FrozenTrial, value: float) -> list[float]:
        if value >= PENALTY:
            return [value] * len(m_values)
        record = from_json(trial.user_attrs[RECORD_ATTR])
        return [floor_ratio(record, metric, [m]) for m in m_values]

    return ratios

"""Measure the winners again: a sweep's own measurement of its winner is the luckiest of many.

Every round measures all finalists and the baseline once, in a new random order, so that whatever drifts
meanwhile (clocks, temperature) meets them alike. The records have the role `confirmation`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import itemgetter

import numpy as np
import optuna
from tqdm import tqdm

from harness.record import Outcome, ParamValue, TrialRecord
from sweeps.job import Job, Workshop
from sweeps.measuring import MeasuringThreads
from sweeps.objective import Metric
from sweeps.space import config_id
from sweeps.stop import StopRequest


def finalists(
    records: Iterable[TrialRecord], count: int, metric: Metric, m_values: Sequence[int]
) -> list[dict[str, ParamValue]]:
    """The configs of the `count` fastest candidates at each M, each once: those the export chooses from.

    Unstable ones among them: measured again they may be steady, and what throttled them may be their speed.
    """
    timed = [
        record
        for record in records
        if record.role == "candidate" and record.outcome in (Outcome.OK, Outcome.UNSTABLE)
    ]
    chosen = {}
    for m in m_values:
        times_us = [
            ((at.cold if metric == "cold" else at.warm).median_us, record.config)
            for record in timed
            if (at := record.at(m))
        ]
        for _, config in sorted(times_us, key=itemgetter(0))[:count]:
            chosen[config_id(config)] = dict(config)
    return list(chosen.values())


def rounds_left(records: Iterable[TrialRecord], jobs: Iterable[Job], rounds: int) -> int:
    """How many rounds are left for these jobs together.

    One newcomer means all rounds again for all: only measurements made side by side decide between them.
    """
    done = Counter(
        (record.family, config_id(record.config)) for record in records if record.role == "confirmation"
    )
    fewest = min((done[job.family.name, config_id(job.params)] for job in jobs), default=rounds)
    return max(0, rounds - fewest)


def compiled(workshop: Workshop, jobs: Iterable[Job]) -> list[Job]:
    """The jobs with their artifacts, hits in the cache; a baseline may be one that does not compile."""
    begun = [(job, workshop.compile(job)) for job in jobs]
    ended = [replace(job, compiled=future.result()) for job, future in begun]
    return [job for job in ended if job.compiled and job.compiled.artifact]


def confirm(
    study: optuna.Study, workshop: Workshop, jobs: Sequence[Job], rounds: int, stop: StopRequest
) -> None:
    """Measure each compiled job `rounds` times, interleaved, and store the records."""
    order = np.random.default_rng(workshop.seed)
    with (
        MeasuringThreads(study, workshop, stop) as measuring,
        tqdm(total=rounds * len(jobs), desc="confirming", disable=None, dynamic_ncols=True) as bar,
    ):
        for round_ in range(rounds):
            for index in order.permutation(len(jobs)):
                future = measuring.submit(replace(jobs[index], seed=jobs[index].seed + round_))
                measuring.settle(future)
                if future.result() is None:
                    return
                bar.update()

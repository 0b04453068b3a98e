"""The driver: ask, compile, measure, tell, until the budget or the space is used up.

    ask --> compile pool (several in flight) --> measuring threads --> store the record --> tell

Candidates are asked ahead of measuring, so that compiled ones queue for the executor and the GPU never waits
for the main thread: a measuring thread (one for a GPU, one for each lane of the simulator) takes the next in
the order in which compiles end, while the main thread asks and tells. It stores each record before it takes
the next, some milliseconds in seconds, so that a kill never costs more than the trials in flight. Without an
executor the same sweep compiles everything and runs nothing.

Whatever stops a sweep, what is being measured is waited for and recorded; the trials behind it are
released, to be asked first by the next run with their artifacts in the cache. When the process is killed
instead, `store.recover` does the same at the next start; what was in flight is measured again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from typing import Any

import optuna
from optuna.trial import TrialState

from harness.compile_result import CompileResult
from harness.record import Outcome, ParamValue, Source, TrialRecord
from kernels.family import KernelFamily
from sweeps import store
from sweeps.confirm import compiled, confirm, finalists, rounds_left
from sweeps.job import Job, Workshop
from sweeps.measuring import MeasuringThreads
from sweeps.objective import told_value
from sweeps.progress import Progress
from sweeps.sampler import SnappingSampler
from sweeps.space import Space, config_id
from sweeps.spec import SweepSpec
from sweeps.stop import POLL_S, StopRequest

# Asked and not told: enough that every worker has the next at hand, and no more than this while measuring,
# because TPE proposes on what has been told. A config compiles in 1 to 3 s, and takes longer to measure.
AHEAD_PER_WORKER = 2
MAX_AHEAD_OF_MEASURING = 8


class Ending(StrEnum):
    """Why a search ended."""

    TRIALS = "the budget of trials is used up"
    MINUTES = "the time budget is used up"
    EXHAUSTED = "every legal config has been tried"
    STOPPED = "stopped on request; the same command goes on from here"


class Driver:
    """One run of a sweep; `run` may be called once. `baselines` are measured beside the candidates."""

    def __init__(
        self,
        spec: SweepSpec,
        space: Space,
        study: optuna.Study,
        sampler: SnappingSampler,
        workshop: Workshop,
        *,
        baselines: Sequence[tuple[KernelFamily, dict[str, ParamValue]]],
        stop: StopRequest,
    ) -> None:
        self._spec = spec
        self._space = space
        self._study = study
        self._sampler = sampler
        self._workshop = workshop
        self._baselines = baselines
        self._stop = stop
        self._distributions = space.distributions()
        self._pending: dict[Future[Any], Job] = {}
        self._asked = 0  # configs with a record, or on their way to one
        self._left = 0  # configs that can still be asked; nobody else asks (see `store.sole_sweeper`)
        self._own_s = 0.0
        self._told = 0

    @property
    def overhead_ms(self) -> float:
        """The tuner's own time per trial of this run: asking, submitting, recording and telling."""
        return 1e3 * self._own_s / max(1, self._told)

    def run(self) -> Ending:
        """Search, then confirm the finalists; returns why the search ended. Raises `ExecutorError` when
        the executor itself breaks; everything told until then is stored."""
        store.recover(self._study, self._value, len(self._distributions))
        known = store.records(self._study)
        candidates = [(each, self._value(each)) for each in known if each.role == "candidate"]
        self._asked = len(candidates)
        self._sampler.load(self._study)
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        self._left = len(waiting) + len(self._sampler.unseen)
        total = min(self._spec.search.trials or len(self._space), len(self._space))
        with (
            MeasuringThreads(self._study, self._workshop, self._stop) as self._measuring,
            Progress(total, candidates) as self._progress,
        ):
            if self._workshop.facts.source is Source.MODELLED:
                # The simulator takes many seconds for each: the first results are those of good candidates.
                self._ask_ahead()
            recorded = {(each.family, config_id(each.config)) for each in known if each.role == "baseline"}
            for family, params in self._baselines:
                if (family.name, config_id(params)) not in recorded:
                    self._start(Job(family, params, "baseline", seed=0))
            ending = self._search()
        if self._told:
            self._study.set_user_attr("overhead_ms", round(self.overhead_ms, 3))
        if ending is not Ending.STOPPED and self._workshop.executor is not None:
            self._confirm()
        return Ending.STOPPED if self._stop.asked else ending

    def _search(self) -> Ending:
        minutes = self._spec.search.minutes
        deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
        try:
            while True:
                if self._stop.asked:
                    return Ending.STOPPED
                if time.monotonic() > deadline:
                    return Ending.MINUTES
                with self._own_time():
                    ending = self._ask_ahead()
                if ending is not None and not self._pending:
                    return ending
                done, _ = wait(self._pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
                with self._own_time():
                    for future in [future for future in self._pending if future in done]:
                        self._advance(self._pending.pop(future), future)
        finally:
            self._drain()

    def _ask_ahead(self) -> Ending | None:
        """Ask and submit as many as may be in flight; returns why nothing more is to be asked, if so."""
        ahead = AHEAD_PER_WORKER * self._workshop.pool.workers
        if self._workshop.executor is not None:
            ahead = min(ahead, MAX_AHEAD_OF_MEASURING)
        while len(self._pending) < ahead:
            if self._spec.search.trials is not None and self._asked >= self._spec.search.trials:
                return Ending.TRIALS
            if not self._left:
                return Ending.EXHAUSTED
            trial = self._study.ask(self._distributions)
            self._asked += 1
            self._left -= 1
            self._start(Job(self._space.family, trial.params, "candidate", seed=trial.number, trial=trial))
        return None

    def _start(self, job: Job) -> None:
        # The sampler asks legal configs only; one that was released may have become illegal since.
        if (reason := self._workshop.illegal_reason(job)) is not None:
            self._finish(job, self._workshop.record(job, illegal=reason))
        else:
            self._pending[self._workshop.compile(job)] = job

    def _advance(self, job: Job, ended: Future[Any]) -> None:
        try:
            result: CompileResult | TrialRecord | None = ended.result()
        except Exception:
            self._release(job)
            raise
        if result is None:
            self._release(job)
        elif isinstance(result, TrialRecord):
            self._tell(job, result)
        elif result.artifact is None or self._workshop.executor is None:
            self._finish(job, self._workshop.record(replace(job, compiled=result)))
        else:
            job = replace(job, compiled=result)
            self._pending[self._measuring.submit(job)] = job

    def _finish(self, job: Job, record: TrialRecord) -> None:
        store.keep(self._study, job.trial, record)
        self._tell(job, record)

    def _tell(self, job: Job, record: TrialRecord) -> None:
        if job.trial is not None:
            value = self._value(record)
            store.tell(self._study, job.trial.number, value)
            self._told += 1
            self._progress.count(record, value)
        elif record.outcome not in (Outcome.OK, Outcome.UNSTABLE, Outcome.COMPILED):
            self._progress.say(f"baseline {record.family}: {record.outcome}: {record.reason}")

    def _drain(self) -> None:
        """End what is pending: record the trial that is being measured, release those behind it."""
        while self._pending:
            future, job = self._pending.popitem()
            if not future.cancel() and job.compiled is not None:
                self._measuring.settle(future)
                self._advance(job, future)
            else:
                self._release(job)

    def _release(self, job: Job) -> None:
        if job.trial is not None:
            store.release(self._study, job.trial)

    def _value(self, record: TrialRecord) -> float | None:
        return told_value(record, self._spec.objective.metric, self._spec.objective_m_values)

    def _confirm(self) -> None:
        known = store.records(self._study)
        winners = finalists(
            known, self._spec.confirm.finalists, self._spec.objective.metric, self._spec.m_values
        )
        if not winners:
            return
        entrants = [*((self._space.family, params) for params in winners), *self._baselines]
        # Seeds of their own, in front of any trial's.
        jobs = compiled(
            self._workshop,
            [Job(family, params, "confirmation", seed=500_000) for family, params in entrants],
        )
        confirm(
            self._study,
            self._workshop,
            jobs,
            rounds_left(known, jobs, self._spec.confirm.rounds),
            self._stop,
        )

    @contextmanager
    def _own_time(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._own_s += time.perf_counter() - start

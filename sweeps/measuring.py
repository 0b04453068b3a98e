"""The measuring threads, one for each lane of the executor: a GPU has one, which nothing may disturb.

In each, one job comes after the other, and its record is stored before the next begins.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

import optuna

from harness.executor import ExecutorError
from harness.record import Outcome, TrialRecord
from sweeps import store
from sweeps.job import Job, Workshop
from sweeps.stop import POLL_S, StopRequest


class MeasuringThreads:
    """Begins jobs in the order in which they are submitted. A job's result is its record, stored already,
    or None when the sweep was to stop before it ended; `ExecutorError` when the executor itself broke."""

    def __init__(self, study: optuna.Study, workshop: Workshop, stop: StopRequest) -> None:
        self._study = study
        self._workshop = workshop
        self._stop = stop
        lanes = workshop.executor.lanes if workshop.executor is not None else 1
        self._threads = ThreadPoolExecutor(lanes, thread_name_prefix="measure")

    def submit(self, job: Job) -> Future[TrialRecord | None]:
        return self._threads.submit(self._measure, job)

    def settle(self, future: Future[TrialRecord | None]) -> None:
        """Wait until `future` is done; a second stop request ends what is being measured."""
        while not future.done():
            wait([future], timeout=POLL_S)
            if self._stop.now and self._workshop.executor is not None:
                self._workshop.executor.close()

    def _measure(self, job: Job) -> TrialRecord | None:
        if self._stop.asked:
            return None
        try:
            evaluation = self._workshop.measure(job)
        except ExecutorError:
            if self._stop.now:
                return None
            raise
        if self._stop.now and evaluation.outcome is Outcome.CRASHED:
            return None  # its worker was killed: what came of it says nothing about the config
        record = self._workshop.record(job, evaluation)
        store.keep(self._study, job.trial, record)
        return record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

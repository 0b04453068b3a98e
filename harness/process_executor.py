"""An executor that runs candidates in a worker process of their own and replaces it when one kills it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.artifact import Artifact
from harness.executor import Evaluation, Executor, ExecutorError, MeasurePlan
from harness.oneline import one_line
from harness.protocol import (
    Broken,
    Checked,
    Evaluate,
    Finished,
    Measured,
    MeasureRates,
    Phase,
    RatesMeasured,
    Ready,
)
from harness.record import CheckResult, DeviceFacts, Measurement, Outcome, Rates, Source
from harness.worker_process import WorkerDied, WorkerProcess

# Importing torch and creating a CUDA context take 5 to 20 s on a cold file system.
START_TIMEOUT_S = 180.0
RATES_TIMEOUT_S = 120.0
# A device may need a moment after the process of an endless kernel was killed.
RESTARTS = 3
RESTART_PAUSE_S = 2.0


@dataclass
class _Progress:
    """What the worker has told about the candidate so far: kept whatever becomes of the rest."""

    phase: str = "start"
    check: CheckResult | None = None
    measurements: list[Measurement] = field(default_factory=list)


class ProcessExecutor(Executor):
    """Drives `runner` (a `harness.runner.Runner` as `module:Class`) in a child process.

    After a candidate that ended badly the worker is replaced at once, and the new one starts in the
    background. `environment` are variables that it gets besides this process's. Raises `ExecutorError` when
    the first worker cannot use its device. One thread at a time evaluates; any other may close it meanwhile.
    """

    def __init__(
        self, runner: str, *, name: str, source: Source, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.source = source
        self._runner = runner
        self._environment = environment or {}
        self._rates: Rates | None = None
        self._ready = False
        self._unusable = ""
        self._using = threading.RLock()  # held by whoever talks to the worker
        self._starting = threading.Lock()  # no worker starts once the executor is closed
        self._worker = WorkerProcess(runner, self._environment)
        try:
            self._device = self._wait_until_ready()
        except ExecutorError:
            self.close()
            raise

    def device(self) -> DeviceFacts:
        return self._device

    def rates(self) -> Rates:
        with self._using:
            if self._rates is None:
                self._rates = self._measured_rates()
            return self._rates

    def evaluate(self, artifact: Artifact, plan: MeasurePlan) -> Evaluation:
        with self._using:
            return self._evaluate(artifact, plan)

    def close(self) -> None:
        with self._starting:
            self._unusable = self._unusable or "the executor is closed"
            self._worker.end()  # an evaluation that waits for it ends with it
        with self._using:
            self._worker.kill()

    def _measured_rates(self) -> Rates:
        try:
            worker = self._usable_worker()
            worker.send(MeasureRates())
            reply = worker.receive(RATES_TIMEOUT_S)
        except (WorkerDied, TimeoutError) as error:
            self._replace()
            raise ExecutorError(f"cannot measure the device's rates: {error or 'no answer'}") from None
        assert isinstance(reply, RatesMeasured)
        return reply.rates

    def _evaluate(self, artifact: Artifact, plan: MeasurePlan) -> Evaluation:
        rates = self.rates() if plan.m_values else None
        worker = self._usable_worker()
        began = time.perf_counter()
        progress = _Progress()
        try:
            worker.send(Evaluate(str(artifact.folder.absolute()), plan, rates))
            finished = self._follow(worker, progress, plan.timeout_s)
        except TimeoutError:
            reason = f"no end within {plan.timeout_s:g} s (in {progress.phase})"
            finished = Finished(Outcome.TIMEOUT, reason)
        except WorkerDied as death:
            finished = Finished(Outcome.CRASHED, one_line(f"{death} (in {progress.phase})"))
        run_s = time.perf_counter() - began
        if finished.outcome not in (Outcome.OK, Outcome.UNSTABLE):
            self._replace()
        return Evaluation(
            finished.outcome, finished.reason, progress.check, tuple(progress.measurements), run_s
        )

    @staticmethod
    def _follow(worker: WorkerProcess, progress: _Progress, timeout_s: float) -> Finished:
        while True:
            reply = worker.receive(timeout_s)
            match reply:
                case Finished():
                    return reply
                case Phase():
                    progress.phase = reply.name
                case Checked():
                    progress.check = reply.check
                case Measured():
                    progress.measurements.append(reply.measurement)

    def _usable_worker(self) -> WorkerProcess:
        if not self._unusable and not self._worker.alive:
            self._replace()  # it died between two candidates: neither's fault
        for attempt in range(RESTARTS):
            if self._unusable:
                raise ExecutorError(f"{self.name}: {self._unusable}")
            if self._ready:
                break
            try:
                self._wait_until_ready()
            except ExecutorError:
                if attempt == RESTARTS - 1:
                    raise
                time.sleep(RESTART_PAUSE_S)
                self._replace()
        return self._worker

    def _wait_until_ready(self) -> DeviceFacts:
        try:
            reply = self._worker.receive(START_TIMEOUT_S)
        except TimeoutError:
            raise ExecutorError(f"{self.name}: no worker within {START_TIMEOUT_S:g} s") from None
        except WorkerDied as death:
            raise ExecutorError(f"{self.name}: the worker ended at its start: {death}") from None
        if isinstance(reply, Broken):
            raise ExecutorError(f"{self.name}: {reply.reason}")
        assert isinstance(reply, Ready)
        self._ready = True
        return reply.device

    def _replace(self) -> None:
        try:
            self._worker.kill()
        except TimeoutError as error:
            # Said at the next use: the candidate that did this still gets its record.
            self._unusable = f"{error}: the device needs a reset"
            return
        self._ready = False
        with self._starting:
            if not self._unusable:
                self._worker = WorkerProcess(self._runner, self._environment)

"""Several executors as one, for a device that can be had more than once: the simulator, on several cores."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from harness.artifact import Artifact
from harness.executor import Evaluation, Executor, MeasurePlan
from harness.record import DeviceFacts, Rates


class ExecutorPool(Executor):
    """`lanes` executors that `make` makes, started together. As many threads may evaluate at a time."""

    def __init__(self, make: Callable[[], Executor], lanes: int) -> None:
        with ThreadPoolExecutor(lanes) as starters:
            started = [starters.submit(make) for _ in range(lanes)]
        failed = next((error for future in started if (error := future.exception())), None)
        self._executors = [future.result() for future in started if not future.exception()]
        if failed is not None:
            self.close()
            raise failed
        self.lanes = lanes
        self.name, self.source = self._executors[0].name, self._executors[0].source
        self._free: SimpleQueue[Executor] = SimpleQueue()
        for executor in self._executors:
            self._free.put(executor)

    def device(self) -> DeviceFacts:
        return self._executors[0].device()

    def rates(self) -> Rates:
        return self._executors[0].rates()

    def evaluate(self, artifact: Artifact, plan: MeasurePlan) -> Evaluation:
        executor = self._free.get()
        try:
            return executor.evaluate(artifact, plan)
        finally:
            self._free.put(executor)

    def close(self) -> None:
        for executor in self._executors:
            executor.close()

"""Several executors as one: they work at the same time, and a lane that cannot start leaves nothing open."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Barrier

import pytest

from harness.executor import Executor, ExecutorError, MeasurePlan
from harness.executor_pool import ExecutorPool
from harness.record import Outcome
from tests.sweeps.toy_driver import ALL
from tests.sweeps.toys import ToyExecutor, toy_artifact

LANES = 3


def test_every_lane_evaluates_at_the_same_time() -> None:
    meeting = Barrier(LANES)  # passed only when all lanes are in an evaluation

    def make() -> Executor:
        return ToyExecutor(before=lambda params: meeting.wait(timeout=30) and None)

    with ExecutorPool(make, LANES) as pool, ThreadPoolExecutor(LANES) as threads:
        plan = MeasurePlan(m_values=(1,))
        found = list(threads.map(lambda config: pool.evaluate(toy_artifact(config), plan), ALL[: 2 * LANES]))
    assert [evaluation.outcome for evaluation in found] == [Outcome.OK] * 2 * LANES
    assert pool.lanes == LANES


def test_a_lane_that_cannot_start_closes_the_others() -> None:
    number = count()
    closed: list[Executor] = []

    class Closes(ToyExecutor):
        def close(self) -> None:
            closed.append(self)

    def make() -> Executor:
        if next(number) == 1:
            raise ExecutorError("no device")
        return Closes()

    with pytest.raises(ExecutorError, match="no device"):
        ExecutorPool(make, LANES)
    assert len(closed) == LANES - 1

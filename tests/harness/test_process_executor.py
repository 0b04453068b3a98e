"""The process executor passes the contract on a stand-in, and keeps what a dying worker has told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import wait

import pytest

from harness.artifact import Artifact
from harness.executor import Executor, ExecutorError
from harness.process_executor import ProcessExecutor
from harness.record import DeviceFacts, Outcome, Source
from harness.worker_process import WorkerProcess
from tests.harness.executor_contract import PLAN, Candidates, ExecutorContract
from tests.harness.standin import StandinConfig, StandinPool, StandinRunner, standin_executor


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with standin_executor() as executor:
        yield executor


@pytest.fixture
def make() -> Callable[[], Executor]:
    return standin_executor


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    pool = StandinPool(tmp_path_factory.mktemp("cache"))

    def artifact(fault: str) -> Artifact:
        return pool.artifact(StandinConfig(fault=fault))

    return artifact


class TestContract(ExecutorContract):
    pass


def test_what_was_measured_before_a_crash_is_kept(executor: Executor, candidate: Candidates) -> None:
    evaluation = executor.evaluate(candidate("segfault_while_timed"), PLAN)
    assert evaluation.outcome is Outcome.CRASHED
    assert "timing at M = 16" in evaluation.reason
    assert evaluation.check is not None
    assert [measurement.m for measurement in evaluation.measurements] == [1]


def test_an_unsteady_measurement_is_kept_and_marked(executor: Executor, candidate: Candidates) -> None:
    evaluation = executor.evaluate(candidate("unsteady"), PLAN)
    assert (evaluation.outcome, evaluation.reason) == (Outcome.UNSTABLE, "unsteady at M = 1, 16")
    assert [measurement.steady for measurement in evaluation.measurements] == [False, False]


def test_a_device_error_is_one_line(executor: Executor, candidate: Candidates) -> None:
    evaluation = executor.evaluate(candidate("error"), PLAN)
    assert evaluation.outcome is Outcome.CRASHED
    cuda_error = "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert evaluation.reason == f"{cuda_error} (in check)"


def test_a_worker_that_dies_between_candidates_is_nobodys_fault(
    executor: Executor, candidate: Candidates
) -> None:
    assert isinstance(executor, ProcessExecutor)
    process = executor._worker._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert executor.evaluate(candidate("none"), PLAN).outcome is Outcome.OK


def test_the_checks_seed_is_the_plans(executor: Executor, candidate: Candidates) -> None:
    seeds = set()
    for seed in (1, 2):
        check = executor.evaluate(candidate("none"), replace(PLAN, m_values=(), seed=seed)).check
        assert check is not None
        seeds.add(tuple(case.seed for case in check.cases))
    assert len(seeds) == 2


def test_closing_ends_what_another_thread_evaluates(
    candidate: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late that thread is to notice: nothing that it still looks at is closed, no worker comes."""
    obituary = WorkerProcess._obituary

    def late(process: WorkerProcess) -> str:
        time.sleep(0.3)
        return obituary(process)

    monkeypatch.setattr(WorkerProcess, "_obituary", late)
    executor = standin_executor()
    with ThreadPoolExecutor(1) as threads:
        evaluation = threads.submit(executor.evaluate, candidate("endless"), PLAN)
        time.sleep(0.3)
        executor.close()
        assert evaluation.result(30).outcome is Outcome.CRASHED
        assert "killed by SIGKILL" in evaluation.result().reason
        assert not executor._worker.alive
        with pytest.raises(ExecutorError, match="closed"):
            threads.submit(executor.evaluate, candidate("none"), PLAN).result(30)


class NoDeviceRunner(StandinRunner):
    def __init__(self) -> None:
        raise RuntimeError("no usable device")


class DyingRunner(StandinRunner):
    def device(self) -> DeviceFacts:
        os._exit(3)


@pytest.mark.parametrize(
    ("runner", "message"),
    [("NoDeviceRunner", "no usable device"), ("DyingRunner", "exit status 3"), ("PLAN", "not a Runner")],
)
def test_a_runner_that_cannot_start_is_an_executor_error(runner: str, message: str) -> None:
    with pytest.raises(ExecutorError, match=f"^broken: .*{message}$"):
        ProcessExecutor(f"tests.harness.test_process_executor:{runner}", name="broken", source=Source.NONE)


ORPHANING_PARENT = """
import os, signal, sys
from tests.harness.standin import standin_executor
executor = standin_executor()
print(executor._worker._process.pid, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_worker_ends_with_its_parent() -> None:
    command = [sys.executable, "-c", ORPHANING_PARENT]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        parent.stdin.write(b"\n")
    # A process descriptor becomes readable when its process ends.
    assert wait([worker], timeout=30), "the worker outlives its parent"
    os.close(worker)

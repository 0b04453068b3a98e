"""Choosing the executor that a user named, or the best there is."""

from __future__ import annotations

import os

from harness.device import visible_devices
from harness.executor import Executor, ExecutorError
from harness.executor_pool import ExecutorPool
from harness.process_executor import ProcessExecutor
from harness.record import Source
from harness.toolchain import TARGETS, check_target

CUDA_RUNNER = "harness.cuda_runner:CudaRunner"
SIMULATOR_RUNNERS = {
    "sm_90a": "harness.simulator.runner:Sm90aRunner",
    "sm_100a": "harness.simulator.runner:Sm100aRunner",
    "sm_103a": "harness.simulator.runner:Sm103aRunner",
}
# Its matrices are small and other processes share the cores: a team of threads would mostly wait for itself.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
MAX_SIMULATORS = 16  # of 0.8 GB each on Hopper configs, 1.6 on Blackwell's
EXECUTORS = ("auto", "cuda", "simulator")


def make_executor(name: str, target: str) -> Executor:
    """The executor called `name` for artifacts of `target`.

    "auto" is "cuda" where a device for `target` is visible, else "simulator". Raises `ExecutorError` where
    the one that is named cannot run them, and for a device that is there and does not work: that is worth
    knowing.
    """
    check_target(target)
    if name not in EXECUTORS:
        raise ExecutorError(f"unknown executor {name!r}: known are {', '.join(EXECUTORS)}")
    if name != "simulator":
        found = _cuda(target)
        if isinstance(found, Executor):
            return found
        if name == "cuda":
            raise ExecutorError(found)
    return _simulator(target)


def _simulator(target: str) -> Executor:
    def make() -> Executor:
        return ProcessExecutor(
            SIMULATOR_RUNNERS[target], name="simulator", source=Source.MODELLED, environment=ONE_THREAD
        )

    return ExecutorPool(make, min(len(os.sched_getaffinity(0)), MAX_SIMULATORS))


def _cuda(target: str) -> Executor | str:
    """The GPU for `target`, or one line that says why there is none and what to do."""
    major, minor = TARGETS[target]
    elsewhere = (
        f"run this on a host with a GPU of compute capability {major}.{minor}, "
        f"or pack the artifacts with `routertune pack` and measure them there"
    )
    if not visible_devices():
        return f"no NVIDIA GPU is visible: {elsewhere}"
    executor = ProcessExecutor(CUDA_RUNNER, name="cuda", source=Source.MEASURED)
    device = executor.device()
    if device.compute_capability != f"{major}.{minor}":
        executor.close()
        return (
            f"{device.name} has compute capability {device.compute_capability}, "
            f"{target} needs {major}.{minor}: {elsewhere}"
        )
    return executor

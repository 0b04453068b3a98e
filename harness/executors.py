"""Choosing the executor that a user named, or the best there is."""

from __future__ import annotations

from dataclasses import dataclass

from harness.device import visible_devices
from harness.executor import Executor, ExecutorError
from harness.process_executor import ProcessExecutor
from harness.record import Source
from harness.toolchain import TARGETS, check_target

CUDA_RUNNER = "harness.cuda_runner:CudaRunner"
EXECUTORS = ("auto", "cuda")


@dataclass(frozen=True)
class NoExecutor:
    """Nothing here can run code for the target; `reason` is one line that says why and what to do."""

    reason: str


def make_executor(name: str, target: str) -> Executor | NoExecutor:
    """The executor called `name` for artifacts of `target`.

    "cuda" raises `ExecutorError` where it cannot run them. "auto" returns `NoExecutor` where there is no
    device for `target`, and raises for a device that is there and does not work: that is worth knowing.
    """
    check_target(target)
    if name not in EXECUTORS:
        raise ExecutorError(f"unknown executor {name!r}: known are {', '.join(EXECUTORS)}")
    found = _cuda(target)
    if isinstance(found, NoExecutor) and name == "cuda":
        raise ExecutorError(found.reason)
    return found


def _cuda(target: str) -> Executor | NoExecutor:
    major, minor = TARGETS[target]
    elsewhere = (
        f"run this on a host with a GPU of compute capability {major}.{minor}, "
        f"or pack the artifacts with `routertune pack` and measure them there"
    )
    if not visible_devices():
        return NoExecutor(f"no NVIDIA GPU is visible: {elsewhere}")
    executor = ProcessExecutor(CUDA_RUNNER, name="cuda", source=Source.MEASURED)
    device = executor.device()
    if device.compute_capability != f"{major}.{minor}":
        executor.close()
        return NoExecutor(
            f"{device.name} has compute capability {device.compute_capability}, "
            f"{target} needs {major}.{minor}: {elsewhere}"
        )
    return executor

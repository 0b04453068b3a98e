"""Running a recorded launch: which CTAs are resident together, one wave after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.simulator.global_memory import GlobalMemory
from harness.simulator.launch import Launch
from harness.simulator.loaded import LoadedKernel, load
from harness.simulator.machine import Machine
from harness.simulator.recorder import Recorder
from harness.simulator.timing import Units

# CTAs that one machine holds: enough for numpy to be busy, few enough for their shared memory to fit.
RESIDENT = 528
# The search for races remembers every agent's last read of every word: some 10 MB for each CTA.
RESIDENT_WITH_RACES = 16


@dataclass(frozen=True)
class Program:
    """An artifact's host code and kernels, loaded once."""

    recorder: Recorder
    kernels: dict[str, LoadedKernel]
    races: bool = False  # also look for races in shared memory, at a price in time

    @classmethod
    def of_folder(cls, folder: Path, races: bool = False) -> Program:
        return cls(Recorder.of_artifact(folder), load((folder / "kernel.ptx").read_text()), races)

    def __call__(self, *args: Any) -> None:
        """Launch on CPU tensors, as the artifact's launcher would on CUDA tensors."""
        launches = self.recorder.record(args)
        memory = memory_of(args)
        for launch in launches:
            execute(self.kernels[launch.kernel], launch, memory, self.races)


def memory_of(tensors: Iterable[Any]) -> GlobalMemory:
    """The memory of these tensors, each under its argument's number."""
    memory = GlobalMemory()
    for number, tensor in enumerate(tensors):
        memory.register(f"argument {number}", tensor.data_ptr(), tensor.numel() * tensor.element_size())
    return memory


def execute(kernel: LoadedKernel, launch: Launch, memory: GlobalMemory, races: bool = False) -> None:
    """Run every CTA of a launch, functionally."""
    clusters = launch.ctas // launch.cluster_size
    at_once = max(1, (RESIDENT_WITH_RACES if races else RESIDENT) // launch.cluster_size)
    for first in range(0, clusters, at_once):
        chosen = np.arange(first, min(clusters, first + at_once))
        Machine(kernel, launch, memory, chosen, Units(kernel.target), races=races).run()

"""A launch's modelled time: the machine run for its clocks alone, without the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from harness.simulator.machine import Machine
from harness.simulator.run import RESIDENT, Program, memory_of
from harness.simulator.timing import Units


class Model:
    """Times of one program's launches."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def microseconds(self, args: Sequence[torch.Tensor], *, warm: bool) -> float:
        """The time of the launches that `args` leads to, one after the other."""
        memory = memory_of(args)
        total = 0.0
        for launch in self._program.recorder.record(args):
            kernel = self._program.kernels[launch.kernel]
            clusters = launch.ctas // launch.cluster_size
            at_once = max(1, RESIDENT // launch.cluster_size)
            for first in range(0, clusters, at_once):
                chosen = np.arange(first, min(clusters, first + at_once))
                units = WarmUnits(kernel.target) if warm else Units(kernel.target)
                end = Machine(kernel, launch, memory, chosen, units, functional=False).run()
                total += float(end.max()) / kernel.target.clock_mhz
        return total


class WarmUnits(Units):
    """Everything that is loaded lies in the L2."""

    def is_fresh(self, tensor: int, corners: np.ndarray) -> np.ndarray:
        return np.zeros(len(corners), np.bool_)

"""A micro in the simulator: the same columns that the device measured."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from harness.artifact import ENTRY
from harness.compile import link, prepare_process
from harness.simulator.grids import Grids
from harness.simulator.loaded import load
from harness.simulator.machine import Machine
from harness.simulator.memory_path import Wave
from harness.simulator.microbench.micro import (
    OUT_COLUMNS,
    PARAMETERS,
    SOURCE_COLUMNS,
    SOURCE_ROWS,
    TARGET,
    Micro,
    Run,
)
from harness.simulator.recorder import Recorder
from harness.simulator.run import memory_of
from harness.simulator.target import Target
from harness.simulator.timing import Units, block_costs


class Simulated:
    """One compiled micro."""

    def __init__(self, micro: Micro) -> None:
        prepare_process(TARGET)
        from harness.simulator.microbench.kernel import compile_micro

        compiled = compile_micro(micro)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "kernel.ptx").write_text(compiled.artifacts.PTX)
            compiled.export_to_c(str(folder / "launch.o"), function_name=ENTRY)
            link(folder / "launch.o", folder / "launch.so")
            self.recorder = Recorder.of_artifact(folder)
        self.kernels = load(compiled.artifacts.PTX)
        # Never touched but where tiles are read: the rest of it takes no memory.
        self.source = torch.empty(SOURCE_ROWS, SOURCE_COLUMNS, dtype=torch.bfloat16)

    def cycles(self, run: Run, target: Target, column: int = 0) -> float:
        """The largest number that a CTA writes to `column`."""
        out = torch.zeros(run.ctas, OUT_COLUMNS, dtype=torch.int64)
        values = [*run.parameters, *[0] * (PARAMETERS - len(run.parameters))]
        arguments = [out, self.source, torch.tensor(values, dtype=torch.int32)]
        (launch,) = self.recorder.record(arguments)
        kernel = self.kernels[launch.kernel]
        kernel.costs = block_costs(kernel.program, target)
        clusters = launch.ctas // launch.cluster_size
        units = Units(target, Wave(clusters, clusters, warm=not run.flush))
        grids = Grids.of_launch(kernel, launch, memory_of(arguments))
        Machine(kernel, grids, np.arange(clusters), units, functional=False).run()
        return float(out[:, column].max())

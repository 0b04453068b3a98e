"""Measuring packed micros on a GPU host: every run of every micro, as the numbers that the kernels wrote."""

from __future__ import annotations

import json
import statistics
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness.device import DeviceMonitor
from harness.graph_timer import time_launches
from harness.launcher import load_library
from harness.simulator.microbench.catalogue import catalogue
from harness.simulator.microbench.micro import (
    OUT_COLUMNS,
    PARAMETERS,
    SOURCE_COLUMNS,
    SOURCE_ROWS,
    Micro,
    Run,
)

FLUSH_BYTES = 256 * 2**20  # over five times the L2
GRAPH_SAMPLES = 20
# Runs of so few CTAs are recorded whole, larger ones as minimum, median and maximum over the CTAs.
WHOLE_CTAS = 16
RECORDED_COLUMNS = 5


class Bench:
    """The device's buffers, allocated once."""

    def __init__(self) -> None:
        generator = torch.Generator("cuda").manual_seed(0)
        shape = (SOURCE_ROWS, SOURCE_COLUMNS)
        self.source = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
        self.source[: SOURCE_ROWS // 8].normal_(generator=generator)
        self.flush = torch.zeros(FLUSH_BYTES // 4, device="cuda")

    def measure(self, micro: Micro, run: Run, launch: Any) -> dict[str, Any]:
        """What one run gives: microseconds of graph launches, or the kernel's columns for each repeat."""
        out = torch.zeros(run.ctas, OUT_COLUMNS, dtype=torch.int64, device="cuda")
        values = [*run.parameters, *[0] * (PARAMETERS - len(run.parameters))]
        parameters = torch.tensor(values, dtype=torch.int32, device="cuda")
        call = partial(launch, out, self.source, parameters)
        if run.graph:
            call()
            return {"us": statistics.median(time_launches([call], GRAPH_SAMPLES))}
        repeats = []
        for _ in range(run.repeats + 1):
            if run.flush:
                self.flush.sum()
            call()
            torch.cuda.synchronize()
            repeats.append(out[:, :RECORDED_COLUMNS].cpu())
        # The first launch loads the code.
        kept = repeats[1:]
        if run.whole:
            return {"ctas": kept[-1].tolist()}
        return {"repeats": [_summary(one) for one in kept]}


def _summary(columns: torch.Tensor) -> list[Any]:
    if len(columns) <= WHOLE_CTAS:
        return [columns[:, :2].T.tolist()]
    ordered = columns[:, :2].sort(dim=0).values
    return [ordered[0].tolist(), ordered[len(ordered) // 2].tolist(), ordered[-1].tolist()]


def measure_all(folder: Path, commit: str) -> dict[str, Any]:
    """Every micro of the pack in `folder`, with the device's facts."""
    bench = Bench()
    monitor = DeviceMonitor()
    properties = torch.cuda.get_device_properties(0)
    facts = monitor.facts(name=properties.name)
    results: dict[str, Any] = {}
    began = time.perf_counter()
    for micro in catalogue():
        launch = load_library(folder / "launchers" / f"{micro.name}.so")
        runs: dict[str, Any] = {}
        for run in micro.runs:
            try:
                runs[run.name] = bench.measure(micro, run, launch)
            except Exception as error:  # a kernel that the device refuses costs its own numbers only
                runs[run.name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        results[micro.name] = runs
        print(micro.name, json.dumps(runs), flush=True)
    conditions = monitor.conditions()
    return {
        "schema": "routertune.microbench/1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "device": properties.name,
        "driver": facts.driver,
        "torch": torch.__version__,
        "sms": properties.multi_processor_count,
        "seconds": time.perf_counter() - began,
        "sm_clock_mhz": conditions.sm_clock_mhz,
        "memory_clock_mhz": conditions.memory_clock_mhz,
        "results": results,
    }

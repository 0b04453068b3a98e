"""One case: import the example, compile it without a GPU, execute it, and compare with the reference."""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.artifact import ENTRY, LAUNCHER
from harness.compile import PTX, link
from harness.oneline import one_line
from harness.simulator.errors import SimulationError
from harness.simulator.run import Program
from harness.simulator.witness.case import Case, Prepared
from harness.simulator.witness.dense import ACTIVE_CLUSTERS

# Where a checkout of NVIDIA/cutlass keeps the examples; they import their helpers from here.
EXAMPLES = Path("examples/python/CuTeDSL")
# What the simulator says of accesses to tensor memory that no fence orders.
UNFENCED = "and nothing orders the two"
# An instruction's list of registers, of no use in a line of a table.
_REGISTERS = re.compile(r"\{%\w+(, %\w+){4,}\}")


class Outcome(StrEnum):
    PASSED = "passed"
    WRONG = "wrong"
    SIMULATOR = "simulator"  # the simulator refused to go on; the reason is its error
    NOT_COMPILED = "not compiled"


@dataclass(frozen=True)
class Verdict:
    """What became of a case.

    `worst` is the greatest error in units of its bound. `strict`: it was executed under the rule that
    barriers order accesses to tensor memory only with a `tcgen05.fence`, else with that order implied
    (`Ordering`).
    """

    outcome: Outcome
    reason: str = ""
    worst: float | None = None
    strict: bool = True
    seconds: float = 0.0


def judge(case: Case) -> Verdict:
    """Compile and execute one case; the examples' folder must be importable (`examples_importable`)."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="routertune-witness-") as name:
        folder = Path(name)
        try:
            prepared = case.prepare(importlib.import_module(f"cute.{case.example.replace('/', '.')}"))
            _export(prepared.compiled, folder)
        except Exception as error:  # whatever the example, its arguments or the compiler object to
            return _failed(Outcome.NOT_COMPILED, error, began)
        strict = True
        fresh = [argument.clone() for argument in prepared.arguments]
        try:
            try:
                Program.of_folder(folder)(*prepared.arguments)
            except SimulationError as error:
                if UNFENCED not in str(error):
                    raise
                strict = False
                for argument, before in zip(prepared.arguments, fresh, strict=True):
                    argument.copy_(before)
                Program.of_folder(folder, implied_order=True)(*prepared.arguments)
        except SimulationError as error:
            return replace(_failed(Outcome.SIMULATOR, error, began), strict=strict)
    outcome, reason, worst = compare(prepared)
    return Verdict(outcome, reason, worst, strict, time.perf_counter() - began)


class _Gpu:
    """What the examples ask of the GPU that is not there: so few clusters that each takes several tiles."""

    def get_max_active_clusters(self, cluster_size: int) -> int:
        return ACTIVE_CLUSTERS

    def get_device_multiprocessor_count(self) -> int:
        return ACTIVE_CLUSTERS


def compare(prepared: Prepared) -> tuple[Outcome, str, float]:
    """(outcome, reason, greatest error in units of the bound)."""
    error = (prepared.result() - prepared.expected).abs()
    ratio = torch.where(error == 0, 0.0, error / prepared.bound).nan_to_num(nan=torch.inf)
    worst = float(ratio.max())
    if worst <= 1:
        return Outcome.PASSED, "", worst
    where = tuple(int(i) for i in np.unravel_index(int(ratio.argmax()), ratio.shape))
    found, wanted = float(prepared.result()[where]), float(prepared.expected[where])
    wrong = int((ratio > 1).sum())
    return Outcome.WRONG, f"{wrong} of {ratio.numel()}; at {where} {found:g} for {wanted:g}", worst


def examples_importable(checkout: Path) -> None:
    """Let this process import the examples of a checkout of NVIDIA/cutlass; raises `FileNotFoundError`.

    The process compiles for its target already. Examples that ask for the GPU's size get a stand-in's.
    """
    folder = checkout / EXAMPLES
    if not (folder / "cute").is_dir():
        raise FileNotFoundError(f"{folder}/cute: no examples there; name a checkout of NVIDIA/cutlass")
    sys.path.insert(0, str(folder))
    from cutlass.utils import hardware_info

    hardware_info.HardwareInfo = _Gpu


def _export(compiled: Any, folder: Path) -> None:
    (folder / PTX).write_text(compiled.artifacts.PTX)
    host_object = folder / "launch.o"
    compiled.export_to_c(str(host_object), function_name=ENTRY)
    link(host_object, folder / LAUNCHER)


def _failed(outcome: Outcome, error: Exception, began: float) -> Verdict:
    seconds = time.perf_counter() - began
    reason = _REGISTERS.sub("{...}", f"{type(error).__name__}: {error}")
    return Verdict(outcome, one_line(reason), seconds=seconds)

"""What a comparison of the simulator with a GPU found: schema and figures.

It crosses a file boundary, from `sweeps.agreement` to `results.plot_agreement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from scipy.stats import spearmanr

from harness.record import Provenance
from kernels.family import ParamValue

SCHEMA = "routertune.agreement/1"


@dataclass(frozen=True)
class Answered:
    """One router's answers on both machines at one M."""

    m: int
    ids_differ: int  # entries whose expert differs
    worst_weight_error: float  # relative to the GPU's weight, where the ids are equal
    seconds: float  # of CPU time, in the simulator


@dataclass(frozen=True)
class Timed:
    """Microseconds of one router at one M, inputs cold."""

    m: int
    measured_us: float
    modelled_us: float


@dataclass(frozen=True)
class Compared:
    """One config on both machines; `calibrates`: it may have been used to choose the table's values."""

    config: dict[str, ParamValue]
    calibrates: bool
    answers: tuple[Answered, ...]
    times: tuple[Timed, ...]
    model_seconds: float
    error: str = ""


@dataclass(frozen=True)
class Agreement:
    """Everything that was compared."""

    problem: str
    target: str
    device: str
    provenance: Provenance
    configs: tuple[Compared, ...]
    schema: str = SCHEMA


def read_agreement(path: Path) -> Agreement:
    """The comparison in `path`; raises `ValueError` for another schema."""
    agreement = msgspec.json.decode(path.read_bytes(), type=Agreement)
    if agreement.schema != SCHEMA:
        raise ValueError(f"{path}: schema {agreement.schema!r} is not {SCHEMA!r}")
    return agreement


def pairs(agreement: Agreement, m: int, calibrates: bool | None = None) -> list[tuple[float, float]]:
    """(measured, modelled) us of the configs at `m` tokens: all, or one half."""
    return [
        (t.measured_us, t.modelled_us)
        for config in agreement.configs
        if calibrates is None or config.calibrates == calibrates
        for t in config.times
        if t.m == m
    ]


def timed_m(agreement: Agreement) -> list[int]:
    """The M at which times were compared."""
    return sorted({t.m for config in agreement.configs for t in config.times})


def summary_lines(agreement: Agreement) -> list[str]:
    """The figures that the simulator is judged by."""
    answers = [answer for config in agreement.configs for answer in config.answers]
    agreeing = sum(
        1 for config in agreement.configs if config.answers and not any(a.ids_differ for a in config.answers)
    )
    lines = [
        f"{agreeing} of {sum(1 for c in agreement.configs if c.answers)} configs: every id equals the GPU's",
        f"largest relative weight error {max((a.worst_weight_error for a in answers), default=0.0):.2e}",
    ]
    named: list[tuple[str, bool | None]] = [*parts(agreement)]
    if len(named) > 1:
        named.insert(0, ("all", None))
    for name, wanted in named:
        lines += [f"{name}, M = {m}: {rank_line(pairs(agreement, m, wanted))}" for m in timed_m(agreement)]
    return lines


def parts(agreement: Agreement) -> list[tuple[str, bool]]:
    """Name and `calibrates` of the parts of the sample: two halves, or all of it as held out."""
    if any(config.calibrates for config in agreement.configs):
        return [("calibration half", True), ("other half", False)]
    return [("held out", False)]


def rank_line(found: Sequence[tuple[float, float]]) -> str:
    """Rank correlation, and how much slower than the best the model's choice is."""
    measured, modelled = np.array(found).T
    correlation = float(spearmanr(measured, modelled).statistic)
    chosen = measured[np.argmin(modelled)]
    error = np.median(np.abs(np.log(modelled / measured)))
    return (
        f"{len(found)} configs, Spearman {correlation:.3f}, the model's choice takes "
        f"{chosen / measured.min() - 1:+.1%} of the best, median |log ratio| {error:.3f}"
    )

"""A loaded study: what was swept, and the record of every trial, in the order of the trials.

Times from different sources or devices never meet: whatever aggregates speeds asks `timed_group` first, which
refuses more than one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from harness.record import Measurement, Outcome, Source, TrialRecord

STUDY_SCHEMA = "routertune.study/1"

# The roles of a record. A confirmation is a finalist measured again, interleaved with the other finalists.
CANDIDATE = "candidate"
BASELINE = "baseline"
CONFIRMATION = "confirmation"

# What a config's columns are called in a table: `config.<parameter>`.
CONFIG_PREFIX = "config."

# What only a trial that was run can end as.
RAN = frozenset({Outcome.OK, Outcome.WRONG_RESULT, Outcome.CRASHED, Outcome.TIMEOUT, Outcome.UNSTABLE})

Objective = Literal["cold", "warm"]


class ResultsError(ValueError):
    """Results that cannot be read or must not be combined; the message is one line for a person."""


@dataclass(frozen=True)
class StudyInfo:
    """What a study is about, as the sweep stored it. `space_size` and `legal_size` are 0 where unknown.

    The sweep minimized the geometric mean of time / floor over `objective_m_values`; empty: all M.
    """

    name: str
    family: str
    problem: dict[str, Any]  # RouterProblem as a mapping
    target: str
    executor: str
    source: Source
    m_values: tuple[int, ...]
    created: str = ""  # ISO 8601, UTC
    command: str = ""
    space_size: int = 0
    legal_size: int = 0
    objective: Objective = "cold"
    objective_m_values: tuple[int, ...] = ()
    schema: str = STUDY_SCHEMA

    @property
    def minimized_over(self) -> tuple[int, ...]:
        return self.objective_m_values or self.m_values


class Group(NamedTuple):
    """Whose clock times are from, and of what: the only times that may be compared share one."""

    source: Source
    device: str
    quantized: bool  # whether the quantization of activations is in the times

    def __str__(self) -> str:
        return f"{self.source} on {self.device}{', activations quantized in the time' * self.quantized}"


@dataclass(frozen=True)
class Study:
    """A study's info and records. `without_record` counts trials that are in flight or were refused before
    they were compiled: proposals, not results."""

    info: StudyInfo
    records: tuple[TrialRecord, ...]
    without_record: int = 0

    def role(self, role: str) -> tuple[TrialRecord, ...]:
        return tuple(record for record in self.records if record.role == role)

    @property
    def was_run(self) -> bool:
        """Whether any trial reached an executor, timed or not."""
        return any(record.outcome in RAN for record in self.records)

    @property
    def candidates(self) -> tuple[TrialRecord, ...]:
        return self.role(CANDIDATE)

    @property
    def baselines(self) -> tuple[TrialRecord, ...]:
        return self.role(BASELINE)

    @property
    def confirmations(self) -> tuple[TrialRecord, ...]:
        return self.role(CONFIRMATION)


def config_label(record: TrialRecord) -> str:
    """The config on one line, in the order of its fields."""
    return " ".join(f"{name}={value}" for name, value in record.config.items())


def short_reason(record: TrialRecord) -> str:
    """The reason with its numbers masked: failures of one kind have one."""
    return re.sub(r"0x[0-9a-fA-F]+|\d+(\.\d+)?", "#", record.reason)


def device_name(record: TrialRecord) -> str:
    """The device that ran the trial; devices of one model count as one device."""
    return record.device.name if record.device else "no device"


def usable(record: TrialRecord, m: int) -> Measurement | None:
    """The trial's measurement at `m` if the trial passed the check and the measurement is steady, else None.

    An unstable trial was unsteady at some M; where it was steady it is as good as any.
    """
    measurement = record.at(m) if record.outcome in (Outcome.OK, Outcome.UNSTABLE) else None
    return measurement if measurement and measurement.steady else None


def timed_group(records: Iterable[TrialRecord]) -> Group | None:
    """The source and device of every time in `records`, None when nothing was timed.

    Raises `ResultsError` when the times are from more than one source or device.
    """
    counts: dict[Group, int] = {}
    for record in records:
        if record.measurements:
            for quantized in {measurement.quantized for measurement in record.measurements}:
                group = Group(record.source, device_name(record), quantized)
                counts[group] = counts.get(group, 0) + 1
    if len(counts) > 1:
        found = "; ".join(f"{count} trials {group}" for group, count in counts.items())
        raise ResultsError(
            f"times of different sources or devices do not compare ({found}): sweep each alone"
        )
    return next(iter(counts), None)

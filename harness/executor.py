"""The executor contract: what runs an artifact, checks it, times it, and survives it.

An executor evaluates one artifact after another. Whatever the artifact does (write out of bounds, never end,
kill its process), `evaluate` returns an `Evaluation` with the outcome and its reason and the executor stays
usable. Only a broken executor (no device, unusable driver) raises, as `ExecutorError`, at construction.
Every implementation passes `tests/harness/executor_contract.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from harness.artifact import Artifact
from harness.record import CheckResult, DeviceFacts, Measurement, Outcome, Rates, Source

DEFAULT_M_VALUES = (1, 16, 64, 512, 1024, 4096, 16384)


class ExecutorError(RuntimeError):
    """The executor itself cannot work here; the message is one line for a person."""


class CheckDepth(StrEnum):
    """How much a check tries; what it asks of each launch is the same (see `harness.check`)."""

    FULL = "full"  # some 130 launches
    BRIEF = "brief"  # some 20


@dataclass(frozen=True)
class MeasurePlan:
    """How to evaluate a candidate. `m_values` may be empty: then it is checked and not timed."""

    m_values: tuple[int, ...] = DEFAULT_M_VALUES
    samples: int = 20  # timed graph replays per cache condition
    seed: int = 0  # of the check's inputs; the driver draws a fresh one per trial
    timeout_s: float = 60.0  # for one phase: load, check, or the timing at one M
    max_repeats: int = 2  # of an unsteady or throttled measurement
    max_relative_spread: float = 0.05  # above which a measurement is unsteady
    check_depth: CheckDepth | None = None  # None: what the executor has time for
    quantize: bool = False  # time raw activations, whose quantization is in the timed region then


@dataclass(frozen=True)
class Evaluation:
    """What an executor found out about one artifact."""

    outcome: Outcome
    reason: str = ""
    check: CheckResult | None = None
    measurements: tuple[Measurement, ...] = ()
    run_s: float = 0.0


class Executor(ABC):
    """Runs artifacts; a context manager that releases its worker on exit."""

    name: str
    source: Source
    lanes: int = 1  # how many threads may evaluate at the same time

    @abstractmethod
    def device(self) -> DeviceFacts:
        """The device that artifacts run on."""

    @abstractmethod
    def rates(self) -> Rates:
        """The device's copy bandwidth and matrix rate, measured once per executor, on first use."""

    @abstractmethod
    def evaluate(self, artifact: Artifact, plan: MeasurePlan) -> Evaluation:
        """Check `artifact`, then time it at every M of the plan if the check passed. Never raises for
        anything the artifact does."""

    @abstractmethod
    def close(self) -> None:
        """Release the worker. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

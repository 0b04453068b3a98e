"""The record of a trial: everything known about one config, whatever became of it.

This is the schema that crosses every process and file boundary: the measuring worker writes it, the store
keeps it, a pack carries it, and `results` reads it. It is JSON with a `schema` version; reading an unknown
version or a malformed record raises `RecordError` with one line. Times are microseconds per launch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

RECORD_SCHEMA = "routertune.record/1"

ParamValue = int | bool | str


class RecordError(ValueError):
    """A record that cannot be read; the message is one line for a person."""


class Outcome(StrEnum):
    """What became of a trial."""

    OK = "ok"
    ILLEGAL = "illegal"
    COMPILE_ERROR = "compile_error"
    WRONG_RESULT = "wrong_result"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    UNSTABLE = "unstable"
    # Compiled where nothing can run it: no executor, or one that does not know some instruction (the reason
    # says so). Nothing is known of its speed.
    COMPILED = "compiled"


class Source(StrEnum):
    """Whose clock a time is from. Never mixed, never compared as equals, always shown."""

    MEASURED = "measured"
    MODELLED = "modelled"
    NONE = "none"


@dataclass(frozen=True)
class DeviceFacts:
    """The device that ran a trial, as NVML and the driver describe it."""

    name: str
    uuid: str = ""
    compute_capability: str = ""
    driver: str = ""
    cuda: str = ""
    multiprocessors: int = 0
    l2_bytes: int = 0
    memory_bytes: int = 0
    power_limit_w: float = 0.0
    max_sm_clock_mhz: int = 0


@dataclass(frozen=True)
class Conditions:
    """The device's state around one measurement."""

    sm_clock_mhz: int = 0
    memory_clock_mhz: int = 0
    temperature_c: int = 0
    power_w: float = 0.0
    throttle_reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rates:
    """What the device itself can do, measured in the same run as the kernels: the floor's two rates."""

    copy_bytes_per_s: float
    matrix_flop_per_s: float
    empty_launch_us: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Kernel time under one cache condition: raw samples (each the mean of one graph replay), statistics."""

    samples_us: tuple[float, ...]
    median_us: float
    spread_us: float  # interquartile range of the samples

    @property
    def relative_spread(self) -> float:
        return self.spread_us / self.median_us if self.median_us else 0.0


@dataclass(frozen=True)
class Measurement:
    """One trial at one M."""

    m: int
    cold: Timing
    warm: Timing
    floor_us: float
    bytes_moved: int
    flops: int
    conditions: Conditions = field(default_factory=Conditions)
    repeats: int = 0  # how often it was measured again because it was unsteady or throttled
    steady: bool = True
    quantized: bool = False  # whether the times include the quantization of the activations


@dataclass(frozen=True)
class CaseResult:
    """One check case: an input distribution at one M."""

    name: str
    m: int
    seed: int
    passed: bool
    ids_differ: int = 0  # entries whose expert differs from the reference's, within the bound or not
    worst_margin_ratio: float = 0.0  # largest (reference score gap) / (allowed gap) among the differing
    worst_weight_error: float = 0.0  # relative
    detail: str = ""


@dataclass(frozen=True)
class CheckResult:
    """What the check found. `bf16_overlap` is quality, never gated: the share of experts that the
    unquantized bf16 reference picks too."""

    passed: bool
    cases: tuple[CaseResult, ...] = ()
    bf16_overlap: float | None = None
    seconds: float = 0.0

    @property
    def first_failure(self) -> str:
        return next((f"{c.name} at M = {c.m}: {c.detail}" for c in self.cases if not c.passed), "")


@dataclass(frozen=True)
class Resources:
    """What the compiled kernels use, from the cubin; one entry per kernel of the launch."""

    kernel: str
    registers: int
    local_bytes: int  # stack frame of a thread: 0 means no spill
    static_smem_bytes: int
    dynamic_smem_bytes: int = 0
    tmem_columns: int = 0  # of tensor memory, allocated by a CTA


@dataclass(frozen=True)
class Provenance:
    """Where a record comes from."""

    date: str  # ISO 8601, UTC
    commit: str  # of the project, "-dirty" appended when the tree differs; "" when unknown
    host: str = ""
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRecord:
    """Everything known about one trial."""

    family: str
    problem: dict[str, Any]  # RouterProblem as a mapping
    target: str
    config: dict[str, ParamValue]
    outcome: Outcome
    source: Source
    reason: str = ""  # one line; empty when ok
    # Or "baseline": the two-kernel path measured beside the candidates; or "confirmation": a finalist of
    # either, measured again.
    role: str = "candidate"
    artifact_key: str = ""
    resources: tuple[Resources, ...] = ()
    check: CheckResult | None = None
    measurements: tuple[Measurement, ...] = ()
    device: DeviceFacts | None = None
    rates: Rates | None = None
    provenance: Provenance | None = None
    compile_s: float = 0.0
    run_s: float = 0.0
    schema: str = RECORD_SCHEMA

    def at(self, m: int) -> Measurement | None:
        """The measurement at `m` tokens, or None."""
        return next((x for x in self.measurements if x.m == m), None)


class ConfigKey(NamedTuple):
    """What identifies a config among the records of one study."""

    family: str
    config: tuple[tuple[str, ParamValue], ...]


def config_key(record: TrialRecord) -> ConfigKey:
    return ConfigKey(record.family, tuple(sorted(record.config.items())))


def two_kernel_records(records: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """The baselines of a study's records.

    A sweep that was stopped may have measured a config of the two-kernel path only beside the finalists, and
    one that was unstable before may have been steady there: then its confirmations count, which are of no
    candidate's config.
    """
    by_role: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in records:
        by_role[record.role].append(record)
    known = {config_key(record) for record in by_role["candidate"]}
    known |= {config_key(record) for record in by_role["baseline"] if record.outcome is Outcome.OK}
    late = (record for record in by_role["confirmation"] if config_key(record) not in known)
    return (*by_role["baseline"], *late)


def to_json(record: TrialRecord) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(record)


def from_json(data: bytes | str) -> TrialRecord:
    """Read what `to_json` wrote; raises `RecordError` for anything else."""
    try:
        raw = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise RecordError(f"not a record: {error}") from None
    return from_mapping(raw)


def from_mapping(raw: Any) -> TrialRecord:
    """A record from plain JSON types; raises `RecordError` for an unknown schema or a wrong field."""
    if not isinstance(raw, Mapping) or raw.get("schema") != RECORD_SCHEMA:
        found = raw.get("schema") if isinstance(raw, Mapping) else type(raw).__name__
        raise RecordError(f"record schema {found!r} is not {RECORD_SCHEMA!r}: written by another version")
    try:
        return msgspec.convert(raw, TrialRecord)
    except msgspec.ValidationError as error:
        raise RecordError(f"malformed record: {error}") from None

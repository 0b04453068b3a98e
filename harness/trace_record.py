"""What a layer trace found, as JSON with a schema version.

Errors are relative: the Euclidean norm of the difference over that of the reference. A number that is not
finite is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from harness.record import Provenance, RecordError

TRACE_SCHEMA = "routertune.trace/1"


class Finding(StrEnum):
    """What is the matter with a step."""

    IN_BAND = "in_band"
    # Given the reference's own input, the step's result is not the reference's: this step is wrong.
    DEFECT = "defect"
    # The step is right, given that input, but the run has left the exact NVFP4 reference by more than fresh
    # roundings of the activations explain.
    DRIFT = "drift"
    # The layer does what NVFP4 does to this data, which is more than the format's rounding explains.
    QUANTIZATION = "quantization"
    # The run has a NaN or an infinity here.
    NOT_FINITE = "not_finite"


@dataclass(frozen=True)
class StepTrace:
    """One intermediate of one layer.

    Attributes:
        layer: counted from 0.
        name: the step's, as `kernels.moe_layer` taps it; `.operand` is a quantized weight that a layer holds.
        finding: the verdict on this step alone; a step behind a wrong one inherits its error.
        step_error: given the reference's input, against exact NVFP4. For ids: the share that differs.
        step_allowed: what rounding allows of it.
        step_excess: the largest (error / allowed) of a row; above 1 is a defect.
        worst: where that row is.
        path_error: along the real run, against exact NVFP4 along its own.
        total_error: along the real run, against the unquantized layer.
        quantization_error: exact NVFP4 against the unquantized layer: what was there all along.
        expected_error: the largest path and total error that NVFP4's rounding explains; null where no such
            band exists (ids).
        norm, reference_norm, unquantized_norm: Euclidean, of the run and of the two references.
        peak, reference_peak, unquantized_peak: the largest magnitudes.
        saturated: the share of the step's input blocks (for an operand, of its own) that cannot hold their
            largest element; null where nothing is quantized.
    """

    layer: int
    name: str
    finding: Finding
    step_error: float | None
    step_allowed: float | None
    step_excess: float | None
    worst: str
    path_error: float | None
    total_error: float | None
    quantization_error: float | None
    expected_error: float | None
    norm: float | None
    reference_norm: float | None
    unquantized_norm: float | None
    peak: float | None
    reference_peak: float | None
    unquantized_peak: float | None
    saturated: float | None = None


@dataclass(frozen=True)
class RouterTrace:
    """How the router's choices agree, of `entries` = M k of them.

    Attributes:
        differ_given_input: ids, rank by rank, that differ where the router has the reference's input.
        differ_on_path: ids that differ from the exact NVFP4 reference's along the run.
        differ_unquantized: ids that differ from the unquantized layer's along the run.
        margin_on_path, margin_unquantized: the largest difference of ranking keys, in that reference, between
            an expert that it chose and the one chosen in its place; 0 where the same experts were chosen.
        detail: what breaks the rule of `harness.check_rule`; empty when the router is right.
    """

    layer: int
    entries: int
    differ_given_input: int
    differ_on_path: int
    differ_unquantized: int
    margin_on_path: float
    margin_unquantized: float
    detail: str = ""


@dataclass(frozen=True)
class Verdict:
    """The first step out of its band: its relative error, and by what factor that is too large.

    Both are null where they are not finite; for ids the error is the share that differs.
    """

    finding: Finding
    layer: int | None = None
    step: str = ""
    error: float | None = None
    excess: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class TraceRecord:
    """One trace: of which layer, what was found, step by step."""

    problem: dict[str, Any]  # the traced router's, scaled down or not
    layer_sizes: dict[str, int]
    tokens: int
    weights: str  # where they are from
    device: str
    verdict: Verdict
    steps: tuple[StepTrace, ...]
    routers: tuple[RouterTrace, ...]
    provenance: Provenance | None = None
    options: dict[str, int] = field(default_factory=dict)
    schema: str = TRACE_SCHEMA


def trace_to_json(record: TraceRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=1)


def trace_from_json(data: bytes | str) -> TraceRecord:
    """Read what `trace_to_json` wrote; raises `RecordError` for anything else."""
    try:
        raw = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise RecordError(f"not a trace: {error}") from None
    if not isinstance(raw, Mapping) or raw.get("schema") != TRACE_SCHEMA:
        found = raw.get("schema") if isinstance(raw, Mapping) else type(raw).__name__
        raise RecordError(f"trace schema {found!r} is not {TRACE_SCHEMA!r}: written by another version")
    try:
        return msgspec.convert(raw, TraceRecord)
    except msgspec.ValidationError as error:
        raise RecordError(f"malformed trace: {error}") from None

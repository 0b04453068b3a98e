"""The one place where a trial's record is put together, for sweeps and for packs alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harness.artifact import ArtifactManifest
from harness.compile_result import CompileResult
from harness.executor import Evaluation, Executor
from harness.record import DeviceFacts, Outcome, ParamValue, Provenance, Rates, Source, TrialRecord
from kernels.problem import RouterProblem


@dataclass(frozen=True)
class TrialIdentity:
    """What was tried: the part of a record that is known before anything is compiled."""

    family: str
    problem: dict[str, Any]
    config: dict[str, ParamValue]
    target: str
    role: str = "candidate"

    @classmethod
    def of(
        cls,
        family: str,
        problem: RouterProblem,
        config: Mapping[str, ParamValue],
        target: str,
        role: str = "candidate",
    ) -> TrialIdentity:
        return cls(family, asdict(problem), dict(config), target, role)

    @classmethod
    def of_manifest(cls, manifest: ArtifactManifest, role: str = "candidate") -> TrialIdentity:
        return cls(manifest.family, manifest.problem, manifest.config, manifest.target, role)


@dataclass(frozen=True)
class RunFacts:
    """What all records of one run share: where it ran and where it comes from."""

    provenance: Provenance
    source: Source = Source.NONE
    device: DeviceFacts | None = None
    rates: Rates | None = None

    @classmethod
    def of(cls, executor: Executor | None, provenance: Provenance) -> RunFacts:
        """The facts of a run on `executor`, None where nothing is run. Measures the rates on first use."""
        if executor is None:
            return cls(provenance)
        return cls(provenance, executor.source, executor.device(), executor.rates())


def assemble_record(
    trial: TrialIdentity,
    run: RunFacts,
    *,
    illegal: str = "",
    compiled: CompileResult | None = None,
    evaluation: Evaluation | None = None,
) -> TrialRecord:
    """The record of `trial` as far as it got.

    Args:
        illegal: why the config is not legal; then nothing was compiled.
        compiled: what the compiler made of it.
        evaluation: what the executor found; then `compiled` has an artifact.

    Raises:
        ValueError: when neither of the three is given: such a trial has no outcome.
    """
    if evaluation is not None:
        outcome, reason = evaluation.outcome, evaluation.reason
    elif compiled is not None:
        outcome, reason = compiled.outcome, compiled.reason
    elif illegal:
        outcome, reason = Outcome.ILLEGAL, illegal
    else:
        raise ValueError("a trial without illegal, compiled or evaluation has no outcome")
    artifact = compiled.artifact if compiled is not None else None
    return TrialRecord(
        family=trial.family,
        problem=trial.problem,
        target=trial.target,
        config=trial.config,
        outcome=outcome,
        # A time's source belongs to what was run: a trial that never ran has none.
        source=run.source if evaluation is not None else Source.NONE,
        reason=reason,
        role=trial.role,
        artifact_key=compiled.key if compiled is not None else "",
        resources=artifact.manifest.resources if artifact is not None else (),
        check=evaluation.check if evaluation is not None else None,
        measurements=evaluation.measurements if evaluation is not None else (),
        device=run.device if evaluation is not None else None,
        rates=run.rates if evaluation is not None else None,
        provenance=run.provenance,
        compile_s=compiled.seconds if compiled is not None else 0.0,
        run_s=evaluation.run_s if evaluation is not None else 0.0,
    )

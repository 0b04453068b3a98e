"""Measuring a pack: every artifact checked and timed, one record a line, resumable at any point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.artifact import load_artifact
from harness.compile_result import CompileResult
from harness.executor import Executor, MeasurePlan
from harness.pack import PackEntry, artifact_folder, read_pack
from harness.provenance import provenance
from harness.record import TrialRecord
from harness.records import RecordWriter
from harness.trial import RunFacts, TrialIdentity, assemble_record

# (the record just written, how many are done, how many there are)
Report = Callable[[TrialRecord, int, int], None]


def measure_pack(
    folder: Path,
    out: Path,
    open_executor: Callable[[str], Executor],
    *,
    plan: MeasurePlan | None = None,
    report: Report = lambda record, done, total: None,
) -> int:
    """Measure what `out` holds no record of yet; returns how many records were added.

    Args:
        folder: the pack.
        out: JSON lines, appended to: a stopped run goes on where it was.
        open_executor: makes the executor for a target; called only when something is left to measure.
        plan: instead of the pack's own.

    Raises:
        PackError, RecordError: for a pack or an `out` that cannot be used.
        ExecutorError: when the executor breaks; what was measured is in `out`.
    """
    manifest = read_pack(folder)
    plan = plan or manifest.plan
    writer = RecordWriter(out)
    done = {PackEntry(record.artifact_key, record.role) for record in writer.found}
    todo = [(number, entry) for number, entry in enumerate(manifest.entries) if entry not in done]
    if not todo:
        return 0
    with open_executor(manifest.target) as executor:
        origin = provenance(commit=manifest.commit)
        facts = RunFacts.of(executor, origin)
        for count, (number, entry) in enumerate(todo, start=len(manifest.entries) - len(todo) + 1):
            artifact = load_artifact(artifact_folder(folder, entry.key))
            # Fresh inputs for every artifact, the same ones when a pack is measured again.
            evaluation = executor.evaluate(artifact, replace(plan, seed=plan.seed + number))
            # The compiler's versions come with the artifact: this host may have none, or another one.
            versions = origin.versions | artifact.manifest.toolchain
            record = assemble_record(
                TrialIdentity.of_manifest(artifact.manifest, entry.role),
                replace(facts, provenance=replace(origin, versions=versions)),
                compiled=CompileResult.of_artifact(artifact, from_cache=True),
                evaluation=evaluation,
            )
            writer.append(record)
            report(record, count, len(manifest.entries))
    return len(todo)

"""Export the best config per M as a dispatch table that the public wrapper loads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.record import Provenance, Source, TrialRecord
from kernels.dispatch_table import DispatchTable, TableEntry, TableProvenance, save_table
from kernels.problem import RouterProblem
from results.choose import Choice, choose_all
from results.study import ResultsError, Study, timed_group


def export_best(study: Study, path: Path) -> DispatchTable:
    """Write the best config at every M of `study` to `path`, atomically, and return the table.

    An M at which no candidate is eligible has no entry. Raises `ResultsError` when the study's times are of
    several sources or devices, when nothing in it may be chosen, or when `path` cannot be written.
    """
    table = best_table(study)
    write_best(table, path)
    return table


def write_best(table: DispatchTable, path: Path) -> None:
    """Write `table` to `path`, atomically. Raises `ResultsError` when it cannot be written."""
    try:
        save_table(table, path)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror}") from None


def best_table(study: Study) -> DispatchTable:
    """The table of `export_best`, in memory."""
    group = timed_group(study.records)
    choices = choose_all(study)
    if group is None or not choices:
        raise ResultsError(
            f"study {study.info.name!r} has nothing to export: of its {len(study.candidates)} candidates "
            "none was run and found ok; `routertune report` says what became of them"
        )
    try:
        return DispatchTable(
            problem=msgspec.convert(study.info.problem, RouterProblem),
            family=study.info.family,
            target=study.info.target,
            source="modelled" if group.source is Source.MODELLED else "measured",
            device=group.device,
            objective=study.info.objective,
            entries=tuple(_entry(choice) for choice in choices),
            provenance=_provenance(study, [choice.best.record for choice in choices]),
        )
    except ValueError as error:
        raise ResultsError(f"study {study.info.name!r} cannot be exported: {error}") from None


def _entry(choice: Choice) -> TableEntry:
    return TableEntry(
        m=choice.m,
        config=dict(choice.best.record.config),
        cold_us=choice.best.cold.median_us,
        warm_us=choice.best.warm.median_us,
        baseline_us=choice.baseline_us,
        floor_us=choice.best.floor_us,
        artifact_key=choice.best.record.artifact_key,
        tie=bool(choice.tied),
    )


def _provenance(study: Study, winners: Sequence[TrialRecord]) -> TableProvenance:
    """Of the winners: the date of the newest run, its versions, and every commit that any was built from."""
    known = [record.provenance for record in winners if record.provenance]
    newest = max(known, key=lambda each: each.date, default=Provenance(date=study.info.created, commit=""))
    return TableProvenance(
        date=newest.date,
        commit=", ".join(sorted({each.commit for each in known if each.commit})),
        command=study.info.command,
        versions=dict(newest.versions),
        study=study.info.name,
        trials=len(study.records),
    )

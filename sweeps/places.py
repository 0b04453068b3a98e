"""Where things are: a sweep's store, its results, and the exported best configs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import msgspec

from harness.record import Source
from kernels.best import BEST_VARIABLE, USER_TABLES
from kernels.dispatch_table import (
    DispatchTable,
    DispatchTableError,
    TableEntry,
    TableProvenance,
    load_table,
    save_table,
)
from kernels.problem import PRESETS
from sweeps.errors import StudyError
from sweeps.spec import NAME, SweepSpec

RUNS = Path("runs")
# What a study's name says of where its times are from: times of two sources never share a study.
SUFFIXES = {Source.MEASURED: "", Source.MODELLED: "-modelled", Source.NONE: "-compiled"}


@dataclass(frozen=True)
class Place:
    """A study in a storage. `study` None: the only one there."""

    storage: str
    study: str | None

    @property
    def results(self) -> Path:
        """The folder for what is made of the study: plots and report."""
        return RUNS / (self.study or Path(self.storage).stem)


def place_for(spec: SweepSpec, storage: str | None, study: str | None, *, source: Source) -> Place:
    """Where a sweep of `spec` with times from `source` is kept. Without a GPU it has a study of its own, so
    that the folder can be copied to a GPU host and swept there.

    Raises `StudyError` for a study whose name is to be a file's and cannot.
    """
    if study is not None and storage is None and not NAME.fullmatch(study):
        raise StudyError(f"--study {study!r}: only letters, digits, '.', '_' and '-', it names a file")
    name = study or f"{spec.name}-{spec.target}{SUFFIXES[source]}"
    return Place(storage or str(RUNS / f"{name}.db"), name)


def find_place(spec: SweepSpec | None, storage: str | None, study: str | None) -> Place:
    """The study to look at: the one named, the sweep's, or with nothing said the one written last.

    Raises `StudyError` when there is none.
    """
    if storage is not None:
        return Place(storage, study)
    if study is not None:
        return Place(str(RUNS / f"{study}.db"), study)
    if spec is not None:
        places = [place_for(spec, None, None, source=source) for source in SUFFIXES]
        return next((place for place in places if Path(place.storage).is_file()), places[0])
    found = max(RUNS.glob("*.db"), key=lambda path: path.stat().st_mtime, default=None)
    if found is None:
        raise StudyError(f"{RUNS}/ holds no sweep: run `routertune sweep` first, or name one with --storage")
    return Place(str(found), None)


def best_file(table: DispatchTable) -> str:
    """The name of an exported table: one for each problem, kernel family, target and source, so that none
    replaces another's. A digest of what it computes tells a problem from the preset of its name, and from
    others without one."""
    name = table.problem.name
    if PRESETS.get(name) != table.problem:
        computed = msgspec.json.encode(replace(table.problem, name=""), order="deterministic")
        name = f"{name}-{sha256(computed).hexdigest()[:8]}"
    return f"{name}-{table.family}-{table.target}{SUFFIXES[Source(table.source)]}.json"


@dataclass(frozen=True)
class Installed:
    """The file of an installed table, and the M at which the one before it stays in force there."""

    path: Path
    kept: tuple[int, ...]


def install_best(table: DispatchTable) -> Installed:
    """Put `table` where the public wrapper looks first.

    A table for the same problem, family, target and source is replaced, but for its entries below the
    smallest and above the largest M of `table`: those stay. Raises `OSError`, and `DispatchTableError`,
    having changed nothing, when they cannot stay beside the new ones, or the file holds a table for
    something else.
    """
    place = Path(os.environ.get(BEST_VARIABLE) or USER_TABLES).expanduser()
    path = place if place.suffix == ".json" else _file_for(table, place)
    before = _readable(path)
    if before is None:
        save_table(table, path)
        return Installed(path, ())
    if not _same_use(before, table):
        raise DispatchTableError(
            f"{path}: is of {before.family} for {before.problem.name} on {before.target}, {before.source}: "
            f"name another file, or a folder, with {BEST_VARIABLE}"
        )
    low, high = table.entries[0].m, table.entries[-1].m
    kept = tuple(entry for entry in before.entries if not low <= entry.m <= high)
    save_table(_joined(table, before, kept, path) if kept else table, path)
    return Installed(path, tuple(entry.m for entry in kept))


def _file_for(table: DispatchTable, folder: Path) -> Path:
    """The file in `folder` of a table for the same, whatever it is called, else that of its own name."""
    for path in sorted(folder.glob("*.json")):
        found = _readable(path)
        if found is not None and _same_use(found, table):
            return path
    return folder / best_file(table)


def _readable(path: Path) -> DispatchTable | None:
    """The table in `path`; None where there is none that the wrapper could read."""
    try:
        return load_table(path)
    except DispatchTableError:
        return None


def _same_use(one: DispatchTable, other: DispatchTable) -> bool:
    return (one.family, one.source) == (other.family, other.source) and one.matches(
        other.problem, other.target
    )


def _joined(
    new: DispatchTable, old: DispatchTable, kept: tuple[TableEntry, ...], path: Path
) -> DispatchTable:
    """`new` with the entries `kept` of `old`, and what is known of where either comes from."""
    if (old.device, old.objective) != (new.device, new.objective):
        raise DispatchTableError(
            f"{path}: covers M = {', '.join(str(entry.m) for entry in kept)}, which the new table does not, "
            f"{old.objective} on {old.device}, not {new.objective} on {new.device}: move it away first"
        )
    before, after = old.provenance, new.provenance
    installed_before = after.study in before.study.split(", ")
    provenance = TableProvenance(
        date=max(before.date, after.date),
        commit=_listed(", ", before.commit, after.commit),
        command=_listed("; ", before.command, after.command),
        versions=before.versions | after.versions,
        study=_listed(", ", before.study, after.study),
        trials=before.trials + (0 if installed_before else after.trials),
    )
    entries = tuple(sorted((*kept, *new.entries), key=lambda entry: entry.m))
    return replace(new, entries=entries, provenance=provenance)


def _listed(separator: str, *lists: str) -> str:
    """The items of lists that are joined by `separator`, each once."""
    return separator.join(dict.fromkeys(item for each in lists for item in each.split(separator) if item))

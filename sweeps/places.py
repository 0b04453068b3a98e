"""Where things are: a sweep's store, its results, and the exported best configs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness.record import Source
from kernels.best import BEST_VARIABLE, USER_TABLES
from kernels.dispatch_table import DispatchTable, save_table
from sweeps.errors import StudyError
from sweeps.spec import SweepSpec

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
    that the folder can be copied to a GPU host and swept there."""
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


def best_file(problem: str, target: str, source: str) -> str:
    """The name of an exported table: a modelled one never replaces a measured one."""
    return f"{problem}-{target}{SUFFIXES[Source(source)]}.json"


def install_best(table: DispatchTable, name: str) -> Path:
    """Put `table` where the public wrapper looks first; returns the file. Raises `OSError`."""
    path = Path(os.environ.get(BEST_VARIABLE) or USER_TABLES).expanduser()
    if path.suffix != ".json":
        path = path / name
    save_table(table, path)
    return path

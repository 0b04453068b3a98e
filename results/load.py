"""Load a study from an Optuna storage, or the records of a pack from a JSON Lines file.

The sweep keeps a trial's record as JSON text in the Optuna trial's `user_attrs["record"]` and the study's
description in the study's `user_attrs["study"]`. Loading never creates or alters a storage. Whatever is
missing, corrupt or of another version raises `ResultsError` with one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import make_url

from harness.record import RecordError, Source, TrialRecord, from_json
from results.study import STUDY_SCHEMA, ResultsError, Study, StudyInfo

RECORD_ATTR = "record"
STUDY_ATTR = "study"


def load_study(storage: str | Path | BaseStorage, name: str) -> Study:
    """The study `name` from an Optuna storage: an object, a URL, or the path of a SQLite file."""
    opened, shown = _open(storage)
    try:
        known = optuna.get_all_study_names(opened)
        if name not in known:
            raise ResultsError(f"{shown} has no study {name!r}: it has {', '.join(known) or 'none'}")
        loaded = optuna.load_study(study_name=name, storage=opened)
        trials = loaded.get_trials(deepcopy=False)
        described = loaded.user_attrs.get(STUDY_ATTR)
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise ResultsError(f"{shown}: {_first_line(error)}") from None
    info = _study_info(described, f"{shown}: study {name!r}")
    stored = [
        (trial.number, trial.user_attrs[RECORD_ATTR]) for trial in trials if RECORD_ATTR in trial.user_attrs
    ]
    records = tuple(_record(text, f"{shown}: study {name!r}, trial {number}") for number, text in stored)
    return Study(info, records, without_record=len(trials) - len(records))


def load_jsonl(path: Path) -> Study:
    """The records in `path`, one JSON object a line, as a study named after the file.

    What the records do not say (the size of the space, the objective) is unknown or the default.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: {_first_line(error)}") from None
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    records = tuple(_record(line, f"{path}, line {number}") for number, line in numbered)
    if not records:
        raise ResultsError(f"{path}: holds no records")
    first = next((record for record in records if record.role == "candidate"), records[0])
    others = [
        record for record in records if (record.problem, record.target) != (first.problem, first.target)
    ]
    if others:
        raise ResultsError(
            f"{path}: records of {first.problem.get('name')} on {first.target} and of "
            f"{others[0].problem.get('name')} on {others[0].target}: one file holds one problem and target"
        )
    timed = next((record for record in records if record.measurements), None)
    info = StudyInfo(
        name=path.stem,
        family=first.family,
        problem=first.problem,
        target=first.target,
        executor="",
        source=timed.source if timed else Source.NONE,
        m_values=tuple(sorted({measured.m for record in records for measured in record.measurements})),
        created=first.provenance.date if first.provenance else "",
        command=first.provenance.command if first.provenance else "",
    )
    return Study(info, records)


def _open(storage: str | Path | BaseStorage) -> tuple[BaseStorage, str]:
    """The storage, opened without creating anything, and how to name it to a person (no password)."""
    if isinstance(storage, BaseStorage):
        return storage, type(storage).__name__
    text = str(storage)
    try:
        url = make_url(text if "://" in text else f"sqlite:///{text}")
    except sqlalchemy.exc.ArgumentError as error:
        raise ResultsError(f"{text}: not a storage URL ({_first_line(error)})") from None
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and url.database:
        shown = url.database
        if not Path(url.database).is_file():
            raise ResultsError(f"{shown}: no such study file; run a sweep first, or give its --storage")
    try:
        return RDBStorage(url.render_as_string(hide_password=False), skip_table_creation=True), shown
    except (
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.OptunaError,
        ImportError,  # the database's driver
        RuntimeError,  # a storage of another Optuna
    ) as error:
        raise ResultsError(f"{shown}: not a readable Optuna storage ({_first_line(error)})") from None


def _study_info(raw: Any, where: str) -> StudyInfo:
    found = raw.get("schema") if isinstance(raw, Mapping) else None
    if found != STUDY_SCHEMA:
        raise ResultsError(f"{where}: schema {found!r} is not {STUDY_SCHEMA!r}: not a sweep of this version")
    try:
        return msgspec.convert(raw, StudyInfo)
    except msgspec.ValidationError as error:
        raise ResultsError(f"{where}: malformed description: {error}") from None


def _record(text: Any, where: str) -> TrialRecord:
    if not isinstance(text, str):
        raise ResultsError(f"{where}: corrupt record: {type(text).__name__} where JSON text belongs")
    try:
        return from_json(text)
    except RecordError as error:
        raise ResultsError(f"{where}: corrupt record: {error}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

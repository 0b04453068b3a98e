"""The store: one Optuna study holds everything about a sweep's trials.

A study's user attribute `study` is a `StudyInfo`, and `model` what its modelled times stand on (see
`sweeps.comparable`); each trial's user attribute `record` is the JSON text of its `TrialRecord`. Optuna's
states mean:

    COMPLETE  a candidate with a told value: its objective, or the penalty of a failure
    FAIL      nothing a sampler could learn from. With a record: a baseline, a confirmation, or a candidate
              that was compiled where nothing can run. Without: given up unmeasured, its config was released
    RUNNING   asked and not told: in flight, or left behind by a process that was killed
    WAITING   a released config, asked again before any new one

FAIL is the only finished state that samplers and `best_trial` skip, which is why records that must not
disturb the search are kept under it; `outcome` in the record says what really became of them.

A record is written before its trial is told, each in its own transaction, so a kill at any moment leaves
either a trial without a record, which `recover` releases, or one with a record, which `recover` tells.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import msgspec
import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from harness.record import RecordError, TrialRecord, from_json, to_json
from kernels.problem import RouterProblem
from sweeps.errors import StudyError

STUDY_SCHEMA = "routertune.study/1"
STUDY_ATTR = "study"
RECORD_ATTR = "record"
SQLITE = "sqlite:///"
SQLITE_MAGIC = b"SQLite format 3\0"
# Readers (status, plot) share the file with a sweep; a writer waits this long for another's transaction.
LOCK_WAIT_S = 60.0

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class StudyInfo:
    """What a study is about. Trials of two studies may be compared when `identity` is equal."""

    name: str
    family: str
    problem: dict[str, Any]  # RouterProblem as a mapping
    target: str
    executor: str  # "none" where candidates are compiled and not run
    source: str
    m_values: tuple[int, ...]
    objective: Literal["cold", "warm"]
    objective_m_values: tuple[int, ...]
    quantize: bool = False  # whether the quantization of activations is in every time
    created: str = ""  # ISO 8601, UTC
    command: str = ""
    space_size: int = 0
    legal_size: int = 0
    schema: str = STUDY_SCHEMA

    @property
    def identity(self) -> dict[str, Any]:
        """What all trials of a study have in common, by the words an error uses. A problem is what it
        computes: its name does not matter."""
        return {
            "family": self.family,
            "problem": computed(self.problem),
            "target": self.target,
            "executor": self.executor,
            "source": self.source,
            "m_values": list(self.m_values),
            "objective": [self.objective, *self.objective_m_values],
            "quantize": self.quantize,
        }


def computed(problem: Mapping[str, Any]) -> dict[str, Any]:
    """What a problem computes, its name left out and its defaults written out: earlier versions kept only
    what a sweep's description said."""
    whole = asdict(msgspec.convert(problem, RouterProblem))
    return {key: value for key, value in msgspec.to_builtins(whole).items() if key != "name"}


class _WalConnection(sqlite3.Connection):
    """Readers do not block the sweep's writes, and a commit needs no fsync: a killed process loses nothing,
    a power cut at most the last moments. 15 parameters are 15 commits, 60 ms with an fsync each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=NORMAL")


def storage_url(storage: str) -> str:
    """The URL of a storage given as a URL or as the path of a SQLite file."""
    return storage if "://" in storage else f"{SQLITE}{storage}"


def require_usable(storage: str) -> None:
    """Raise `StudyError` where nothing could be kept in `storage`, as far as that is known without opening
    it: a store that a failed start left behind would be the one that is looked at when none is named."""
    _require_lasting(storage)
    url = storage_url(storage)
    if url.startswith(SQLITE):
        path = Path(url.removeprefix(SQLITE))
        _require_writable(path)
        if path.exists() and not _is_database(path):
            raise StudyError(f"{storage}: not a usable storage: file is not a database")
        return
    try:
        sqlalchemy.create_engine(url)  # connects to nothing, but finds the driver
    except (SQLAlchemyError, ImportError) as error:
        raise StudyError(f"{storage}: not a usable storage: {_first_line(error)}") from None


def _require_lasting(storage: str) -> None:
    if not _is_unicode(storage):
        raise StudyError(f"{storage!a}: not UTF-8, and the database takes nothing else: name it otherwise")
    url = storage_url(storage)
    if url == SQLITE.removesuffix("/") or url.startswith(f"{SQLITE}:memory:"):
        raise StudyError(f"{storage}: kept in memory, all would be lost at the end: name a file")


def open_storage(storage: str, *, create: bool = False) -> RDBStorage:
    """The storage at a URL or a path, a file that cannot be written only to be read. Raises `StudyError` when
    it cannot be used, or when it is a file that does not exist and `create` is not given."""
    url = storage_url(storage)
    if create:
        require_usable(storage)
    else:
        _require_lasting(storage)
    engine: dict[str, Any] = {}
    if url.startswith(SQLITE):
        path = Path(url.removeprefix(SQLITE))
        engine = {"connect_args": {"timeout": LOCK_WAIT_S}}
        if create:
            engine["connect_args"]["factory"] = _WalConnection
        elif not path.is_file():
            raise StudyError(f"{path}: no such store: run a sweep first, or name one with --storage")
        elif not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            engine = {"creator": _read_only(path)}
    try:
        return RDBStorage(url, engine_kwargs=engine, skip_table_creation=not create)
    except (SQLAlchemyError, OptunaError, sqlite3.Error, RuntimeError, ImportError) as error:
        raise StudyError(f"{storage}: not a usable storage: {_first_line(error)}") from None


def open_study(
    storage: RDBStorage, info: StudyInfo, sampler: BaseSampler, distributions: Mapping[str, BaseDistribution]
) -> optuna.Study:
    """The study `info.name`, created when absent. Raises `StudyError`, having changed nothing, when it is
    about something else than `info`, or its trials have other parameters than `distributions`."""
    try:
        study = optuna.load_study(study_name=info.name, storage=storage, sampler=sampler)
    except KeyError:
        study = optuna.create_study(
            study_name=info.name, storage=storage, sampler=sampler, direction="minimize"
        )
    if STUDY_ATTR not in study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr(STUDY_ATTR, msgspec.to_builtins(info))
        return study
    found = read_info(study).identity
    for what, asked in info.identity.items():
        if found[what] != asked:
            raise StudyError(
                f"study {info.name!r} has {what} {_shown(found[what])}, not {_shown(asked)}: "
                "choose another name with --study"
            )
    for trial in study.get_trials(deepcopy=False):
        if not _of_these_parameters(trial, distributions):
            raise StudyError(
                f"study {info.name!r} was made with other parameters of {info.family}: "
                "choose another name with --study"
            )
    return study


def _of_these_parameters(trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> bool:
    """Whether a trial has these parameters: all, or some where its process was killed while it was asked."""
    asked = trial.state is TrialState.RUNNING or (
        trial.state is TrialState.FAIL and RECORD_ATTR not in trial.user_attrs
    )
    return all(distributions.get(name) == one for name, one in trial.distributions.items()) and (
        asked or not trial.distributions or len(trial.distributions) == len(distributions)
    )


def read_study(storage: RDBStorage, name: str | None) -> optuna.Study:
    """The study called `name`, or the only one; raises `StudyError` naming those that exist."""
    with in_one_line(f"{storage.engine.url!r} cannot be read"):
        names = optuna.get_all_study_names(storage)
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        known = ", ".join(names) or "none"
        asked = "no study named" if name is None else f"no study {name!r}"
        raise StudyError(f"{asked}; this storage has: {known}; name one with --study")
    return optuna.load_study(study_name=name, storage=storage)


def read_info(study: optuna.Study) -> StudyInfo:
    """What `study` is about; raises `StudyError` when that is not written in it."""
    raw = study.user_attrs.get(STUDY_ATTR)
    if not isinstance(raw, dict) or raw.get("schema") != STUDY_SCHEMA:
        raise StudyError(f"study {study.study_name!r} is none of this tuner's, or of another version")
    try:
        return msgspec.convert(raw, StudyInfo)
    except msgspec.ValidationError as error:
        raise StudyError(f"study {study.study_name!r}: malformed description: {error}") from None


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Make a `StudyError` of what a database says: a full disk, a damaged file, a server that went away."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StudyError(f"{what}: {_first_line(error)}") from None


@contextmanager
def sole_sweeper(storage: str, study: str) -> Iterator[None]:
    """Hold the study against a second sweep on this host; raises `StudyError` when one is at work.

    The lock is the operating system's: it is gone with the process, however that ends.
    """
    url = storage_url(storage)
    if url.startswith(SQLITE):
        path = Path(url.removeprefix(SQLITE) + ".lock")
    else:
        path = (
            Path(tempfile.gettempdir()) / f"routertune-{sha256(f'{url} {study}'.encode()).hexdigest()}.lock"
        )
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise StudyError(f"{storage} is being swept by another process: wait for it or stop it") from None


def was_asked(trial: FrozenTrial) -> bool:
    """Whether the trial's config needs no asking again: all states but FAIL without a record."""
    return trial.state is not TrialState.FAIL or RECORD_ATTR in trial.user_attrs


def keep(study: optuna.Study, trial: optuna.Trial | None, record: TrialRecord) -> None:
    """Store what became of a trial, or of a config that no trial was asked for."""
    if trial is None:
        add(study, record)
    else:
        trial.set_user_attr(RECORD_ATTR, to_json(record).decode())


def tell(study: optuna.Study, number: int, value: float | None) -> None:
    """End a trial whose record is stored. `value` None: there is nothing to learn from it."""
    if value is None:
        study.tell(number, state=TrialState.FAIL)
    else:
        study.tell(number, value)


def add(
    study: optuna.Study,
    record: TrialRecord,
    value: float | None = None,
    distributions: Mapping[str, BaseDistribution] | None = None,
) -> None:
    """Store a record that no trial was asked for: a baseline or confirmation (without a value), or a
    candidate that was measured elsewhere."""
    study.add_trial(
        optuna.create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            value=value,
            params=dict(record.config) if distributions else None,
            distributions=dict(distributions) if distributions else None,
            user_attrs={RECORD_ATTR: to_json(record).decode()},
        )
    )


def release(study: optuna.Study, trial: FrozenTrial | optuna.Trial) -> None:
    """Give up a trial unmeasured; its config is asked again before any new one.

    Killed between the two writes, the config is free for the sampler to ask: nothing is lost.
    """
    study.tell(trial.number, state=TrialState.FAIL)
    if trial.params.keys() == trial.distributions.keys():
        study.enqueue_trial(dict(trial.params))


def recover(study: optuna.Study, value_of: Callable[[TrialRecord], float | None], parameters: int) -> int:
    """Settle the trials that a killed process left running: tell those that have a record, release the
    others. Returns how many were released. `parameters` is how many a whole config has."""
    released = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if text := trial.user_attrs.get(RECORD_ATTR):
            tell(study, trial.number, value_of(from_json(text)))
        elif len(trial.params) == parameters:
            release(study, trial)
            released += 1
        else:  # killed while it was being asked: the sampler never answered for it
            study.tell(trial.number, state=TrialState.FAIL)
    return released


def records(study: optuna.Study) -> list[TrialRecord]:
    """Every record of the study, in trial order; raises `StudyError` for one that cannot be read."""
    found = []
    with in_one_line(f"study {study.study_name!r} cannot be read"):
        trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if text := trial.user_attrs.get(RECORD_ATTR):
            try:
                found.append(from_json(text))
            except RecordError as error:
                raise StudyError(f"study {study.study_name!r}, trial {trial.number}: {error}") from None
    return found


def _is_unicode(text: str) -> bool:
    """Whether an argument was UTF-8: of other bytes Python makes surrogates, which nobody takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):  # SQLite writes beside its file, too
            pass
        if path.exists():
            path.open("r+b").close()
    except OSError as error:
        raise StudyError(
            f"{path}: cannot be written ({error.strerror}): name another with --storage"
        ) from None


def _is_database(path: Path) -> bool:
    """Whether a file begins as SQLite's do ("Database File Format", 1.3); one of no bytes is a database."""
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) in (b"", SQLITE_MAGIC)


def _read_only(path: Path) -> Callable[[], sqlite3.Connection]:
    """Opens a store where nothing can be written, as SQLite's log and its index beside the file would be."""
    log = path.with_name(f"{path.name}-wal")
    if not (log.is_file() and log.stat().st_size):
        mode = "immutable=1"
    elif path.with_name(f"{path.name}-shm").is_file():
        mode = "mode=ro"
    else:
        raise StudyError(
            f"{path}: the last trials are in {log.name}, which is only read where the folder can be written: "
            "copy both into one that can"
        )
    uri = f"file:{quote(str(path.absolute()))}?{mode}"
    return partial(sqlite3.connect, uri, uri=True, timeout=LOCK_WAIT_S, check_same_thread=False)


def _first_line(error: BaseException) -> str:
    error = error.__cause__ or error  # Optuna's own says no more than that there is one
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

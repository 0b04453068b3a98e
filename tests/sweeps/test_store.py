"""One study per question, nothing lost, and a clear line where it cannot be used."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copy
from typing import Any

import msgspec
import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from harness.record import Outcome, TrialRecord
from sweeps import store
from sweeps.errors import StudyError
from sweeps.sampler import SnappingSampler
from sweeps.space import Space
from tests.sweeps.toys import M_VALUES, PROBLEM, TARGET, ToyFamily, toy_record

SPACE = Space(ToyFamily(), PROBLEM, TARGET)
DISTRIBUTIONS = SPACE.distributions()
INFO = store.StudyInfo(
    name="toy",
    family="toy",
    problem=msgspec.to_builtins(PROBLEM),
    target=TARGET,
    executor="toy",
    source="measured",
    m_values=M_VALUES,
    objective="cold",
    objective_m_values=M_VALUES,
)


def open_toy(path: Path, **changes: Any) -> optuna.Study:
    storage = store.open_storage(str(path), create=True)
    return store.open_study(storage, replace(INFO, **changes), SnappingSampler(SPACE, seed=0), DISTRIBUTIONS)


def record_one(study: optuna.Study, record: TrialRecord) -> None:
    trial = study.ask(DISTRIBUTIONS)
    store.keep(study, trial, record)
    store.tell(study, trial.number, 1.0)


def test_a_study_says_what_it_is_about(tmp_path: Path) -> None:
    open_toy(tmp_path / "runs" / "toy.db", legal_size=len(SPACE))
    read = store.read_study(store.open_storage(str(tmp_path / "runs" / "toy.db")), None)
    assert store.read_info(read) == replace(INFO, legal_size=len(SPACE))


def test_a_problem_is_the_same_whatever_of_its_defaults_is_said() -> None:
    whole = msgspec.to_builtins(asdict(PROBLEM))
    short = {key: value for key, value in whole.items() if key in ("hidden", "experts", "top_k")}
    assert store.computed(short | {"name": "other"}) == store.computed(whole)
    assert store.computed(whole | {"top_k": 3}) != store.computed(whole)
    assert replace(INFO, problem=short | {"name": "x"}).identity == replace(INFO, problem=whole).identity


def test_results_can_read_it(tmp_path: Path) -> None:
    from results.load import load_study

    path = tmp_path / "toy.db"
    study = open_toy(path)
    record = toy_record(SPACE.params(0))
    record_one(study, record)
    store.add(study, toy_record(SPACE.params(0), role="baseline"))
    study.ask(DISTRIBUTIONS)
    loaded = load_study(path, "toy")
    assert loaded.candidates == (record,)
    assert len(loaded.baselines) == 1
    assert loaded.without_record == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "fused_sm90"}, "has family toy, not fused_sm90"),
        ({"problem": {**INFO.problem, "top_k": 3}}, "has problem .*2.*, not .*3.*"),
        ({"target": "sm_100a"}, "has target sm_90a, not sm_100a"),
        ({"executor": "cuda"}, "has executor toy, not cuda"),
        ({"source": "modelled"}, "has source measured, not modelled"),
        ({"m_values": (1,)}, r"has m_values \[1,64\], not \[1\]"),
        ({"quantize": True}, "has quantize false, not true"),
        ({"objective": "warm"}, "has objective .*cold.*, not .*warm.*"),
    ],
)
def test_a_study_of_something_else_is_refused_unchanged(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "toy.db"
    study = open_toy(path)
    record_one(study, toy_record(SPACE.params(0)))
    before = _dump(path)
    with pytest.raises(StudyError, match=f"study 'toy' {message}: choose another name with --study"):
        open_toy(path, **changes)
    assert _dump(path) == before


def test_the_problem_s_name_does_not_matter(tmp_path: Path) -> None:
    open_toy(tmp_path / "toy.db")
    open_toy(tmp_path / "toy.db", problem={**INFO.problem, "name": "renamed"})


def test_a_study_of_other_parameters_is_refused(tmp_path: Path) -> None:
    study = open_toy(tmp_path / "toy.db")
    study.ask({"tile": optuna.distributions.CategoricalDistribution((8,))})
    with pytest.raises(StudyError, match="made with other parameters of toy"):
        open_toy(tmp_path / "toy.db")


def test_a_study_whose_process_was_killed_while_it_asked_goes_on(tmp_path: Path) -> None:
    """A trial's parameters are one commit each: some of them may be all there is."""
    path = tmp_path / "toy.db"
    trial = open_toy(path).ask()
    trial.suggest_categorical("tile", DISTRIBUTIONS["tile"].choices)
    study = open_toy(path)
    assert store.recover(study, lambda record: 1.0, len(DISTRIBUTIONS)) == 0
    assert open_toy(path).trials[0].state is TrialState.FAIL


def test_a_study_whose_records_have_fewer_parameters_is_refused(tmp_path: Path) -> None:
    study = open_toy(tmp_path / "toy.db")
    trial = study.ask({"tile": DISTRIBUTIONS["tile"]})
    store.keep(study, trial, toy_record(SPACE.params(0)))
    store.tell(study, trial.number, 2.0)
    with pytest.raises(StudyError, match="made with other parameters of toy"):
        open_toy(tmp_path / "toy.db")


def test_recover_releases_what_was_in_flight_and_tells_what_was_recorded(tmp_path: Path) -> None:
    study = open_toy(tmp_path / "toy.db")
    in_flight, recorded, told = (study.ask(DISTRIBUTIONS) for _ in range(3))
    half_asked = study.ask()
    store.keep(study, told, toy_record(told.params))
    store.tell(study, told.number, 2.0)
    store.keep(study, recorded, toy_record(recorded.params))

    study = open_toy(tmp_path / "toy.db")
    assert store.recover(study, lambda record: 3.0, len(DISTRIBUTIONS)) == 1
    states = [trial.state for trial in study.get_trials()]
    assert states == [
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.WAITING,
    ]
    assert study.get_trials()[recorded.number].value == 3.0
    assert study.get_trials()[half_asked.number].params == {}
    assert study.ask(DISTRIBUTIONS).params == in_flight.params
    assert store.recover(study, lambda record: 3.0, len(DISTRIBUTIONS)) == 1


def test_records_round_trip_in_order(tmp_path: Path) -> None:
    study = open_toy(tmp_path / "toy.db")
    wanted = [toy_record(SPACE.params(i), outcome) for i, outcome in enumerate(Outcome)]
    for record in wanted:
        record_one(study, record)
    assert store.records(open_toy(tmp_path / "toy.db")) == wanted


def test_a_corrupt_record_is_one_line_with_its_trial(tmp_path: Path) -> None:
    study = open_toy(tmp_path / "toy.db")
    study.ask(DISTRIBUTIONS).set_user_attr("record", "{")
    with pytest.raises(StudyError, match="study 'toy', trial 0: not a record"):
        store.records(study)


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(StudyError, match=r"runs/toy.db: cannot be written .*: name another with --storage"):
        store.open_storage(str(tmp_path / "runs" / "toy.db"), create=True)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "toy.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StudyError, match="not a usable storage"):
        store.open_storage(str(path), create=True)


@pytest.mark.parametrize("url", ["nosuch://host/db", "postgresql+nosuch://host/db"])
def test_an_unusable_url_is_refused(url: str) -> None:
    with pytest.raises(StudyError, match="not a usable storage"):
        store.open_storage(url)


def test_a_missing_store_is_not_created_by_reading(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such store: run a sweep first"):
        store.open_storage(str(tmp_path / "toy.db"))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written, whoever runs the tests."""
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("read_only")
def test_a_store_that_cannot_be_written_is_read_and_nothing_comes_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a store.db"
    record_one(open_toy(path), (wanted := toy_record(SPACE.params(0))))
    before = contents(tmp_path)
    study = store.read_study(store.open_storage(str(path)), None)
    assert store.records(study) == [wanted]
    with pytest.raises(StorageInternalError):
        study.set_user_attr("study", {})
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("read_only")
def test_a_store_that_was_copied_under_its_sweep_is_read_with_its_log_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "copied"
    study = open_toy(tmp_path / "toy.db")
    connection = sqlite3.connect(tmp_path / "toy.db")  # keeps the log from being written back
    connection.execute("SELECT * FROM trials").fetchall()
    record_one(study, (wanted := toy_record(SPACE.params(0))))
    for suffix in ("", "-wal", "-shm"):
        place.mkdir(exist_ok=True)
        copy(tmp_path / f"toy.db{suffix}", place)
    connection.close()
    assert store.records(store.read_study(store.open_storage(str(place / "toy.db")), None)) == [wanted]
    (place / "toy.db-shm").unlink()
    with pytest.raises(StudyError, match=r"the last trials are in toy\.db-wal, which is only read where"):
        store.open_storage(str(place / "toy.db"))


def test_what_is_damaged_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    study = open_toy(tmp_path / "toy.db")
    for index in range(20):
        record_one(study, toy_record(SPACE.params(index)))
    sqlite3.connect(tmp_path / "toy.db").execute("VACUUM INTO ?", [str(path)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StudyError, match="malformed") as caught:
        store.records(store.read_study(store.open_storage(str(path)), None))
    assert "\n" not in str(caught.value)
    path.write_bytes(b"")
    with pytest.raises(StudyError, match="no such table"):
        store.open_storage(str(path))
    assert path.read_bytes() == b""


def test_what_a_database_says_while_it_is_used_is_one_line(tmp_path: Path) -> None:
    study = open_toy(tmp_path / "toy.db")
    with sqlite3.connect(tmp_path / "toy.db") as connection:
        connection.execute("DROP TABLE study_user_attributes")
    with (
        pytest.raises(
            StudyError, match=r"toy\.db: no more: .*no such table: study_user_attributes$"
        ) as caught,
        store.in_one_line("toy.db: no more"),
    ):
        study.set_user_attr("study", {})
    assert "\n" not in str(caught.value)


def test_an_unknown_study_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    open_toy(tmp_path / "toy.db")
    with pytest.raises(StudyError, match="no study 'other'; this storage has: toy"):
        store.read_study(store.open_storage(str(tmp_path / "toy.db")), "other")


def _hold(path: str, held: Any, release: Any) -> None:
    with store.sole_sweeper(path, "toy"):
        held.set()
        release.wait()


def test_two_sweeps_of_one_store_are_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    path = str(tmp_path / "toy.db")
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, held, release))
    other.start()
    try:
        assert held.wait(60)
        with (
            pytest.raises(StudyError, match="being swept by another process"),
            store.sole_sweeper(path, "toy"),
        ):
            pass
    finally:
        other.kill()
        other.join()
    with store.sole_sweeper(path, "toy"):
        pass


def _dump(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return list(connection.iterdump())

"""Loading: everything stored comes back, nothing is created, and what is wrong is one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import optuna
import pytest

import sweeps.store
from harness.record import Source, to_json
from results.load import load_jsonl, load_study
from results.study import ResultsError


def refused(call: Any, *says: str) -> None:
    with pytest.raises(ResultsError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for each in says:
        assert each in message


def test_a_stored_study_loads_equal(synthetic: Any, sqlite_url: str) -> None:
    study = synthetic.study(12)
    synthetic.store(study, sqlite_url)
    assert load_study(sqlite_url, "synthetic") == study
    assert load_study(Path(sqlite_url.removeprefix("sqlite:///")), "synthetic") == study


def test_what_the_sweep_stores_is_what_is_loaded(synthetic: Any, tmp_path: Path) -> None:
    made = synthetic.study(4)
    described = msgspec.convert(msgspec.to_builtins(made.info), sweeps.store.StudyInfo)
    storage = sweeps.store.open_storage(str(tmp_path / "sweep.db"), create=True)
    opened = sweeps.store.open_study(storage, described, optuna.samplers.RandomSampler(seed=0), {})
    for record in made.records:
        sweeps.store.add(opened, record)
    assert load_study(storage, made.info.name) == replace(made, without_record=0)
    assert load_study(tmp_path / "sweep.db", made.info.name) == replace(made, without_record=0)


def test_any_storage_object_loads(synthetic: Any) -> None:
    storage = optuna.storages.InMemoryStorage()
    study = synthetic.study(3)
    synthetic.store(study, storage)
    assert load_study(storage, "synthetic") == study


def test_a_missing_storage_is_refused_and_not_created(tmp_path: Path) -> None:
    path = tmp_path / "absent.db"
    refused(lambda: load_study(f"sqlite:///{path}", "x"), str(path), "no such study file")
    assert not path.exists()


@pytest.mark.parametrize("contents", [b"", b"this is not a database" * 100])
def test_a_file_that_is_no_storage_is_refused_and_left_alone(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    path.write_bytes(contents)
    refused(lambda: load_study(path, "x"), str(path), "not a readable Optuna storage")
    assert path.read_bytes() == contents


@pytest.mark.parametrize("url", ["nonsense://x", "postgresql+nodriver://user:secret@host/db"])
def test_an_impossible_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ResultsError) as caught:
        load_study(url, "x")
    assert "secret" not in str(caught.value)


def test_an_unknown_study_is_refused_naming_the_known(synthetic: Any, sqlite_url: str) -> None:
    synthetic.store(synthetic.study(1), sqlite_url)
    refused(lambda: load_study(sqlite_url, "other"), "no study 'other'", "synthetic")


def test_a_study_that_is_no_sweep_is_refused(sqlite_url: str) -> None:
    optuna.create_study(storage=sqlite_url, study_name="mine")
    refused(lambda: load_study(sqlite_url, "mine"), "schema None", "routertune.study/1")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": "routertune.study/9"}, "routertune.study/9"),
        ({"m_values": "many"}, "m_values"),
        ({"source": "guessed"}, "guessed"),
    ],
)
def test_a_malformed_description_is_refused(
    change: dict[str, Any], says: str, synthetic: Any, sqlite_url: str
) -> None:
    synthetic.store(synthetic.study(1), sqlite_url)
    stored = optuna.load_study(study_name="synthetic", storage=sqlite_url)
    stored.set_user_attr("study", stored.user_attrs["study"] | change)
    refused(lambda: load_study(sqlite_url, "synthetic"), says)


@pytest.mark.parametrize("record", ["{", '{"schema": "routertune.record/9"}', 7])
def test_a_corrupt_record_is_refused_naming_the_trial(record: Any, synthetic: Any, sqlite_url: str) -> None:
    synthetic.store(synthetic.study(2), sqlite_url)
    stored = optuna.load_study(study_name="synthetic", storage=sqlite_url)
    number = len(stored.trials)
    stored.add_trial(
        optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs={"record": record})
    )
    refused(lambda: load_study(sqlite_url, "synthetic"), f"trial {number}", "corrupt record")


def test_a_packs_records_load_as_a_study(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(5)
    path = tmp_path / "h100.jsonl"
    path.write_bytes(b"\n".join(to_json(record) for record in study.records) + b"\n")
    loaded = load_jsonl(path)
    assert loaded.records == study.records
    assert (loaded.info.name, loaded.info.family, loaded.info.source) == (
        "h100",
        "fused-sm90",
        Source.MEASURED,
    )
    assert loaded.info.m_values == study.info.m_values


def test_a_bad_line_of_a_pack_is_refused_naming_it(synthetic: Any, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    refused(lambda: load_jsonl(path), str(path), "No such file")
    path.write_bytes(b"\n")
    refused(lambda: load_jsonl(path), "holds no records")
    good = synthetic.record()
    path.write_bytes(to_json(good) + b"\n" + to_json(good)[:-5] + b"\n")
    refused(lambda: load_jsonl(path), "line 2", "corrupt record")
    path.write_bytes(to_json(good) + b"\n" + to_json(replace(good, target="sm_100a")) + b"\n")
    refused(lambda: load_jsonl(path), "sm_90a", "sm_100a")

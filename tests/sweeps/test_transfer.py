"""Records that were measured elsewhere come into the study once, and only where they belong."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.cache import artifact_key
from harness.pack import PackError
from harness.record import DeviceFacts, Outcome, RecordError, TrialRecord
from harness.records import RecordWriter
from harness.toolchain import compiler_versions
from kernels.problem import RouterProblem
from results.load import load_study
from sweeps import store, transfer
from sweeps.driver import Ending
from sweeps.errors import StudyError
from sweeps.objective import PENALTY
from sweeps.places import Place
from sweeps.space import config_id
from sweeps.transfer import collect_records, pack_sweep
from tests.sweeps.toy_driver import ALL, SPEC, Sweep
from tests.sweeps.toys import PROBLEM, TARGET, ToyBaseline, ToyExecutor, ToyFamily, toy_record

GPU = DeviceFacts("Toy", uuid="GPU-1")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    known = {family.name: family for family in (ToyFamily(), ToyBaseline())}
    monkeypatch.setattr("kernels.families.families", lambda: known)
    return tmp_path


def measured(index: int, **changes: Any) -> TrialRecord:
    return replace(toy_record(ALL[index], artifact_key=config_id(ALL[index]), device=GPU), **changes)


def write(*records: TrialRecord) -> Path:
    path = Path("records.jsonl")
    path.unlink(missing_ok=True)
    writer = RecordWriter(path)
    for record in records:
        writer.append(record)
    return path


def collect(*records: TrialRecord) -> tuple[int, int]:
    done = collect_records(write(*records), SPEC, None, "toy")
    return done.added, done.known


def test_records_are_added_once() -> None:
    first = [measured(0), measured(1), measured(0, role="baseline", family="toy_baseline")]
    assert collect(*first) == (3, 0)
    assert collect(*first) == (0, 3)
    assert collect(measured(1), measured(2)) == (1, 1)
    loaded = load_study("runs/toy.db", "toy")
    assert loaded.candidates == (first[0], first[1], measured(2))
    assert loaded.baselines == (first[2],)


def test_a_sweep_goes_on_where_the_records_end() -> None:
    """What was measured elsewhere is told, and not asked again."""
    failed = replace(measured(1), outcome=Outcome.CRASHED, measurements=())
    collect(measured(0), failed)
    study = store.read_study(store.open_storage("runs/toy.db"), "toy")
    values = [trial.value for trial in study.get_trials()]
    assert values[0] is not None
    assert values[0] < PENALTY
    assert values[1] == PENALTY
    # Under the toy executor's name, to drive the rest of the same space.
    info = replace(store.read_info(study), executor="toy")
    study.set_user_attr("study", msgspec.to_builtins(info))
    sweep = Sweep(Path("runs/toy.db"), executor=ToyExecutor())
    sweep.run()
    asked = [config_id(params) for params in sweep.pool.submitted]
    assert len(sweep.records()) == len(ALL)
    assert asked.count(config_id(ALL[1])) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "sm_100a"}, "has target sm_100a, the sweep sm_90a"),
        ({"source": "modelled"}, "has source modelled, the sweep measured"),
        ({"family": "other"}, "a candidate is of other, the sweep of toy"),
        ({"config": {"tile": 1}}, "config is not in the sweep's space"),
        ({"measurements": ()}, r"measured at M = \[\], the sweep at \[1, 64\]"),
    ],
)
def test_records_of_something_else_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        collect(measured(0), measured(1, **changes))
    assert not Path("runs").exists()


def test_records_of_another_device_are_refused_and_nothing_is_added() -> None:
    collect(measured(0))
    with pytest.raises(StudyError, match="records of Other and Toy do not compare"):
        collect(measured(2, device=DeviceFacts("Other")))
    assert len(load_study("runs/toy.db", "toy").records) == 1


def test_records_that_do_not_compare_leave_no_store() -> None:
    with pytest.raises(StudyError, match="records of Other and Toy do not compare"):
        collect(measured(1), measured(2, device=DeviceFacts("Other")))
    assert not Path("runs").exists()


def test_records_of_the_present_kernels_and_of_others_are_kept_apart() -> None:
    collect(measured(0))
    present = measured(1)
    config = ToyFamily().config(present.config)
    present = replace(
        present, artifact_key=artifact_key(ToyFamily(), PROBLEM, config, TARGET, compiler_versions())
    )
    with pytest.raises(StudyError, match="1 records of kernels with the present sources and 1 of others"):
        collect(present)
    assert len(load_study("runs/toy.db", "toy").records) == 1


def test_what_is_compiled_for_a_pack_can_have_another_study(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Any] = []

    def drive(spec: Any, space: Any, place: Any, *_: Any, **__: Any) -> None:
        places.append(place)
        raise StudyError("enough")

    monkeypatch.setattr("sweeps.transfer.drive", drive)
    with pytest.raises(StudyError, match="enough"):
        pack_sweep(SPEC, Path("there"), study="other", workers=1, cache=None)
    assert places == [Place("runs/other.db", "other")]


def test_a_file_that_is_no_records_is_refused_with_its_line() -> None:
    path = write(measured(0))
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(RecordError, match=r"records\.jsonl, line 2: "):
        collect_records(path, SPEC, None, "toy")


def test_a_stopped_pack_is_no_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Part of a sweep, in a folder that says nothing of it, would be taken for the whole."""
    monkeypatch.setattr(transfer, "drive", lambda *_, **__: Ending.STOPPED)
    with pytest.raises(PackError, match="stopped: nothing is packed; the same command goes on"):
        pack_sweep(SPEC, Path("there"), workers=1, cache=None)
    assert not Path("there").exists()


def test_a_record_fits_a_problem_that_says_no_defaults() -> None:
    """A record says what a problem is to the last field, a sweep's table only what differs."""
    said = msgspec.convert(
        {key: value for key, value in msgspec.to_builtins(asdict(PROBLEM)).items() if key != "score"},
        RouterProblem,
    )
    assert said == PROBLEM
    records = Path("records.jsonl")
    writer = RecordWriter(records)
    writer.append(measured(0, problem=msgspec.to_builtins(asdict(PROBLEM))))
    assert collect_records(records, replace(SPEC, problem=said), None, None).added == 1


def test_a_pack_that_would_time_quantization_is_refused() -> None:
    with pytest.raises(PackError, match="quantize = true: a pack holds no kernels that quantize"):
        pack_sweep(replace(SPEC, quantize=True), Path("there"), workers=1, cache=None)


def test_a_pack_does_not_overwrite() -> None:
    Path("there").mkdir()
    with pytest.raises(PackError, match="there exists: name a new folder"):
        pack_sweep(SPEC, Path("there"), workers=1, cache=None)

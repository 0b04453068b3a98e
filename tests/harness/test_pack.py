"""Packs: whole, verified, measured once each, resumed after anything; and records as lines."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from harness import pack
from harness import provenance as provenance_module
from harness.executor import Executor, MeasurePlan
from harness.pack import PackError, PackSummary, read_pack, write_pack
from harness.pack_measure import measure_pack
from harness.record import Outcome, RecordError, TrialRecord
from harness.records import RecordWriter, read_records
from tests.harness.standin import TARGET, TOOLCHAIN, StandinConfig, StandinPool, standin_executor

PLAN = MeasurePlan(m_values=(1, 16), samples=2, timeout_s=20.0)


@pytest.fixture(autouse=True)
def _small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels without a network, and a runtime library of a few bytes."""

    def wheels(folder: Path, python: str) -> None:
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / f"nothing-{python}.whl", "w"):
            pass

    library = tmp_path / "libcute_dsl_runtime.so"
    library.write_bytes(b"runtime")
    monkeypatch.setenv("ROUTERTUNE_DSL_RUNTIME", str(library))
    monkeypatch.setattr(pack, "_download_wheels", wheels)


def packed(tmp_path: Path, faults: tuple[str, ...] = ("none", "segfault")) -> PackSummary:
    pool = StandinPool(tmp_path / "cache")
    artifacts = [pool.artifact(StandinConfig(fault=fault)) for fault in faults]
    baseline = pool.artifact(StandinConfig(tile=64))
    return write_pack(tmp_path / "pack", artifacts, PLAN, baselines=[baseline])


def forbidden(target: str) -> Executor:
    raise AssertionError(f"nothing is left to measure for {target}")


def test_a_pack_is_measured_where_it_arrives(tmp_path: Path) -> None:
    summary = packed(tmp_path)
    assert summary.artifacts == 3
    assert summary.size_bytes == sum(f.stat().st_size for f in summary.folder.rglob("*") if f.is_file())
    arrived = summary.folder.rename(tmp_path / "arrived")
    out = tmp_path / "records.jsonl"
    seen: list[tuple[int, int]] = []

    def report(record: TrialRecord, done: int, total: int) -> None:
        assert read_records(out)[-1] == record, "a record is on disk before it is reported"
        seen.append((done, total))

    assert measure_pack(arrived, out, lambda target: standin_executor(), report=report) == 3
    good, bad, baseline = read_records(out)
    assert [record.outcome for record in (good, bad, baseline)] == [Outcome.OK, Outcome.CRASHED, Outcome.OK]
    assert [record.role for record in (good, bad, baseline)] == ["candidate", "candidate", "baseline"]
    assert [measurement.m for measurement in good.measurements] == [1, 16]
    assert good.target == TARGET
    assert good.provenance is not None
    assert good.provenance.commit == read_pack(arrived).commit
    assert good.check is not None
    assert baseline.check is not None
    assert good.check.cases[0].seed != baseline.check.cases[0].seed, "fresh inputs for every artifact"
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert measure_pack(arrived, out, forbidden) == 0


def test_a_record_names_the_compiler_of_its_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that the measuring host happens to have."""
    folder, out = packed(tmp_path, ("none",)).folder, tmp_path / "records.jsonl"
    host = {"torch": "2", **dict.fromkeys(TOOLCHAIN, "another")}
    monkeypatch.setattr(provenance_module, "versions", lambda: host)
    measure_pack(folder, out, lambda target: standin_executor())
    for record in read_records(out):
        assert record.provenance is not None
        assert record.provenance.versions == {"torch": "2"} | TOOLCHAIN


def test_measuring_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    folder = packed(tmp_path).folder
    out = tmp_path / "records.jsonl"
    measure_pack(folder, out, lambda target: standin_executor())
    whole = out.read_bytes()
    first = whole.index(b"\n") + 1
    out.write_bytes(whole[: first + 40])
    assert len(read_records(out)) == 1
    assert measure_pack(folder, out, lambda target: standin_executor()) == 2
    assert out.read_bytes()[:first] == whole[:first], "what was recorded stays as it is"
    assert [record.artifact_key for record in read_records(out)] == [
        entry.key for entry in read_pack(folder).entries
    ]


@pytest.mark.parametrize("victim", ["source/harness/worker.py", "lib/libcute_dsl_runtime.so.gz"])
def test_an_altered_pack_is_refused(tmp_path: Path, victim: str) -> None:
    folder = packed(tmp_path).folder
    (folder / victim).write_bytes(b"altered")
    with pytest.raises(PackError, match=rf"{victim}: altered since it was packed"):
        measure_pack(folder, tmp_path / "records.jsonl", forbidden)


def test_a_folder_that_is_no_pack_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="not a readable pack"):
        read_pack(tmp_path)
    (tmp_path / "pack.json").write_text('{"schema": "routertune.pack/9"}')
    with pytest.raises(PackError, match="schema is not"):
        read_pack(tmp_path)


def test_what_cannot_be_packed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PackError, match="for none"):
        write_pack(tmp_path / "pack", [], PLAN)
    monkeypatch.setattr(pack, "MAX_BYTES", 1000)
    with pytest.raises(PackError, match="pack fewer of the 3 artifacts"):
        packed(tmp_path)
    assert not (tmp_path / "pack").exists()
    (tmp_path / "pack").mkdir()
    with pytest.raises(PackError, match="exists"):
        packed(tmp_path)


def test_artifacts_of_two_targets_do_not_mix(tmp_path: Path) -> None:
    artifact = StandinPool(tmp_path / "cache").artifact(StandinConfig())
    other = replace(artifact, manifest=replace(artifact.manifest, target="sm_100a"))
    with pytest.raises(PackError, match="for sm_100a, sm_90a"):
        write_pack(tmp_path / "pack", [artifact, other], PLAN)


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    out = tmp_path / "records.jsonl"
    out.write_text('{"schema": "other/1"}\n')
    with pytest.raises(RecordError, match=r"records\.jsonl, line 1: record schema 'other/1'"):
        RecordWriter(out)
    assert out.read_text() == '{"schema": "other/1"}\n', "a file of something else is left alone"


def bootstrap(folder: Path, *arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(("-c", code) if code else (str(folder / "measure.py"),)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_the_bootstrap_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = packed(tmp_path).folder
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = bootstrap(folder, "--out", str(tmp_path / "records.jsonl"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: no NVIDIA GPU is visible")
    assert "Traceback" not in done.stderr
    (folder / "wheels" / f"{sys.version_info.major}.{sys.version_info.minor}").rename(tmp_path / "gone")
    done = bootstrap(folder, "--out", str(tmp_path / "records.jsonl"))
    assert done.returncode == 1
    assert "error: this pack is for Python 3." in done.stderr


BARE_HOST = """
import sys
sys.path.insert(0, "source")
for absent in "cutlass click filelock elftools optuna pandas pebble scipy tqdm".split():
    sys.modules[absent] = None  # importing it raises ImportError
import harness.check, harness.cuda_runner, harness.launcher, harness.pack_measure, harness.worker
from kernels.families import families
print(*families())
"""


def test_measuring_imports_nothing_that_a_gpu_host_lacks(tmp_path: Path) -> None:
    done = bootstrap(packed(tmp_path).folder, code=BARE_HOST)
    assert done.returncode == 0, done.stderr
    assert "fused_sm90" in done.stdout

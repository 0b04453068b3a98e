"""A sweep goes on in a study only where what it adds compares with what is there."""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from harness.cache import ArtifactCache, artifact_key, source_digest
from harness.compile_result import CompileResult
from harness.record import DeviceFacts, Outcome, Source
from harness.simulator.target import target_named
from harness.toolchain import compiler_versions
from results.load import load_study
from sweeps.comparable import MODEL_ATTR, count_by_kernels, table_digest
from sweeps.driver import Ending
from sweeps.errors import StudyError
from sweeps.places import Place
from sweeps.run import drive
from sweeps.space import Space, config_params
from sweeps.spec import ConfirmSpec
from tests.sweeps.toy_driver import SPEC
from tests.sweeps.toys import TARGET, ToyBaseline, ToyExecutor, ToyFamily, ToyPool, toy_artifact


class KeyedPool(ToyPool):
    """A toy pool whose artifacts have the keys that the cache would give them."""

    def __init__(self, *_: Any, workers: int | None = None) -> None:
        super().__init__()

    def submit(self, family: Any, problem: Any, config: Any, target: str) -> Future[CompileResult]:
        key = artifact_key(family, problem, config, target, compiler_versions())
        future: Future[CompileResult] = Future()
        future.set_result(CompileResult(key, toy_artifact(config_params(config)), Outcome.COMPILED))
        return future

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Device(ToyExecutor):
    def __init__(self, name: str = "Toy", source: Source = Source.MEASURED) -> None:
        super().__init__()
        self.source = source
        self._name = name

    def device(self) -> DeviceFacts:
        return DeviceFacts(self._name)


class SourcedFamily(ToyFamily):
    """The toy family with a source file that a test can change."""

    source_file: ClassVar[Path]

    def source_files(self) -> tuple[Path, ...]:
        return (self.source_file,)


@pytest.fixture(autouse=True)
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source file of the toy kernel."""
    source = tmp_path / "kernel.py"
    source.write_text("first")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROUTERTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sweeps.run.CompilePool", KeyedPool)
    monkeypatch.setattr(SourcedFamily, "source_file", source, raising=False)
    known = {family.name: family for family in (SourcedFamily(), ToyBaseline())}
    monkeypatch.setattr("kernels.families.families", lambda: known)
    source_digest.cache_clear()
    return source


def sweep(executor: ToyExecutor | None, trials: int, study: str = "toy") -> Ending:
    spec = replace(SPEC, search=replace(SPEC.search, trials=trials), confirm=ConfirmSpec(1, 0))
    space = Space(SourcedFamily(), spec.problem, TARGET)
    return drive(spec, space, Place("toy.db", study), executor, workers=1, cache=ArtifactCache())


def candidates() -> int:
    return len(load_study("toy.db", "toy").candidates)


def refused(executor: ToyExecutor | None, says: str) -> None:
    before = candidates()
    with pytest.raises(StudyError, match=f"^study 'toy' {says}: choose another name with --study$"):
        sweep(executor, trials=9)
    assert candidates() == before
    assert executor is None or executor.evaluated == []
    assert sweep(executor, trials=3, study="another") is Ending.TRIALS


def test_the_same_device_and_kernels_go_on() -> None:
    sweep(Device(), trials=3)
    sweep(Device(), trials=5)
    assert candidates() == 5


def test_another_device_is_refused() -> None:
    sweep(Device("NVIDIA H100"), trials=3)
    refused(Device("NVIDIA H200"), "has trials on NVIDIA H100, not NVIDIA H200")


@pytest.mark.parametrize("executor", [Device(), None], ids=["run", "only compiled"])
def test_other_kernels_are_refused(executor: Device | None, kernel: Path) -> None:
    sweep(executor, trials=3)
    kernel.write_text("second")
    source_digest.cache_clear()  # as a new process would
    refused(executor and Device(), "has 3 trials of kernels with other sources than the present ones")


def test_a_record_may_name_another_compiler_than_its_artifact_was_made_by() -> None:
    """A host that measures a pack names its own versions where it has some."""
    sweep(Device(), trials=3)
    record = load_study("toy.db", "toy").candidates[0]
    assert record.provenance is not None
    of_the_host = replace(record.provenance, versions=dict.fromkeys(compiler_versions(), "0"))
    assert count_by_kernels([record, replace(record, provenance=of_the_host)]) == (2, 0)


@pytest.mark.parametrize(
    "changes",
    [{"family": "gone"}, {"config": {"tile_of_another_version": 1}}, {"problem": {}}],
    ids=["family", "config", "problem"],
)
def test_a_record_of_what_is_no_more_is_of_other_kernels(changes: dict[str, Any]) -> None:
    sweep(Device(), trials=3)
    record = load_study("toy.db", "toy").candidates[0]
    assert count_by_kernels([replace(record, **changes)]) == (0, 1)
    assert count_by_kernels([replace(record, artifact_key="")]) == (0, 0)


def test_another_table_of_the_simulator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(Device(source=Source.MODELLED), trials=3)
    sweep(Device(source=Source.MODELLED), trials=4)
    monkeypatch.setattr("sweeps.comparable.table_digest", lambda target: "other")
    refused(Device(source=Source.MODELLED), "has times from another table of the simulator")


def test_modelled_times_of_a_version_that_noted_no_table_are_read_and_not_added_to() -> None:
    sweep(Device(source=Source.MODELLED), trials=3)
    with sqlite3.connect("toy.db") as connection:
        connection.execute("DELETE FROM study_user_attributes WHERE key = ?", (MODEL_ATTR,))
    refused(Device(source=Source.MODELLED), "does not say which table of the simulator its times are from")
    assert len(load_study("toy.db", "toy").candidates) == 3


def test_a_table_is_its_numbers_not_what_they_are_known_from(monkeypatch: pytest.MonkeyPatch) -> None:
    table = target_named("sm_90a")
    before = table_digest("sm_90a")
    monkeypatch.setattr("sweeps.comparable.target_named", lambda _: replace(table, sources={}))
    assert table_digest("sm_90a") == before
    faster = table.with_values({"chip.clock_mhz": 2 * table.clock_mhz})
    monkeypatch.setattr("sweeps.comparable.target_named", lambda _: faster)
    assert table_digest("sm_90a") != before

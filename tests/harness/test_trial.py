"""A record is assembled from as much as is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.compile_result import CompileResult
from harness.executor import Evaluation
from harness.provenance import git_commit, provenance
from harness.record import DeviceFacts, Outcome, Source, from_json, to_json
from harness.trial import RunFacts, TrialIdentity, assemble_record
from tests.harness.standin import PROBLEM, RATES, TARGET, StandinConfig, StandinPool

TRIAL = TrialIdentity.of("standin", PROBLEM, {"tile": 32, "fault": "none"}, TARGET)
RUN = RunFacts(provenance(commit="abc", command="test"), Source.MODELLED, DeviceFacts("stand-in"), RATES)


def test_an_illegal_config_has_an_outcome_and_nothing_else() -> None:
    record = assemble_record(TRIAL, RUN, illegal="too wide")
    assert (record.outcome, record.reason, record.source) == (Outcome.ILLEGAL, "too wide", Source.NONE)
    assert (record.device, record.rates, record.artifact_key) == (None, None, "")
    assert from_json(to_json(record)) == record


def test_a_failed_compile_keeps_its_key_and_reason() -> None:
    compiled = CompileResult("k", None, Outcome.COMPILE_ERROR, "does not fit", 1.5)
    record = assemble_record(TRIAL, RUN, compiled=compiled)
    assert (record.outcome, record.reason, record.artifact_key, record.compile_s) == (
        Outcome.COMPILE_ERROR,
        "does not fit",
        "k",
        1.5,
    )
    assert record.source is Source.NONE


def test_what_was_run_carries_device_rates_and_source(tmp_path: Path) -> None:
    artifact = StandinPool(tmp_path).artifact(StandinConfig())
    record = assemble_record(
        TrialIdentity.of_manifest(artifact.manifest, role="baseline"),
        RUN,
        compiled=CompileResult.of_artifact(artifact, from_cache=True),
        evaluation=Evaluation(Outcome.CRASHED, "killed by SIGSEGV (in check)", run_s=2.0),
    )
    assert (record.outcome, record.source, record.role) == (Outcome.CRASHED, Source.MODELLED, "baseline")
    assert (record.device, record.rates) == (RUN.device, RATES)
    assert record.problem == TRIAL.problem
    assert record.artifact_key == artifact.key
    assert from_json(to_json(record)) == record


def test_a_trial_without_any_result_is_refused() -> None:
    with pytest.raises(ValueError, match="no outcome"):
        assemble_record(TRIAL, RUN)


def test_outside_git_the_commit_is_unknown(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == ""

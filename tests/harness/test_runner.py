"""What every runner does with what the check found."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness import check
from harness.record import CaseResult, CheckResult
from harness.runner import Candidate
from tests.harness.standin import PROBLEM, StandinConfig, StandinPool, StandinRunner


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 3.5])
def test_a_check_survives_json(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found = CheckResult(False, (CaseResult("ties", 1, 0, False, 1, value, value, "wrong"),))
    monkeypatch.setattr(check, "check_router", lambda *arguments, **options: found)
    result = StandinRunner().check(Candidate(print, PROBLEM, lambda m: 1), seed=0)
    assert msgspec.json.decode(msgspec.json.encode(result), type=CheckResult) == result
    assert result.cases[0].worst_margin_ratio >= 3.5


def test_a_manifest_of_an_unknown_family_is_refused(tmp_path: Path) -> None:
    manifest = StandinPool(tmp_path).artifact(StandinConfig()).manifest
    with pytest.raises(ValueError, match="unknown kernel family 'standin'"):
        Candidate.of_manifest(manifest, print)

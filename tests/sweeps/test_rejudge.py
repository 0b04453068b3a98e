"""Judging anew changes judgements, never measurements, and leaves the old study alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from harness.record import Conditions, DeviceFacts, Outcome, TrialRecord
from sweeps import store
from sweeps.errors import StudyError
from sweeps.rejudge import rejudge, rejudge_study
from tests.sweeps.toys import toy_record

PARAMS = {"tile": 8, "stages": 1, "mode": "plain", "early": False}


def capped(clock_mhz: int) -> TrialRecord:
    """A record that was called unstable because of the power limit, at this clock of at most 1980 MHz."""
    record = toy_record(PARAMS)
    conditions = Conditions(sm_clock_mhz=clock_mhz, throttle_reasons=("sw_power_cap",))
    return replace(
        record,
        outcome=Outcome.UNSTABLE,
        reason="unsteady",
        device=DeviceFacts("toy", max_sm_clock_mhz=1980),
        measurements=tuple(replace(at, steady=False, conditions=conditions) for at in record.measurements),
    )


def test_a_clock_one_step_down_is_steady_and_a_capped_one_is_not() -> None:
    good = rejudge(capped(1965), 0.05)
    assert (good.outcome, good.reason) == (Outcome.OK, "")
    assert all(at.steady for at in good.measurements)
    assert [at.cold for at in good.measurements] == [at.cold for at in capped(1965).measurements]
    bad = rejudge(capped(1845), 0.05)
    assert bad.outcome is Outcome.UNSTABLE
    assert bad.reason.startswith("unsteady at M = ")


def test_what_failed_stays_as_it_is() -> None:
    wrong = replace(toy_record(PARAMS), outcome=Outcome.WRONG_RESULT)
    assert rejudge(wrong, 0.05) == wrong


def test_the_study_is_copied_and_the_old_one_stays(tmp_path: Path) -> None:
    old, new = str(tmp_path / "old.db"), str(tmp_path / "new.db")
    study = optuna.create_study(study_name="s", storage=store.open_storage(old, create=True))
    study.set_user_attr("study", {"name": "s"})
    for record in (capped(1965), toy_record(PARAMS)):
        store.add(study, record)
    assert rejudge_study(old, "s", new) == 1
    copy = optuna.load_study(study_name="s", storage=store.open_storage(new))
    assert copy.user_attrs == study.user_attrs
    assert [record.outcome for record in store.records(copy)] == [Outcome.OK, Outcome.OK]
    assert [record.outcome for record in store.records(study)] == [Outcome.UNSTABLE, Outcome.OK]
    with pytest.raises(StudyError, match="already"):
        rejudge_study(old, "s", new)
    with pytest.raises(StudyError, match="no study"):
        rejudge_study(old, "other", new)


def test_a_study_with_an_unreadable_record_is_not_copied(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    study = optuna.create_study(study_name="s", storage=store.open_storage(str(old), create=True))
    store.add(study, toy_record(PARAMS))
    study.ask().set_user_attr("record", "{")
    with pytest.raises(StudyError, match="trial 1: not a record"):
        rejudge_study(str(old), "s", str(new))
    assert not new.exists()

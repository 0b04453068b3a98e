"""Judge a study's measurements by the present rule of steadiness, from what their records hold.

Whether a measurement is steady is a judgement, and its rule may change; samples, clocks and throttle reasons
are what was measured, and every record keeps them. The judged study is a new one: the old store stays as it
is.
"""

from __future__ import annotations

from dataclasses import replace

import optuna

from harness.executor import MeasurePlan
from harness.record import Measurement, Outcome, TrialRecord, from_json, to_json
from harness.timing import Attempt
from sweeps.errors import StudyError
from sweeps.store import RECORD_ATTR, open_storage, records


def rejudge(record: TrialRecord, max_relative_spread: float) -> TrialRecord:
    """`record` with its measurements, and the outcome that follows from them, judged anew."""
    if record.outcome not in (Outcome.OK, Outcome.UNSTABLE):
        return record
    max_clock_mhz = record.device.max_sm_clock_mhz if record.device else 0

    def judged(at: Measurement) -> Measurement:
        attempt = Attempt(at.cold, at.warm, at.conditions, max_clock_mhz)
        return replace(at, steady=attempt.steady(max_relative_spread))

    measurements = tuple(judged(at) for at in record.measurements)
    unsteady = [str(at.m) for at in measurements if not at.steady]
    return replace(
        record,
        measurements=measurements,
        outcome=Outcome.UNSTABLE if unsteady else Outcome.OK,
        reason=f"unsteady at M = {', '.join(unsteady)}" if unsteady else "",
    )


def rejudge_study(storage: str, name: str, output: str) -> int:
    """Copy the study `name` to the new storage `output`, every record judged anew; how many changed.

    Raises `StudyError` when there is no such study, a record of it cannot be read, or `output` has one of
    that name.
    """
    opened = open_storage(storage, create=False)
    try:
        source = optuna.load_study(study_name=name, storage=opened)
    except KeyError:
        raise StudyError(f"{storage} has no study {name!r}") from None
    records(source)  # all can be read, or there is no copy
    try:
        copy = optuna.create_study(study_name=name, storage=open_storage(output, create=True))
    except optuna.exceptions.DuplicatedStudyError:
        raise StudyError(f"{output} has a study {name!r} already: name another file") from None
    for key, value in source.user_attrs.items():
        copy.set_user_attr(key, value)
    changed = 0
    for trial in source.get_trials(deepcopy=True):
        if text := trial.user_attrs.get(RECORD_ATTR):
            record = from_json(text)
            judged = rejudge(record, MeasurePlan().max_relative_spread)
            changed += judged != record
            trial.user_attrs[RECORD_ATTR] = to_json(judged).decode()
        if trial.state.is_finished():
            copy.add_trial(trial)
    return changed

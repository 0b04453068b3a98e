"""The choice: the fastest eligible config, ties by the rule, confirmations before luck."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from harness.record import DeviceFacts, Outcome, Source
from results.choose import choose, choose_all
from results.stats import Verdict, compare
from results.study import ResultsError

M = 64


def study_of(synthetic: Any, *records: Any) -> Any:
    study = synthetic.study(0)
    return replace(study, info=replace(study.info, m_values=(M,)), records=records)


def at(synthetic: Any, us: float, stages: int, **changes: Any) -> Any:
    return synthetic.record({"stages": stages}, cold_us=lambda m: us, seed=stages, m_values=(M,), **changes)


@pytest.mark.parametrize("seed", range(5))
def test_no_eligible_candidate_is_faster_than_the_choice(synthetic: Any, seed: int) -> None:
    study = synthetic.study(40, seed)
    choices = choose_all(study)
    assert [choice.m for choice in choices] == list(synthetic.m_values)
    for choice in choices:
        for record in study.candidates:
            if record.outcome is Outcome.OK:
                fastest = record.at(choice.m).cold
                assert compare(fastest, choice.best.cold) is not Verdict.FASTER, f"seed {seed}, M {choice.m}"


def test_the_choice_differs_between_small_and_large_m(synthetic: Any) -> None:
    study = synthetic.study(200, seed=2, failing=0.0)
    assert choose(study, 1).best.record.config["tile_m"] == 64
    assert choose(study, 16384).best.record.config["tile_m"] == 128


def test_a_tie_goes_to_fewer_registers_not_to_the_luckier_median(synthetic: Any) -> None:
    # The generator's registers grow with the stages.
    lean, lucky = at(synthetic, 10.02, stages=3), at(synthetic, 10.0, stages=6)
    choice = choose(study_of(synthetic, lucky, lean), M)
    assert choice.best.record is lean
    assert [each.record for each in choice.tied] == [lucky]


@pytest.mark.parametrize("outcome", [Outcome.WRONG_RESULT, Outcome.CRASHED, Outcome.TIMEOUT])
def test_what_is_not_ok_is_never_chosen_however_fast(synthetic: Any, outcome: Outcome) -> None:
    fast, slow = at(synthetic, 5.0, stages=3, outcome=outcome), at(synthetic, 10.0, stages=4)
    assert choose(study_of(synthetic, fast, slow), M).best.record is slow
    assert choose(study_of(synthetic, fast), M) is None


def test_an_unstable_trial_is_eligible_where_it_was_steady(synthetic: Any) -> None:
    fast, slow = (
        at(synthetic, 5.0, stages=3, outcome=Outcome.UNSTABLE),
        at(synthetic, 10.0, stages=4),
    )
    assert choose(study_of(synthetic, fast, slow), M).best.record is fast


def test_an_unsteady_measurement_is_not_chosen(synthetic: Any) -> None:
    fast = at(synthetic, 5.0, stages=3)
    fast = replace(fast, measurements=(replace(fast.measurements[0], steady=False),))
    slow = at(synthetic, 10.0, stages=4)
    assert choose(study_of(synthetic, fast, slow), M).best.record is slow


def test_confirmations_decide(synthetic: Any) -> None:
    lucky, solid, slow = (at(synthetic, us, stages=n) for us, n in ((9.0, 3), (10.0, 4), (20.0, 6)))
    again = [
        at(synthetic, us, stages=n, role="confirmation") for _ in range(3) for us, n in ((11.0, 3), (10.0, 4))
    ]
    choice = choose(study_of(synthetic, lucky, solid, slow, *again), M)
    assert choice.confirmed
    assert choice.best.record.config == solid.config
    assert choice.best.rounds == 3
    assert len(choice.best.cold.samples_us) == 60


def test_confirmations_of_old_finalists_do_not_hide_a_new_best(synthetic: Any) -> None:
    old, new = at(synthetic, 10.0, stages=3), at(synthetic, 8.0, stages=4)
    choice = choose(study_of(synthetic, old, replace(old, role="confirmation"), new), M)
    assert not choice.confirmed
    assert choice.best.record is new


def test_a_finalist_that_fails_its_confirmation_is_out(synthetic: Any) -> None:
    wrong, right = at(synthetic, 8.0, stages=3), at(synthetic, 10.0, stages=4)
    again = replace(wrong, role="confirmation", outcome=Outcome.WRONG_RESULT, measurements=())
    assert choose(study_of(synthetic, wrong, right, again), M).best.record is right


def test_the_baseline_is_compared(synthetic: Any) -> None:
    best, slower = at(synthetic, 10.0, stages=3), replace(synthetic.baseline(), measurements=())
    without = choose(study_of(synthetic, best, slower), M)
    assert (without.baseline, without.verdict, without.speedup) == (None, None, None)
    for us, verdict in ((12.5, Verdict.FASTER), (8.0, Verdict.SLOWER), (10.0, Verdict.TIE)):
        baseline = replace(synthetic.baseline(), measurements=at(synthetic, us, stages=9).measurements)
        choice = choose(study_of(synthetic, best, baseline), M)
        assert choice.verdict is verdict
        assert choice.speedup == pytest.approx(us / 10.0, rel=0.02)


def test_confirmed_winners_meet_the_baseline_of_the_same_rounds(synthetic: Any) -> None:
    best, before = at(synthetic, 10.0, stages=3), synthetic.baseline()
    before = replace(before, measurements=at(synthetic, 8.0, stages=9).measurements)
    beside = replace(before, role="confirmation", measurements=at(synthetic, 12.0, stages=9).measurements)
    choice = choose(study_of(synthetic, before, best, replace(best, role="confirmation"), beside), M)
    assert choice.best.record.family == "fused-sm90"
    assert choice.verdict is Verdict.FASTER
    assert choice.speedup == pytest.approx(1.2, rel=0.02)


def test_a_baseline_that_was_only_confirmed_is_compared_too(synthetic: Any) -> None:
    """A sweep that was stopped among its baselines measures the others when it confirms."""
    best, slow = at(synthetic, 10.0, stages=3), synthetic.baseline()
    slow = replace(slow, measurements=at(synthetic, 20.0, stages=9).measurements)
    late = at(synthetic, 12.0, stages=6, family=slow.family, role="confirmation")
    again = replace(best, role="confirmation")
    for records in ((slow, best, again, late), (slow, best, late), (best, again, late)):
        choice = choose(study_of(synthetic, *records), M)
        assert choice.baseline.record is late
        assert choice.speedup == pytest.approx(1.2, rel=0.02)


def test_a_finalist_is_no_baseline(synthetic: Any) -> None:
    records = at(synthetic, 10.0, stages=3), at(synthetic, 11.0, stages=4)
    again = [replace(record, role="confirmation") for record in records]
    assert choose(study_of(synthetic, *records, *again), M).baseline is None


def test_the_objective_decides_which_time_counts(synthetic: Any) -> None:
    rng = random.Random(0)
    a, b = at(synthetic, 10.0, stages=3), at(synthetic, 12.0, stages=4)
    b = replace(b, measurements=(replace(b.measurements[0], warm=synthetic.noisy(rng, 5.0)),))
    study = study_of(synthetic, a, b)
    assert choose(study, M).best.record is a
    assert choose(replace(study, info=replace(study.info, objective="warm")), M).best.record is b


@pytest.mark.parametrize("change", [{"source": Source.MODELLED}, {"device": DeviceFacts("NVIDIA H200")}])
def test_mixed_sources_or_devices_are_refused(synthetic: Any, change: dict[str, Any]) -> None:
    records = at(synthetic, 10.0, stages=3), at(synthetic, 11.0, stages=4, **change)
    with pytest.raises(ResultsError, match=r"do not compare \(1 trials measured on .*; 1 trials"):
        choose(study_of(synthetic, *records), M)

"""What every executor does, whatever it runs on. An executor's test module subclasses `ExecutorContract`.

The subclass's fixtures provide the executor and its candidates: `candidate(fault)` is an artifact with one of
the `FAULTS`, or without any for "none".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from harness.artifact import Artifact
from harness.executor import Executor, ExecutorError, MeasurePlan
from harness.record import Outcome

Candidates = Callable[[str], Artifact]

# A fault, the outcomes that are right for it, and what the reason must name. A GPU may notice a write out
# of bounds itself, before the guard zone is looked at.
FAULTS = [
    ("out_of_bounds", {Outcome.WRONG_RESULT, Outcome.CRASHED}, ""),
    ("wrong_id", {Outcome.WRONG_RESULT}, "M = "),
    ("endless", {Outcome.TIMEOUT}, "check"),
    ("segfault", {Outcome.CRASHED}, "SIGSEGV"),
    ("out_of_memory", {Outcome.CRASHED}, "out of memory"),
]

PLAN = MeasurePlan(m_values=(1, 16), samples=3, seed=11, timeout_s=20.0)


class ExecutorContract:
    """Subclass it, with the fixtures `executor`, `make` and `candidate`."""

    samples = PLAN.samples  # of each time; 1 where times are modelled

    def test_a_good_candidate_is_checked_then_timed(self, executor: Executor, candidate: Candidates) -> None:
        evaluation = executor.evaluate(candidate("none"), PLAN)
        assert (evaluation.outcome, evaluation.reason) == (Outcome.OK, "")
        assert evaluation.check is not None
        assert evaluation.check.passed
        assert [measurement.m for measurement in evaluation.measurements] == [1, 16]
        for measurement in evaluation.measurements:
            assert len(measurement.cold.samples_us) == len(measurement.warm.samples_us) == self.samples
            assert measurement.cold.median_us > 0
            assert measurement.floor_us > 0
        assert evaluation.run_s > 0

    def test_without_m_values_it_is_checked_only(self, executor: Executor, candidate: Candidates) -> None:
        evaluation = executor.evaluate(candidate("none"), replace(PLAN, m_values=()))
        assert evaluation.outcome is Outcome.OK
        assert evaluation.check is not None
        assert evaluation.measurements == ()

    @pytest.mark.parametrize(("fault", "outcomes", "named"), FAULTS)
    def test_a_bad_candidate_ends_with_its_outcome_and_the_next_is_fine(
        self, executor: Executor, candidate: Candidates, fault: str, outcomes: set[Outcome], named: str
    ) -> None:
        bad = executor.evaluate(candidate(fault), replace(PLAN, timeout_s=5.0))
        good = executor.evaluate(candidate("none"), PLAN)
        assert bad.outcome in outcomes, bad
        assert named in bad.reason, bad
        assert "\n" not in bad.reason
        assert bad.reason
        assert bad.measurements == (), "a candidate that fails the check is never timed"
        assert good.outcome is Outcome.OK, good

    def test_bad_candidates_one_after_another(self, executor: Executor, candidate: Candidates) -> None:
        faults = ["wrong_id", "segfault", "none", "out_of_memory", "wrong_id", "none"]
        outcomes = [executor.evaluate(candidate(fault), PLAN).outcome for fault in faults]
        bad, good, crashed = Outcome.WRONG_RESULT, Outcome.OK, Outcome.CRASHED
        assert outcomes == [bad, crashed, good, crashed, bad, good]

    def test_an_altered_artifact_is_never_run(self, executor: Executor, candidate: Candidates) -> None:
        artifact = candidate("none")
        contents = artifact.launcher.read_bytes()
        artifact.launcher.write_bytes(contents + b"\0")
        try:
            evaluation = executor.evaluate(artifact, PLAN)
        finally:
            artifact.launcher.write_bytes(contents)
        assert evaluation.outcome is Outcome.CRASHED
        assert "digest" in evaluation.reason
        assert evaluation.check is None

    def test_the_device_and_its_rates_are_known(self, executor: Executor) -> None:
        assert executor.device().name
        rates = executor.rates()
        assert rates.copy_bytes_per_s > 0
        assert rates.matrix_flop_per_s > 0
        assert executor.rates() == rates, "rates are measured once"

    def test_closing_twice_is_fine_and_final(
        self, make: Callable[[], Executor], candidate: Candidates
    ) -> None:
        with make() as executor:
            executor.close()
        with pytest.raises(ExecutorError, match="closed"):
            executor.evaluate(candidate("none"), PLAN)

"""What a person sees of a sweep: its best so far, and the table at its end."""

from __future__ import annotations

import pytest

from harness.record import Outcome, Source
from sweeps.objective import PENALTY
from sweeps.progress import Progress, summary
from tests.sweeps.toy_driver import ALL, BASELINE
from tests.sweeps.toys import M_VALUES, toy_record


def test_the_best_so_far_is_numbered_among_the_candidates_of_all_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = toy_record(ALL[0])
    with Progress(9, [(record, 2.0), (record, PENALTY), (record, None)]) as progress:
        progress.count(record, 3.0)
        progress.count(record, 1.5)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "best so far" in line] == [
        "config 5: measured best so far, 1.500 x floor"
    ]


def test_modelled_times_say_so_where_measured_ones_say_best() -> None:
    measured = summary([toy_record(ALL[0])], "cold", M_VALUES)
    assert "best us" in measured
    assert "MODELLED" not in measured
    modelled = summary([toy_record(ALL[0], source=Source.MODELLED)], "cold", M_VALUES)
    assert "best us" not in modelled
    assert "MODELLED us" in modelled
    assert "(cold, all MODELLED by the simulator, not measured)" in modelled


@pytest.mark.parametrize("role", ["baseline", "confirmation"])
def test_the_two_kernel_path_is_in_the_table_wherever_it_was_measured(role: str) -> None:
    """A sweep that was stopped may have measured it only beside the finalists."""
    candidate = toy_record(ALL[0])
    beside = [toy_record(ALL[0], role="confirmation"), toy_record(BASELINE, role=role, family="toy_baseline")]
    rows = summary([candidate, *beside], "cold", M_VALUES).splitlines()[2:]
    two_us = [float(row.split()[2]) for row in rows]
    assert two_us == [pytest.approx(at.cold.median_us, abs=0.005) for at in beside[1].measurements]
    alone = summary([candidate, beside[0]], "cold", M_VALUES).splitlines()[2:]
    assert [row.split()[2] for row in alone] == ["-", "-"]


def test_a_baseline_that_was_unstable_counts_by_its_confirmations() -> None:
    """On an H200 the fastest one's power was capped the first time: the table named one a fifth slower."""
    unstable = toy_record(BASELINE, role="baseline", family="toy_baseline", outcome=Outcome.UNSTABLE)
    again = toy_record(BASELINE, role="confirmation", family="toy_baseline")
    rows = summary([toy_record(ALL[0]), unstable, again], "cold", M_VALUES).splitlines()[2:]
    two_us = [float(row.split()[2]) for row in rows]
    assert two_us == [pytest.approx(at.cold.median_us, abs=0.005) for at in again.measurements]

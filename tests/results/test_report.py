"""The report: its numbers are the study's, its links are there, and it never claims what was not seen."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.record import DeviceFacts, Outcome, Source
from results.choose import choose_all
from results.markdown import number, table
from results.plots import write_plots
from results.report import report, write_report
from results.study import ResultsError


@pytest.mark.parametrize("seed", range(4))
def test_every_trial_is_accounted_for(synthetic: Any, tmp_path: Path, seed: int) -> None:
    study = synthetic.study(50, seed)
    text = report(study, tmp_path)
    section = text.split("## Every trial accounted for")[1].split("##")[0]
    counts = [int(count) for count in re.findall(r"^\| `\w+` \| (\d+) \|", section, re.M)]
    assert sum(counts) == 50
    assert "| **all candidates** | 50 |" in section
    failed = text.split("## Failures by reason")[1].split("##")[0]
    reasons = [int(count) for count in re.findall(r"^\| `\w+` \| (\d+) \|", failed, re.M)]
    assert sum(reasons) == sum(record.outcome is not Outcome.OK for record in study.records)


def test_the_best_table_holds_the_choices(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(30)
    rows = re.findall(r"^\| (\d+) \| C\d+ \| ([\d.]+) \|.*\| ([\d.]+)× \|", report(study, tmp_path), re.M)
    expected = [
        (str(choice.m), number(choice.best.cold.median_us), f"{choice.speedup:.2f}")
        for choice in choose_all(study)
    ]
    assert rows == expected


def test_the_costliest_parameter_is_first_with_its_cost(synthetic: Any, tmp_path: Path) -> None:
    # In the generator's whole space tile_n = 384 costs a factor of 1.3 at every M, and nothing costs more.
    text = report(synthetic.study(216, failing=0.0), tmp_path)
    assert "costs most is `tile_n`" in text
    assert "takes 1.30× the time" in text
    rows = re.findall(r"^\| `tile_n` \| (\d+) \| (\d+) \| [\d.]+× \| ([\d.]+)× \|", text, re.M)
    assert [(choice, size) for choice, size, _ in rows] == [("128", "72"), ("192", "72"), ("384", "72")]


def test_links_are_to_the_figures_that_are_there(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(20)
    plots = write_plots(study, tmp_path)
    path = write_report(study, tmp_path)
    linked = re.findall(r"!\[[^]]*\]\(([^)]*)\)", path.read_text())
    assert sorted(linked) == sorted(plot.name for plot in plots)
    assert "![" not in report(study, tmp_path / "elsewhere")


def test_source_date_commit_command_and_versions_are_named(synthetic: Any, tmp_path: Path) -> None:
    text = report(synthetic.study(10), tmp_path)
    for part in (
        "measured on NVIDIA H100 80GB HBM3", "2026-01-15", "0123456789abcdef", "routertune sweep default",
        "torch 2.13.0", "driver 580.65", "1980 MHz", "2.60 TB/s", "no Blackwell GPU has run any of this",
    ):  # fmt: skip
        assert part in text


def test_a_modelled_report_says_so_before_any_number(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(10)
    study = replace(study, records=tuple(replace(record, source=Source.MODELLED) for record in study.records))
    text = report(study, tmp_path)
    assert text.index("modelled by the simulator") < text.index("## The best config")
    assert "measured on" not in text.split("## The best config")[0]


def test_a_compiled_report_says_that_nothing_was_run_and_what_to_do(synthetic: Any, tmp_path: Path) -> None:
    text = report(synthetic.compiled_study(), tmp_path)
    for part in (
        "Nothing was run",
        "make sweep",
        "routertune pack",
        "routertune measure",
        "routertune collect",
    ):
        assert part in text
    assert "## Resources" in text
    assert "## The best config" not in text


def test_a_report_counts_tensor_memory_where_there_is_any(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(5)
    assert "tensor memory" not in report(study, tmp_path)
    records = tuple(
        replace(record, resources=tuple(replace(used, tmem_columns=512) for used in record.resources))
        for record in study.records
    )
    text = report(replace(study, records=records), tmp_path)
    assert "| columns of tensor memory per block | 512 | 512 | 512 |" in text


def test_a_run_without_a_good_candidate_is_not_called_unrun(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(5, failing=0.0)
    records = tuple(
        synthetic.failed(record, Outcome.WRONG_RESULT, "expert 3 | 4") for record in study.records
    )
    text = report(replace(study, records=records), tmp_path)
    assert "Nothing was timed" in text
    assert "Nothing was run" not in text
    assert "expert 3 \\| 4" in text


def test_confirmed_winners_are_not_called_unconfirmed(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(10, failing=0.0)
    assert "were not measured again" in report(study, tmp_path)
    again = tuple(replace(record, role="confirmation") for record in study.candidates for _ in range(2))
    text = report(replace(study, records=(*study.records, *again)), tmp_path)
    assert "were not measured again" not in text
    assert "1 (2 rounds)" in text


def test_what_limits_the_claims_is_listed(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(10, failing=0.0)
    dirty = replace(study.records[1].provenance, commit="abc-dirty")
    records = (replace(study.records[1], provenance=dirty), *study.records[2:])
    records = tuple(replace(record, measurements=record.measurements[:-1]) for record in records)
    limits = report(replace(study, records=records), tmp_path).split("## What is not proven")[1]
    for part in (
        "1 records are from a tree with uncommitted changes",
        "186 legal ones were not tried",
        "Anything at M = 16384",
        "the two-kernel path was not measured there",
    ):
        assert part in limits


def test_mixed_devices_are_refused_and_nothing_written(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(4, failing=0.0)
    records = (*study.records[:-1], replace(study.records[-1], device=DeviceFacts("NVIDIA H200")))
    with pytest.raises(ResultsError, match="NVIDIA H200"):
        write_report(replace(study, records=records), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.6, "12346"),
        (0.01234, "0.0123"),
        (None, "–"),
    ],
)
def test_numbers_have_three_digits_and_no_exponent(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_cell_cannot_break_its_table() -> None:
    assert table(("a",), [("x | y\nz",)]).splitlines()[-1] == "| x \\| y z |"

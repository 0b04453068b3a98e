"""The figures of a comparison between the simulator and a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from harness.agreement_record import (
    Agreement,
    Answered,
    Compared,
    Timed,
    pairs,
    rank_line,
    read_agreement,
    summary_lines,
)
from harness.record import Provenance
from results.plot_agreement import draw_agreement
from results.style import save


def agreement() -> Agreement:
    """Four configs; the model likes the second one best, which takes 10 % more than the best."""
    times = [(10.0, 12.0), (11.0, 9.0), (20.0, 18.0), (40.0, 39.0)]
    configs = tuple(
        Compared(
            {"stages": n}, n % 2 == 0, (Answered(1, int(n == 3), 1e-6 * n, 0.1),), (Timed(64, *pair),), 0.2
        )
        for n, pair in enumerate(times)
    )
    return Agreement("toy", "sm_90a", "a GPU", Provenance("2026-11-24", "abc"), configs)


def test_ranks_and_the_price_of_the_models_choice() -> None:
    line = rank_line(pairs(agreement(), 64))
    assert line.startswith("4 configs, Spearman 0.800, the model's choice takes +10.0% of the best")


def test_halves_are_told_apart() -> None:
    assert pairs(agreement(), 64, True) == [(10.0, 12.0), (20.0, 18.0)]
    assert pairs(agreement(), 64, False) == [(11.0, 9.0), (40.0, 39.0)]


def test_a_sample_that_nothing_was_calibrated_on_has_one_part(tmp_path: Path) -> None:
    whole = agreement()
    held_out = replace(whole, configs=tuple(replace(one, calibrates=False) for one in whole.configs))
    lines = summary_lines(held_out)
    assert len(lines) == 3
    assert lines[2].startswith("held out, M = 64: 4 configs, Spearman 0.800")
    assert [line.split(",")[0] for line in summary_lines(whole)[2:]] == [
        "all",
        "calibration half",
        "other half",
    ]
    assert save(draw_agreement(held_out), tmp_path / "a.png").stat().st_size > 10_000


def test_answers_are_counted() -> None:
    lines = summary_lines(agreement())
    assert lines[0] == "3 of 4 configs: every id equals the GPU's"
    assert lines[1] == "largest relative weight error 3.00e-06"


def test_it_survives_a_file_and_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "agreement.json"
    path.write_bytes(msgspec.json.encode(agreement()))
    assert read_agreement(path) == agreement()
    assert save(draw_agreement(agreement()), tmp_path / "a.png").stat().st_size > 10_000


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agreement.json"
    path.write_bytes(msgspec.json.encode(agreement()).replace(b"/1", b"/9"))
    with pytest.raises(ValueError, match=r"routertune\.agreement/9"):
        read_agreement(path)

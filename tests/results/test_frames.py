"""Tables: nothing is lost between records and rows, and the arithmetic is that of the definitions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.record import Outcome, Source
from results.frames import outcomes, slowdowns, to_frame, trials_frame
from results.study import ResultsError


def test_one_row_per_trial_and_m_with_the_definitions_rates(synthetic: Any) -> None:
    record = synthetic.record()
    frame = to_frame([record])
    assert list(frame["m"]) == list(synthetic.m_values)
    row, at = frame.iloc[3], record.at(512)
    seconds = at.cold.median_us * 1e-6
    assert row["tokens_per_s"] == pytest.approx(512 / seconds)
    assert row["tflop_per_s"] == pytest.approx(at.flops / seconds / 1e12)
    assert row["gb_per_s"] == pytest.approx(at.bytes_moved / seconds / 1e9)
    assert row["floor_share"] == pytest.approx(at.floor_us / at.cold.median_us)
    assert row["config.tile_m"] == record.config["tile_m"]
    assert (row["source"], row["device"]) == ("measured", "NVIDIA H100 80GB HBM3")
    assert row["registers"] == record.resources[0].registers


@pytest.mark.parametrize("seed", range(5))
def test_every_trial_is_counted_once(synthetic: Any, seed: int) -> None:
    records = synthetic.study(60, seed).records
    counted = outcomes(records)
    assert counted["trials"].sum() == len(records) == len(trials_frame(records))
    assert counted["share"].sum() == pytest.approx(1.0)
    ok = counted.loc[counted["outcome"] == "ok", "trials"].item()
    assert ok == sum(record.outcome is Outcome.OK for record in records)


def test_slowdown_is_relative_to_the_best_at_each_m(synthetic: Any) -> None:
    study = synthetic.study(0)
    times = {3: (10.0, 40.0), 4: (20.0, 20.0)}
    records = tuple(
        synthetic.record(
            {"stages": stages}, cold_us=dict(zip((1, 16), pair, strict=True)).get, m_values=(1, 16)
        )
        for stages, pair in times.items()
    )
    study = replace(study, info=replace(study.info, m_values=(1, 16)), records=records)
    at_1 = slowdowns(study, 1).set_index("config.stages")["slowdown"]
    assert at_1[3] == 1.0
    assert at_1[4] == pytest.approx(2.0, rel=0.02)
    both = slowdowns(study).set_index("config.stages")["slowdown"]
    assert both.to_dict() == pytest.approx({3: 2**0.5, 4: 2**0.5}, rel=0.02)


def test_slowdown_leaves_out_what_may_not_be_chosen(synthetic: Any) -> None:
    study = synthetic.study(30, seed=1)
    passed = [record for record in study.candidates if record.outcome in (Outcome.OK, Outcome.UNSTABLE)]
    steady = sum(all(at.steady for at in record.measurements) for record in passed)
    assert 0 < len(slowdowns(study)) == steady < 30
    assert len(slowdowns(synthetic.compiled_study())) == 0


def test_slowdown_refuses_mixed_sources(synthetic: Any) -> None:
    study = synthetic.study(4, failing=0.0)
    mixed = (*study.records, replace(study.records[-1], source=Source.MODELLED))
    with pytest.raises(ResultsError, match="modelled on NVIDIA H100"):
        slowdowns(replace(study, records=mixed))

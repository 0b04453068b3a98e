"""The export: what is chosen is what the table says, and what must not be exported is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.record import DeviceFacts, Outcome, Source
from kernels.dispatch_table import load_table
from kernels.problem import PRESETS
from results.choose import choose_all
from results.export import export_best
from results.study import ResultsError


@pytest.mark.parametrize("seed", range(3))
def test_an_export_loads_equal_and_holds_the_choices(synthetic: Any, tmp_path: Path, seed: int) -> None:
    study = synthetic.study(30, seed)
    table = export_best(study, tmp_path / "best.json")
    assert load_table(tmp_path / "best.json") == table
    assert table.matches(PRESETS["deepseek-v4-pro"], "sm_90a")
    for entry, choice in zip(table.entries, choose_all(study), strict=True):
        assert entry.m == choice.m
        assert entry.config == choice.best.record.config
        assert entry.cold_us == choice.best.cold.median_us
        assert entry.baseline_us == choice.baseline_us
        assert entry.tie == (len(choice.tied) > 0)
    assert table.provenance.commit == "0123456789abcdef"
    assert table.provenance.trials == 31
    assert table.device == "NVIDIA H100 80GB HBM3"


def test_the_date_is_that_of_the_newest_run_behind_a_winner(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(10, failing=0.0)
    winners = {choice.best.record.artifact_key for choice in choose_all(study)}

    def dated(record: Any, date: str) -> Any:
        return replace(record, provenance=replace(record.provenance, date=date))

    newest = max(winners)
    dates = {
        key: "2026-03-01T00:00:00+00:00" if key == newest else "2026-02-01T00:00:00+00:00" for key in winners
    }
    records = tuple(
        dated(each, dates.get(each.artifact_key, "2026-04-01T00:00:00+00:00")) for each in study.records
    )
    table = export_best(replace(study, records=records), tmp_path / "best.json")
    assert table.provenance.date == "2026-03-01T00:00:00+00:00"


def test_modelled_times_are_exported_as_modelled(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(10)
    records = tuple(replace(record, source=Source.MODELLED) for record in study.records)
    assert export_best(replace(study, records=records), tmp_path / "best.json").source == "modelled"


def test_an_m_without_an_eligible_candidate_has_no_entry(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(10, failing=0.0)
    cut = tuple(replace(record, measurements=record.measurements[:2]) for record in study.records)
    assert [entry.m for entry in export_best(replace(study, records=cut), tmp_path / "b.json").entries] == [
        1,
        16,
    ]


def refusals(synthetic: Any) -> dict[str, Any]:
    study = synthetic.study(6, failing=0.0)
    records = study.records
    return {
        "mixed devices": replace(
            study, records=(*records[:-1], replace(records[-1], device=DeviceFacts("NVIDIA H200")))
        ),
        "mixed sources": replace(
            study, records=(*records[:-1], replace(records[-1], source=Source.MODELLED))
        ),
        "a baseline of another device": replace(
            study, records=(replace(records[0], device=DeviceFacts("NVIDIA H200")), *records[1:])
        ),
        "nothing ok": replace(
            study, records=tuple(synthetic.failed(each, Outcome.CRASHED, "x") for each in records)
        ),
        "nothing run": synthetic.compiled_study(),
        "a problem of no router": replace(study, info=replace(study.info, problem={"name": "x"})),
    }


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("mixed devices", "measured on NVIDIA H200"),
        ("mixed sources", "modelled on NVIDIA H100"),
        ("a baseline of another device", "measured on NVIDIA H200"),
        ("nothing ok", "nothing to export: of its 6 candidates"),
        ("nothing run", "nothing to export"),
        ("a problem of no router", "cannot be exported"),
    ],
)
def test_a_refused_export_is_one_line_and_writes_nothing(
    case: str, says: str, synthetic: Any, tmp_path: Path
) -> None:
    with pytest.raises(ResultsError) as caught:
        export_best(refusals(synthetic)[case], tmp_path / "best.json")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_one_line(synthetic: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot write"):
        export_best(synthetic.study(3, failing=0.0), tmp_path / "file" / "best.json")

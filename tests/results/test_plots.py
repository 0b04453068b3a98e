"""Figures: a study yields those it has something for, each says where it is from, and no text collides."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from harness.record import DeviceFacts, Outcome, Source
from results.plot_space import draw_effects, draw_outcomes, draw_resources
from results.plot_times import draw_latency, draw_progress
from results.plots import write_plots
from results.study import ResultsError
from results.style import spread_labels

DRAWS = (draw_latency, draw_progress, draw_effects, draw_outcomes, draw_resources)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def modelled(study: Any) -> Any:
    return replace(study, records=tuple(replace(record, source=Source.MODELLED) for record in study.records))


def test_every_figure_is_written_and_drawn_on(synthetic: Any, tmp_path: Path) -> None:
    written = write_plots(synthetic.study(40), tmp_path / "plots")
    names = [
        "latency",
        "progress",
        "parameters",
        "parameters-m1",
        "parameters-m16384",
        "outcomes",
        "resources",
    ]
    assert [path.stem for path in written] == names
    assert sorted((tmp_path / "plots").iterdir()) == sorted(written)
    for path in written:
        assert imread(path)[..., :3].std() > 0.05, f"{path.name} is blank"


def test_equal_studies_give_equal_files(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(10)
    first, second = (write_plots(study, tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("draw", DRAWS)
def test_a_measured_figure_names_device_date_and_commit(synthetic: Any, draw: Any) -> None:
    shown = texts(draw(synthetic.study(20)))
    assert "MODELLED" not in shown
    caption = next(text for text in shown if text.startswith("measured on"))
    for part in (
        "NVIDIA H100 80GB HBM3",
        "2026-01-15",
        "commit 0123456789",
        "do not include the quantization",
    ):
        assert part in caption


def test_a_figure_says_when_quantization_is_in_its_times(synthetic: Any) -> None:
    study = synthetic.study(20)
    records = tuple(
        replace(record, measurements=tuple(replace(each, quantized=True) for each in record.measurements))
        for record in study.records
    )
    (caption,) = (
        text for text in texts(draw_latency(replace(study, records=records))) if "measured on" in text
    )
    assert "times include the quantization" in caption
    mixed = replace(study, records=(*study.records[:3], *records[3:]))
    with pytest.raises(ResultsError, match="activations quantized in the time"):
        draw_latency(mixed)


@pytest.mark.parametrize("draw", DRAWS)
def test_a_modelled_figure_is_watermarked_and_says_so(synthetic: Any, draw: Any) -> None:
    shown = texts(draw(modelled(synthetic.study(20))))
    assert "MODELLED" in shown
    assert any(
        text.startswith("MODELLED by the simulator") and "do not include the quantization" in text
        for text in shown
    )
    assert not any("measured on" in text for text in shown)


@pytest.mark.parametrize("draw", [draw_outcomes, draw_resources])
def test_a_modelled_figure_is_watermarked_where_nothing_was_timed(synthetic: Any, draw: Any) -> None:
    study = synthetic.study(20)
    records = tuple(synthetic.failed(record, Outcome.WRONG_RESULT, "x") for record in study.candidates)
    assert "MODELLED" not in texts(draw(replace(study, records=records)))
    shown = texts(draw(modelled(replace(study, records=records))))
    assert "MODELLED" in shown
    assert any("(MODELLED by the simulator, not measured)" in text for text in shown)


def test_a_baseline_that_was_measured_beside_the_finalists_only_has_its_line(synthetic: Any) -> None:
    study = synthetic.study(20)
    assert study.baselines
    late = tuple(
        replace(record, role="confirmation") if record.role == "baseline" else record
        for record in study.records
    )
    lines = [
        [text for text in texts(draw_progress(replace(study, records=records))) if "two kernels" in text]
        for records in (study.records, late)
    ]
    assert len(lines[0]) == 1
    assert lines[0] == lines[1]


def test_rings_are_whole_at_the_edges_of_their_axes(synthetic: Any) -> None:
    for axes in draw_effects(synthetic.study(20)).axes:
        assert not any(points.get_clip_on() for points in axes.findobj(PathCollection))


def test_what_was_only_compiled_has_figures_that_say_so(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.compiled_study()
    assert [path.stem for path in write_plots(study, tmp_path)] == ["outcomes", "resources"]
    assert any(text.startswith("nothing was run: compiled only") for text in texts(draw_resources(study)))


def test_a_study_without_a_good_candidate_shows_outcomes_only(synthetic: Any, tmp_path: Path) -> None:
    study = synthetic.study(5, failing=0.0)
    records = tuple(
        replace(synthetic.failed(record, Outcome.CRASHED, "x"), resources=()) for record in study.candidates
    )
    study = replace(study, records=records)
    assert [path.stem for path in write_plots(study, tmp_path)] == ["outcomes"]
    assert any(text.startswith("nothing was timed") for text in texts(draw_outcomes(study)))


def test_an_empty_study_has_no_figure(synthetic: Any, tmp_path: Path) -> None:
    assert write_plots(replace(synthetic.study(0), records=()), tmp_path) == []


@pytest.mark.parametrize("m_values", [(1,), tuple(2**power for power in range(15))])
def test_one_m_and_many(synthetic: Any, m_values: tuple[int, ...]) -> None:
    study = synthetic.study(0)
    configs = [{"stages": stages} for stages in (3, 4, 6)]
    records = [synthetic.record(config, seed=seed, m_values=m_values) for seed, config in enumerate(configs)]
    study = replace(study, info=replace(study.info, m_values=m_values), records=tuple(records))
    figure = draw_latency(study)
    assert {str(m) for m in m_values} <= {label.get_text() for label in figure.axes[-1].get_xticklabels()}
    for draw in DRAWS:
        assert boxes(draw(study))


@pytest.mark.parametrize("times_floor", [118.0, 1500.0])
def test_times_that_hardly_differ_have_an_axis(synthetic: Any, times_floor: float) -> None:
    """Between two round ratios, or above all of them, there is no tick to choose from."""
    study = synthetic.study(0)
    records = []
    for seed, stages in enumerate((3, 4, 6)):
        record = synthetic.record({"stages": stages}, seed=seed)
        slow = tuple(
            replace(each, floor_us=each.cold.median_us / times_floor / (1 + 1e-3 * seed))
            for each in record.measurements
        )
        records.append(replace(record, measurements=slow))
    figure = draw_progress(replace(study, records=tuple(records)))
    axes = figure.axes[-1]
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 2


@pytest.mark.parametrize("draw", [draw_latency, draw_progress, draw_effects])
def test_mixed_devices_are_refused(synthetic: Any, draw: Any) -> None:
    study = synthetic.study(4, failing=0.0)
    records = (*study.records[:-1], replace(study.records[-1], device=DeviceFacts("NVIDIA H200")))
    with pytest.raises(ResultsError, match="NVIDIA H200"):
        draw(replace(study, records=records))


def test_an_unwritable_folder_is_one_line(synthetic: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot write"):
        write_plots(synthetic.compiled_study(), tmp_path / "file")


def drawn(figure: Figure) -> list[Text]:
    """Every text that is drawn: of the ticks, only those inside the view and labelled."""
    found = list(figure.texts)
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [
                tick.label1
                for tick in axis.get_major_ticks()
                if low <= tick.get_loc() <= high and tick.label1.get_visible()
            ]
    return found


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """The box of every text on the page, once it is certain that none is cut off."""
    figure.draw_without_rendering()
    found = [(text.get_text(), text.get_window_extent()) for text in drawn(figure) if text.get_text().strip()]
    for text, box in found:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, f"{text!r} is cut off"
    return found


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_two_texts_overlap(synthetic: Any, draw: Any, seed: int) -> None:
    figure = draw(synthetic.study(60, seed))
    for (one, a), (other, b) in itertools.combinations(boxes(figure), 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width <= 1 or height <= 1, f"seed {seed}: {one!r} overlaps {other!r}"


@given(
    wanted=st.lists(st.floats(0, 1), min_size=1, max_size=8),
    gap=st.floats(0.01, 0.4),
)
def test_labels_are_spread_in_order_and_inside(wanted: list[float], gap: float) -> None:
    placed = spread_labels(wanted, 0.0, 1.0, gap)
    room = min(gap, 1.0 / len(wanted))
    in_order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for low, high in itertools.pairwise(in_order):
        assert placed[high] - placed[low] >= room - 1e-9
    assert all(-1e-9 <= position <= 1 + 1e-9 for position in placed)

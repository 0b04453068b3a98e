"""The picture of a layer trace: errors along the steps with their bands, and the residual stream's norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from harness.trace_record import Finding, StepTrace, TraceRecord
from results.style import (
    BLUE,
    FAINT,
    GREEN,
    GREY,
    INK,
    VERMILION,
    clean,
    commit_text,
    label_ends,
    new_figure,
    write_texts,
)
from results.trace_text import verdict_text

INCHES_PER_STEP = 0.13
IDS, OPERAND = "router.ids", ".operand"
RESIDUAL_STEPS = ("attention.residual", "ffn.residual")
# The axes' ends: what is beyond them is drawn there.
LOWEST_SHARE, LOWEST_ERROR, LARGEST_SHOWN, LARGEST_NORM = 1e-3, 1e-4, 1e6, 1e30

Value = Callable[[StepTrace], float | None]


def draw_trace(record: TraceRecord) -> Figure:
    """Every step of every layer from left to right: the step's own error, the run's, and the norms."""
    steps = record.steps
    figure = new_figure(max(8.4, 1.9 + INCHES_PER_STEP * len(steps)), 7.4)
    own, run, norms = figure.subplots(3, 1, sharex=True, height_ratios=(1.25, 1.25, 1))
    _draw_own(own, steps)
    _draw_run(run, steps)
    _draw_norms(norms, steps)
    for axes in (own, run, norms):
        _mark_layers(axes, steps)
        _mark_first(axes, record)
        clean(axes)
    for layer in sorted({step.layer for step in steps}):
        first = next(place for place, step in enumerate(steps) if step.layer == layer)
        own.annotate(
            f"layer {layer}", (first, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", fontsize=8.5, color=GREY,
        )  # fmt: skip
    norms.set_xticks(range(len(steps)), [step.name for step in steps], rotation=90, fontsize=6.5)
    norms.set_xlim(-0.7, len(steps) - 0.3)
    problem = record.problem
    title = f"Layer trace, {problem['name']} at hidden {problem['hidden']}, {problem['experts']} experts"
    date = record.provenance.date[:10] if record.provenance else "no date"
    commit = commit_text([record.provenance.commit] if record.provenance else [])
    caption = "  ·  ".join(
        (f"{record.tokens} tokens, {record.weights}", f"computed on {record.device}", date, commit)
    )
    write_texts(figure, title, verdict_text(record.verdict), caption)
    return figure


def _draw_own(axes: Axes, steps: Sequence[StepTrace]) -> None:
    """Each step given the reference's input, as a share of what rounding allows its worst row."""
    places = [place for place, step in enumerate(steps) if step.name != IDS]
    shares = [_up_to(steps[place].step_excess, LARGEST_SHOWN) for place in places]
    axes.axhspan(LOWEST_SHARE / 10, 1.0, color=FAINT, alpha=0.5, linewidth=0)
    axes.scatter(places, np.maximum(shares, LOWEST_SHARE), s=16, color=BLUE, linewidths=0, zorder=3)
    defects = [place for place, step in enumerate(steps) if step.finding is Finding.DEFECT]
    heights = [max(_up_to(steps[place].step_excess, LARGEST_SHOWN), 1.0) for place in defects]
    axes.scatter(defects, heights, s=48, marker="X", color=VERMILION, linewidths=0, zorder=4)
    axes.set_yscale("log")
    axes.set_ylim(LOWEST_SHARE / 1.6, max([3.0, *(2 * height for height in heights)]))
    axes.set_ylabel("step's own error\n/ allowed (0 at the foot)", fontsize=9, color=INK)
    ends = [("1: what rounding\nallows", GREY, 1.0)] + (
        [("defect", VERMILION, heights[0])] if heights else []
    )
    label_ends(axes, ends, *axes.get_ylim())


def _draw_run(axes: Axes, steps: Sequence[StepTrace]) -> None:
    """The run's errors, and NVFP4's own, under the band. Operands stand alone: the lines pass them by."""
    places = [place for place, step in enumerate(steps) if step.name != IDS and OPERAND not in step.name]
    lines: tuple[tuple[str, str, Value], ...] = (
        ("run against bf16", VERMILION, lambda step: step.total_error),
        ("exact NVFP4\nagainst bf16", GREEN, lambda step: step.quantization_error),
        ("run against\nexact NVFP4", BLUE, lambda step: step.path_error),
    )
    bands = [_up_to(steps[place].expected_error, LARGEST_SHOWN) for place in places]
    axes.fill_between(places, LOWEST_ERROR / 10, bands, step="mid", color=FAINT, alpha=0.5, linewidth=0)
    ends, highest = [("band", GREY, bands[-1])], 1.0
    for name, colour, value in lines:
        errors = [_up_to(value(steps[place]), LARGEST_SHOWN) or np.nan for place in places]
        axes.plot(places, errors, color=colour, linewidth=1.2, marker="o", markersize=2.6, zorder=3)
        ends.append((name, colour, errors[-1]))
        highest = max(highest, float(np.nanmax(errors)))
    operands = [place for place, step in enumerate(steps) if OPERAND in step.name]
    weights = [_up_to(steps[place].quantization_error, LARGEST_SHOWN) for place in operands]
    axes.scatter(operands, weights, s=13, facecolors="none", edgecolors=GREEN, linewidths=0.9, zorder=3)
    axes.set_yscale("log")
    axes.set_ylim(LOWEST_ERROR, 2 * highest)
    axes.set_ylabel("relative error\nalong the run", fontsize=9, color=INK)
    label_ends(axes, ends, *axes.get_ylim())


def _draw_norms(axes: Axes, steps: Sequence[StepTrace]) -> None:
    """The norm of the residual stream."""
    places = [place for place, step in enumerate(steps) if step.name in RESIDUAL_STEPS]
    lines: tuple[tuple[str, str, str, float, Value], ...] = (
        ("bf16", VERMILION, "s", 9, lambda step: step.unquantized_norm),
        ("exact NVFP4", GREEN, "D", 6, lambda step: step.reference_norm),
        ("run", BLUE, "o", 3.5, lambda step: step.norm),
    )
    ends = []
    for name, colour, marker, size, value in lines:
        norms = [_up_to(value(steps[place]), LARGEST_NORM) for place in places]
        axes.plot(places, norms, color=colour, linewidth=1.2, marker=marker, markersize=size, zorder=3)
        ends.append((name, colour, norms[-1]))
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    between = (1, 1.5, 2, 3, 5, 7) if high < 30 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=between, numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(low / 1.1, high * 1.1)
    axes.set_ylabel("norm of the\nresidual stream", fontsize=9, color=INK)
    label_ends(axes, ends, *axes.get_ylim())


def _mark_layers(axes: Axes, steps: Sequence[StepTrace]) -> None:
    for place in range(1, len(steps)):
        if steps[place].layer != steps[place - 1].layer:
            axes.axvline(place - 0.5, color=GREY, linewidth=0.8, zorder=1)


def _mark_first(axes: Axes, record: TraceRecord) -> None:
    """A line at the first step out of its band."""
    verdict = record.verdict
    for place, step in enumerate(record.steps):
        if (step.layer, step.name) == (verdict.layer, verdict.step):
            axes.axvline(place, color=VERMILION, linewidth=1.4, alpha=0.6, zorder=1)


def _up_to(value: float | None, largest: float) -> float:
    """A number as it can be drawn; one that is not finite is drawn as the largest."""
    return largest if value is None else min(value, largest)

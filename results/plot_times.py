"""Figures of times: latency against M, and the sweep's progress.

Each `draw_*` returns a Figure, or None where the study has nothing to show in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.record import Outcome, TrialRecord, two_kernel_records
from results.choose import Choice, choose_all
from results.markdown import number
from results.stats import Verdict
from results.study import Study, timed_group, usable
from results.style import (
    BLUE,
    GREY,
    INK,
    OUTCOME_STYLE,
    VERMILION,
    clean,
    count_locator,
    finish,
    is_modelled,
    label_ends,
    minimized_over,
    new_figure,
    ratio_axis,
    time_axis,
    token_axis,
)

# Measured times are solid lines and no others.
MODELLED_LINE = (0, (5, 2))
VERDICT_COLOURS = {Verdict.FASTER: BLUE, Verdict.SLOWER: VERMILION, Verdict.TIE: GREY}


def draw_latency(study: Study) -> Figure | None:
    """Time against M: the best config, the two-kernel path, the floor, and every candidate as a faint point.

    Below, where the two-kernel path was measured, how much faster the best is.
    """
    choices = choose_all(study)
    if not choices:
        return None
    compared = [choice for choice in choices if choice.speedup]
    figure = new_figure(8.4, 6.0 if compared else 4.6)
    if compared:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        _draw_speedups(below, compared)
        lowest = below
    else:
        axes = lowest = figure.subplots()
    modelled = is_modelled(study)
    _draw_lines(axes, choices, others_us=_draw_candidates(axes, study), modelled=modelled)
    token_axis(lowest, study.info.m_values)
    axes.set_ylabel(f"{'MODELLED ' * modelled}time per launch, µs", fontsize=9.5, color=INK)
    lowest.set_xlim(study.info.m_values[0] / 1.5, study.info.m_values[-1] * 1.5)
    objective = study.info.objective
    finish(
        figure,
        study,
        f"Fused router, {study.info.problem.get('name')}: time against the number of tokens",
        f"{'Modelled' if modelled else 'Median'} {objective} time of the best config at each M; dots: all "
        "candidates that passed the check",
    )
    return figure


def _draw_candidates(axes: Axes, study: Study) -> list[float]:
    """Every usable time as a faint point; the times."""
    points = [
        (m, getattr(found, study.info.objective).median_us)
        for record in study.candidates
        for m in study.info.m_values
        if (found := usable(record, m))
    ]
    m_values, times = np.array(points).T
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(points))
    axes.scatter(m_values * 2**jitter, times, s=7, color=GREY, alpha=0.28, linewidths=0, zorder=2)
    return [float(us) for us in times]


def _draw_lines(axes: Axes, choices: Sequence[Choice], others_us: Sequence[float], *, modelled: bool) -> None:
    drawn = MODELLED_LINE if modelled else "-"
    baseline = [(each.m, each.baseline_us) for each in choices if each.baseline_us]
    lines = [
        ("best fused", BLUE, "o", drawn, [(each.m, each.best_us) for each in choices]),
        ("two kernels", VERMILION, "s", drawn, baseline),
        ("floor", INK, "", ":" if modelled else "--", [(each.m, each.best.floor_us) for each in choices]),
    ]
    lines = [line for line in lines if line[-1]]
    for _, colour, marker, style, points in lines:
        axes.plot(
            *zip(*points, strict=True), color=colour, marker=marker, linestyle=style, linewidth=2,
            markersize=5.5, markeredgecolor="white", markeredgewidth=0.8, zorder=4,
        )  # fmt: skip
    values = [us for *_, points in lines for _, us in points] + list(others_us)
    low, high = min(values) / 1.4, max(values) * 1.2
    time_axis(axes, low, high)
    ends = [
        (f"{name}, {number(points[-1][1])} µs", colour, points[-1][1]) for name, colour, _, _, points in lines
    ]
    label_ends(axes, ends, low, high)
    clean(axes)


def _draw_speedups(axes: Axes, compared: Sequence[Choice]) -> None:
    m_values = [choice.m for choice in compared]
    ratios = [choice.speedup or math.nan for choice in compared]
    colours = [VERDICT_COLOURS[choice.verdict or Verdict.TIE] for choice in compared]
    axes.axhline(1, color=VERMILION, linewidth=1.2, zorder=1)
    axes.vlines(m_values, 1, ratios, color=colours, linewidth=5, zorder=2)
    for m, ratio, colour, choice in zip(m_values, ratios, colours, compared, strict=True):
        above = ratio >= 1
        text = f"{ratio:.2f}" + ("\ntie" if choice.verdict is Verdict.TIE else "")
        axes.annotate(
            text, (m, ratio), xytext=(0, 3 if above else -3), textcoords="offset points", fontsize=8.5,
            color=colour, ha="center", va="bottom" if above else "top",
        )  # fmt: skip
    low, high = min(*ratios, 1), max(*ratios, 1)
    # Room for the figures: where a bar ends, and a little on the line's other side.
    pad = max(high - low, 0.2)
    axes.set_ylim(low - (0.5 if low < 1 else 0.15) * pad, high + (0.5 if high > 1 else 0.15) * pad)
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.set_ylabel("two kernels\n/ best fused", fontsize=9, color=INK)
    clean(axes)
    axes.annotate(
        "1: as fast as\ntwo kernels", (1.012, 1), xycoords=("axes fraction", "data"), color=VERMILION,
        fontsize=8.5, va="center", annotation_clip=False,
    )  # fmt: skip


def draw_progress(study: Study) -> Figure | None:
    """The best so far at each M, together, against the candidate's number; above, a row for each failure."""
    logs = [_log_ratios(record, study) for record in study.candidates]
    points = [(trial, ratios) for trial, ratios in enumerate(logs, start=1) if ratios]
    if not points:
        return None
    timed_group(study.records)
    failed: dict[Outcome, list[int]] = {}
    for trial, record in enumerate(study.candidates, start=1):
        if record.outcome is not Outcome.OK:
            failed.setdefault(record.outcome, []).append(trial)
    strip = 0.24 * len(failed) + 0.15
    figure = new_figure(8.4, 4.4 + strip)
    if failed:
        above, axes = figure.subplots(2, 1, sharex=True, height_ratios=(strip, 3.4))
        _draw_failures(above, failed)
    else:
        axes = figure.subplots()
    trials, each_m = (np.array(column) for column in zip(*points, strict=True))
    values = np.exp(each_m.mean(axis=1))
    best = np.exp(np.minimum.accumulate(each_m, axis=0).mean(axis=1))
    last = len(logs)
    axes.scatter(trials, values, s=14, color=GREY, alpha=0.5, linewidths=0, zorder=2)
    axes.step([*trials, last], [*best, best[-1]], where="post", color=BLUE, linewidth=2, zorder=3)
    won = np.flatnonzero(np.diff(best, prepend=np.inf) < 0)
    axes.scatter(trials[won], best[won], s=26, color=BLUE, edgecolors="white", linewidths=0.8, zorder=4)
    ends = [(f"best so far\n{best[-1]:.2f} × floor", BLUE, float(best[-1]))]
    shown = [*values, best[-1]]
    if baselines := [
        ratios for record in two_kernel_records(study.records) if (ratios := _log_ratios(record, study))
    ]:
        two_kernels = float(np.exp(np.min(baselines, axis=0).mean()))
        shown.append(two_kernels)
        ends.append((f"two kernels\n{two_kernels:.2f} × floor", VERMILION, two_kernels))
        axes.axhline(two_kernels, color=VERMILION, linewidth=1.5, zorder=1)
    low, high = min(shown) / 1.06, max(shown) * 1.06
    ratio_axis(axes, low, high)
    label_ends(axes, ends, low, high)
    axes.set_ylabel(f"{'MODELLED ' * is_modelled(study)}time / floor", fontsize=9.5, color=INK)
    axes.set_xlabel("candidate, in the order of the sweep", fontsize=9.5, color=INK)
    axes.set_xlim(0, last + 1)
    axes.xaxis.set_major_locator(count_locator())
    clean(axes)
    finish(
        figure,
        study,
        f"Progress of the sweep: {len(logs)} candidates, {len(points)} of them ok",
        f"Geometric mean of {study.info.objective} time / floor over {minimized_over(study)}.\n"
        "Line: the best config so far at each M. Dot: one config at all of them. 1: what the device allows.",
    )
    return figure


def _draw_failures(axes: Axes, failed: dict[Outcome, list[int]]) -> None:
    for row, (outcome, trials) in enumerate(failed.items()):
        colour, marker = OUTCOME_STYLE[outcome]
        axes.scatter(
            trials, [row] * len(trials), color=colour, marker=marker, s=26, edgecolors=INK, linewidths=0.4
        )
    axes.set_yticks(range(len(failed)), [f"{outcome} {len(trials)}" for outcome, trials in failed.items()])
    axes.set_ylim(-0.7, len(failed) - 0.3)
    clean(axes, grid="x")
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)


def _log_ratios(record: TrialRecord, study: Study) -> list[float]:
    """log(time / floor) at each M that the sweep minimized over; empty unless usable at all of them."""
    found = [at for m in study.info.minimized_over if (at := usable(record, m))]
    if len(found) < len(study.info.minimized_over):
        return []
    return [math.log(getattr(at, study.info.objective).median_us / at.floor_us) for at in found]

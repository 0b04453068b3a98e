"""Figures of the space: what each parameter does, what became of the candidates, what they use.

Each `draw_*` returns a Figure, or None where the study has nothing to show in it.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.record import Outcome
from results.frames import outcomes, slowdowns, trials_frame
from results.study import CONFIG_PREFIX, Study
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
    minimized_over,
    new_figure,
    ratio_axis,
)

PANELS_PER_ROW = 4


def draw_effects(study: Study, m: int | None = None) -> Figure | None:
    """One panel per parameter: how much slower than the best the configs with each choice are.

    At `m`, or by the geometric mean over the objective's M. Parameters that were swept with one choice
    only have no panel.
    """
    table = slowdowns(study, m)
    names = [
        name for name in table.columns if name.startswith(CONFIG_PREFIX) and len(table[name].unique()) > 1
    ]
    if not names:
        return None
    columns = min(len(names), PANELS_PER_ROW)
    rows = math.ceil(len(names) / columns)
    figure = new_figure(max(2.15 * columns, 6.4) + 0.5, 2.3 * rows + 1.3, head=0.84)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    high = max(float(table["slowdown"].max()) * 1.05, 1.1)
    for index, axes in enumerate(grid.flat):
        if index >= len(names):
            axes.set_visible(False)
            continue
        _draw_choices(axes, table, names[index])
        ratio_axis(axes, 0.975, high)
        clean(axes)
        if index % columns == 0:
            axes.set_ylabel(f"{'MODELLED ' * is_modelled(study)}time / best", fontsize=9, color=INK)
    where = f"at M = {m}" if m else f"geometric mean over {minimized_over(study)}"
    finish(
        figure,
        study,
        f"What each parameter does, {f'M = {m}' if m else 'all M'}",
        f"{study.info.objective.capitalize()} time relative to the best config, {where}.\n"
        "Dot: one config. Bar: median of the choice. Ring: best config with the choice.",
    )
    return figure


def _draw_choices(axes: Axes, table: pd.DataFrame, name: str) -> None:
    choices = sorted(table[name].dropna().unique())
    random = np.random.default_rng(0)
    for place, choice in enumerate(choices):
        values = table.loc[table[name] == choice, "slowdown"].to_numpy(dtype=float)
        jitter = random.uniform(-0.2, 0.2, len(values))
        axes.scatter(
            place + jitter, values, s=9, color=GREY, alpha=0.4, linewidths=0, zorder=2, clip_on=False
        )
        axes.hlines(float(np.median(values)), place - 0.3, place + 0.3, color=INK, linewidth=2, zorder=3)
        axes.scatter(
            [place], [values.min()], s=34, facecolors="white", edgecolors=BLUE, linewidths=1.8, zorder=4,
            clip_on=False,
        )  # fmt: skip
    shown = [
        str(choice).lower() if isinstance(choice, bool | np.bool_) else str(choice) for choice in choices
    ]
    crowded = sum(map(len, shown)) > 18
    axes.set_xticks(
        range(len(choices)), shown, rotation=30 if crowded else 0, ha="right" if crowded else "center"
    )
    axes.set_xlim(-0.6, len(choices) - 0.4)
    axes.set_title(name.removeprefix(CONFIG_PREFIX), fontsize=9.5, fontweight="bold", color=INK)


def draw_outcomes(study: Study) -> Figure | None:
    """How many candidates ended how."""
    if not study.candidates:
        return None
    counted = outcomes(study.candidates)
    figure = new_figure(8.4, 0.42 * len(counted) + 1.5)
    axes = figure.subplots()
    names = [Outcome(name) for name in counted["outcome"]]
    axes.barh(
        range(len(counted)), counted["trials"], color=[OUTCOME_STYLE[name][0] for name in names], height=0.66
    )
    for row, (count, share) in enumerate(zip(counted["trials"], counted["share"], strict=True)):
        axes.annotate(
            f"{count}  ({share:.0%})", (count, row), xytext=(5, 0), textcoords="offset points", va="center",
            fontsize=9, color=INK,
        )  # fmt: skip
    axes.set_yticks(range(len(counted)), list(counted["outcome"]))
    axes.invert_yaxis()
    axes.set_xlim(0, float(counted["trials"].max()) * 1.15)
    axes.xaxis.set_major_locator(count_locator())
    axes.set_xlabel("trials", fontsize=9.5, color=INK)
    clean(axes, grid="x")
    axes.tick_params(axis="y", length=0)
    beside = f"{len(study.baselines)} of the two-kernel path and {len(study.confirmations)} confirmations"
    finish(
        figure,
        study,
        f"What became of the {len(study.candidates)} candidates",
        f"Every candidate has one outcome. Recorded beside them: {beside}",
    )
    return figure


def draw_resources(study: Study) -> Figure | None:
    """Registers, shared memory and spills of every compiled config, ordered by registers."""
    table = trials_frame(study.candidates)
    if not len(table) or table["registers"].isna().all():
        return None
    table = table.dropna(subset=["registers"]).sort_values(["registers", "smem_bytes", "spill_bytes"])
    spilled = table["spill_bytes"].to_numpy(dtype=float) > 0
    panels = [
        ("registers\nper thread", table["registers"]),
        ("shared memory\nper block, KiB", table["smem_bytes"] / 1024),
    ]
    if spilled.any():
        panels.append(("spilled bytes\nper thread", table["spill_bytes"]))
    figure = new_figure(8.4, 1.5 * len(panels) + 1.5)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    places = np.arange(1, len(table) + 1)
    for axes, (label, values) in zip(grid, panels, strict=True):
        heights = values.to_numpy(dtype=float)
        axes.scatter(places[~spilled], heights[~spilled], s=16, color=BLUE, linewidths=0, clip_on=False)
        axes.scatter(
            places[spilled], heights[spilled], s=26, color=VERMILION, marker="X", linewidths=0, clip_on=False
        )
        axes.set_ylabel(label, fontsize=9, color=INK)
        axes.set_ylim(0, max(float(heights.max()) * 1.15, 1))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        clean(axes)
    grid[-1].set_xlabel("configs, ordered by registers", fontsize=9.5, color=INK)
    grid[-1].xaxis.set_major_locator(count_locator())
    grid[-1].set_xlim(0, len(table) + 1)
    finish(
        figure,
        study,
        f"What the {len(table)} compiled configs use, {study.info.target}",
        f"Of the launch's kernels, the one that uses most. {spilled.sum()} of {len(table)} spill"
        + (" (crosses)" if spilled.any() else ""),
    )
    return figure

"""The timeline of a modelled launch: what the units and warps of one SM do at the same time."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.simulator.account_record import LOAD, PRODUCT, STORE, LaunchAccount, WaveAccount
from results.account_text import short_name
from results.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    UNTIMED,
    VERMILION,
    clean,
    mark_modelled,
    new_figure,
    write_texts,
)

UNIT_COLOURS = {LOAD: SKY, PRODUCT: ORANGE, STORE: PURPLE}
ROLE_COLOURS = {"TMA": BLUE, "MMA": VERMILION, "math": GREEN, "epilogue": GREEN, "other": INK}
# wgmma leaves its sums in the registers of the warps that issue it: those are the epilogue's, too.
ROLE_NAMES = {
    "TMA": "TMA warp", "MMA": "MMA warp", "math": "math and epilogue warp", "epilogue": "epilogue warp",
    "other": "another warp",
}  # fmt: skip
BAR = 0.72
SUBTITLE_COLUMNS = 120

Intervals = Sequence[tuple[float, float]]


def draw_timeline(title: str, source: str, account: LaunchAccount) -> Figure:
    """One panel for each wave, a row for each unit and warp role of its first CTA, time in us."""
    rows = [len(_rows(wave)) for wave in account.waves]
    figure = new_figure(11.0, 0.5 * sum(rows) + 0.75 * len(rows) + 1.2, head=0.84)
    panels = figure.subplots(len(rows), 1, height_ratios=rows, squeeze=False)[:, 0]
    for axes, wave in zip(panels, account.waves, strict=True):
        _draw_wave(axes, wave, account.clock_mhz)
    panels[-1].set_xlabel("MODELLED time from the CTA's start, µs", fontsize=9.5, color=INK)
    head, _, config = title.partition(": ")
    subtitle = "\n".join(textwrap.wrap(config, SUBTITLE_COLUMNS))
    caption = f"{source}  ·  {UNTIMED}"
    write_texts(figure, f"{head}: {account.microseconds:.1f} µs modelled", subtitle, caption)
    mark_modelled(figure)
    return figure


def _rows(wave: WaveAccount) -> list[tuple[str, str, Intervals]]:
    """(label, colour, intervals in cycles) from top to bottom, as data passes them."""
    units = {
        kind: [(span.begin, span.end) for span in wave.spans if span.kind == kind]
        for kind in (LOAD, PRODUCT, STORE)
    }
    found: list[tuple[str, str, Intervals]] = [
        ("TMA loads in flight", UNIT_COLOURS[LOAD], units[LOAD]),
        *((ROLE_NAMES[role], ROLE_COLOURS[role], runs) for role, runs in wave.lanes),
        ("tensor cores", UNIT_COLOURS[PRODUCT], units[PRODUCT]),
        ("TMA stores in flight", UNIT_COLOURS[STORE], units[STORE]),
    ]
    return [row for row in found if row[2]]


def _draw_wave(axes: Axes, wave: WaveAccount, clock_mhz: float) -> None:
    rows = _rows(wave)
    labels = []
    for place, (label, colour, intervals) in enumerate(rows):
        times, open_ = _open_at_once(intervals)
        most = int(open_.max())
        labels.append(f"{label}\n(up to {most} at once)" if most > 1 else label)
        bottom = place + BAR / 2
        axes.fill_between(
            times / clock_mhz, bottom, bottom - BAR * open_ / most, step="post", color=colour, linewidth=0
        )
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, wave.cycles / clock_mhz)
    axes.set_title(
        f"{short_name(wave.kernel)}: the first of {wave.simulated_ctas} simulated CTAs",
        fontsize=8.5, color=INK, loc="left",
    )  # fmt: skip
    clean(axes, grid="x")
    axes.tick_params(axis="y", length=0)


def _open_at_once(intervals: Intervals) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Times in cycles, ascending, and how many of the intervals are open from each on."""
    begins, ends = (np.array(column) for column in zip(*intervals, strict=True))
    times = np.concatenate([begins, ends]).round(6)
    steps = np.repeat([1, -1], len(begins))
    # Of equal times the ends come first: what follows without a gap does not overlap.
    order = np.lexsort((steps, times))
    return times[order], steps[order].cumsum()

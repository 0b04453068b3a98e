"""How every figure looks: colours, axes, the caption that names the source, and the MODELLED watermark.

Figures are made without pyplot, so that nothing global changes and threads may draw.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from harness.record import Outcome, Source
from kernels.dispatch_table import write_atomically
from results.study import ResultsError, Study, timed_group

DPI = 160
# Okabe and Ito's palette: told apart by every kind of colour vision, and in print by lightness.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"
INK, GREY, FAINT = "#222222", "#6B6B6B", "#DADADA"

# What times are of: as a rule operands lie quantized in memory before a launch is timed or modelled.
UNTIMED = "times do not include the quantization of activations"
TIMED = "times include the quantization of activations"
SEPARATOR = "  ·  "

RATIO_TICKS = (1, 1.1, 1.2, 1.3, 1.5, 1.75, 2, 2.5, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000)

# Each outcome has a colour and a marker, so that neither has to be told apart alone.
OUTCOME_STYLE: Mapping[Outcome, tuple[str, str]] = MappingProxyType(
    {
        Outcome.OK: (BLUE, "o"),
        Outcome.UNSTABLE: (YELLOW, "D"),
        Outcome.WRONG_RESULT: (VERMILION, "X"),
        Outcome.CRASHED: (INK, "P"),
        Outcome.TIMEOUT: (ORANGE, "s"),
        Outcome.COMPILE_ERROR: (PURPLE, "v"),
        Outcome.ILLEGAL: (GREY, "d"),
        Outcome.COMPILED: (GREEN, "^"),
    }
)


def new_figure(width: float, height: float, *, head: float = 0.62) -> Figure:
    """A figure of the given inches, `head` of them kept free for the title, and a strip for the caption."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    # constrained layout keeps the axes inside; the two strips hold the title and the caption.
    top, bottom = head / height, 0.34 / height
    figure.get_layout_engine().set(rect=(0.01, bottom, 0.98, 1 - top - bottom))  # type: ignore[union-attr,call-arg]
    return figure


def finish(figure: Figure, study: Study, title: str, subtitle: str) -> None:
    """Put the title, what is shown, where it comes from and, on modelled figures, the watermark."""
    source, what, *when = _origin(study)
    if (group := timed_group(study.records)) is not None:
        when.append(TIMED if group.quantized else UNTIMED)
    write_texts(figure, title, subtitle, f"{SEPARATOR.join((source, what))}\n{SEPARATOR.join(when)}")
    if is_modelled(study):
        mark_modelled(figure)


def mark_modelled(figure: Figure) -> None:
    """The watermark across a figure of the simulator's times."""
    width, height = figure.get_size_inches()
    figure.text(
        0.5, 0.5, "MODELLED", fontsize=11 * min(width, 1.5 * height), fontweight="bold", color=VERMILION,
        alpha=0.16, rotation=24, ha="center", va="center", zorder=100,
    )  # fmt: skip


def is_modelled(study: Study) -> bool:
    """Whether the study's times are the simulator's, or it would have made them where nothing was timed.

    Raises `ResultsError` for times of several sources.
    """
    group = timed_group(study.records)
    if group is None:
        return any(record.source is Source.MODELLED for record in study.records)
    return group.source is Source.MODELLED


def write_texts(figure: Figure, title: str, subtitle: str, source: str) -> None:
    """Put the title and what is shown above the axes, and where it comes from below them."""
    width, height = figure.get_size_inches()
    left = 0.12 / width
    figure.text(left, 1 - 0.09 / height, title, fontsize=13, fontweight="bold", color=INK, va="top")
    figure.text(left, 1 - 0.35 / height, subtitle, fontsize=9, color=GREY, va="top")
    figure.text(left, 0.06 / height, source, fontsize=7.5, color=GREY, va="bottom")


def caption(study: Study) -> str:
    """Source and device, study, date and commit, on one line."""
    return SEPARATOR.join(_origin(study))


def _origin(study: Study) -> tuple[str, str, str, str]:
    """Source and device, study, date, commit."""
    group = timed_group(study.records)
    if group is None and study.was_run:
        by = " (MODELLED by the simulator, not measured)" * is_modelled(study)
        source = f"nothing was timed, for {study.info.target}{by}"
    elif group is None:
        source = f"nothing was run: compiled only, for {study.info.target}"
    elif group.source is Source.MODELLED:
        source = f"MODELLED by the simulator for {study.info.target}, not measured"
    else:
        source = f"{group.source} on {group.device}"
    dates = sorted({record.provenance.date[:10] for record in study.records if record.provenance})
    date = (
        " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else study.info.created[:10] or "no date"
    )
    what = f"{study.info.problem.get('name')}, study {study.info.name}"
    return source, what, date, commit_label(study)


def commit_label(study: Study) -> str:
    """The commits that the records were made at."""
    return commit_text(record.provenance.commit for record in study.records if record.provenance)


def commit_text(commits: Iterable[str]) -> str:
    """Commits shortened, each once; "-dirty" stays visible."""
    short = sorted(
        f"{name.removesuffix('-dirty')[:10]}{'-dirty' * name.endswith('-dirty')}"
        for name in set(commits)
        if name
    )
    if len(short) > 2:
        return f"{len(short)} commits, {short[0]} among them"
    return f"commit {', '.join(short)}" if short else "commit unknown"


def minimized_over(study: Study) -> str:
    """The M of the objective, short enough for a subtitle."""
    m_values = study.info.minimized_over
    if len(m_values) > 8:
        return f"{len(m_values)} M from {m_values[0]} to {m_values[-1]}"
    return f"M = {', '.join(map(str, m_values))}"


def clean(axes: Axes, *, grid: str = "y") -> None:
    """Only the axes that carry a scale, and a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=8.5, which="both")
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=FAINT, linewidth=0.6)  # type: ignore[arg-type]


def token_axis(axes: Axes, m_values: Sequence[int]) -> None:
    """A log2 axis of M with a tick at every M that was swept and nowhere else."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(m_values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlabel("M, tokens per launch", fontsize=9.5, color=INK)


def time_axis(axes: Axes, low_us: float, high_us: float, *, which: Literal["x", "y"] = "y") -> None:
    """A log axis of microseconds with round ticks: 1, 2, 5, 10, ..."""
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low_us, high_us)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    ticks = [factor * 10.0**power for power in range(-2, 8) for factor in (1, 2, 5)]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def ratio_axis(axes: Axes, low: float, high: float) -> None:
    """A log axis of ratios with at most seven round ticks."""
    ticks = [tick for tick in RATIO_TICKS if low <= tick <= high]
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    # Where hardly any of them falls between the limits, those that matplotlib finds round.
    few = len(ticks) < 2
    axes.yaxis.set_major_locator(MaxNLocator(4) if few else FixedLocator(ticks[:: -(-len(ticks) // 7)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))


def label_ends(axes: Axes, ends: Sequence[tuple[str, str, float]], low: float, high: float) -> None:
    """Name lines at the right of a log axis from `low` to `high`: (text, colour, height) of each.

    Labels that would overlap are moved apart, in the order of their lines.
    """
    lines = max(text.count("\n") + 1 for text, *_ in ends)
    inches = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    gap = 0.17 * lines / inches * math.log(high / low)
    placed = spread_labels([math.log(height) for *_, height in ends], math.log(low), math.log(high), gap)
    for (text, colour, _), position in zip(ends, placed, strict=True):
        axes.annotate(
            text, (1.012, math.exp(position)), xycoords=("axes fraction", "data"), color=colour, fontsize=9,
            fontweight="bold", va="center", annotation_clip=False,
        )  # fmt: skip


def count_locator() -> MaxNLocator:
    """At most eight whole-numbered ticks at round steps."""
    return MaxNLocator(8, integer=True, steps=[1, 2, 5, 10])


def spread_labels(positions: Sequence[float], low: float, high: float, gap: float) -> list[float]:
    """Positions as near to the wanted ones as a distance of `gap` between any two allows, within the limits.

    Labels keep the order of what they label. Where they do not all fit, they are spaced evenly.
    """
    order = np.argsort(positions, kind="stable")
    count = len(positions)
    if count * gap > high - low:
        gap = (high - low) / max(count, 1)
    placed = np.clip(np.asarray(positions, dtype=float)[order], low, high)
    for index in range(1, count):
        placed[index] = max(placed[index], placed[index - 1] + gap)
    overflow = high
    for index in reversed(range(count)):
        placed[index] = min(placed[index], overflow)
        overflow = placed[index] - gap
    result = np.empty(count)
    result[order] = placed
    return [float(position) for position in result]


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG, atomically; raises `ResultsError` when `path` cannot be written."""
    buffer = io.BytesIO()
    # Without the date and version that matplotlib would add, equal studies give equal files.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror}") from None
    return path

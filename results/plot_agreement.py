"""The picture of how far the simulator agrees with a GPU: modelled against measured time, at each M.

python -m results.plot_agreement agreement.json --output agreement.png
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.agreement_record import Agreement, pairs, parts, rank_line, read_agreement, timed_m
from results.style import (
    BLUE,
    FAINT,
    GREY,
    ORANGE,
    UNTIMED,
    clean,
    commit_text,
    new_figure,
    save,
    time_axis,
    write_texts,
)


def draw_agreement(agreement: Agreement) -> Figure:
    """One panel for each M; configs that the model was calibrated on are told from the others."""
    m_values = timed_m(agreement)
    figure = new_figure(3.4 * len(m_values), 4.6)
    for axes, m in zip(figure.subplots(1, len(m_values), squeeze=False)[0], m_values, strict=True):
        _draw_panel(axes, agreement, m)
    found = agreement.provenance
    write_texts(
        figure,
        f"Modelled against measured time, {agreement.problem} on {agreement.target}",
        f"x: measured on one {agreement.device}; y: modelled by the simulator; inputs cold",
        f"{found.date[:10]}, {commit_text([found.commit])}  ·  {UNTIMED}",
    )
    return figure


def _draw_panel(axes: Axes, agreement: Agreement, m: int) -> None:
    both = np.array(pairs(agreement, m))
    low, high = both.min() / 1.2, both.max() * 1.2
    axes.plot([low, high], [low, high], color=FAINT, zorder=0)
    found = parts(agreement)
    for label, calibrates in found:
        color = ORANGE if calibrates else BLUE
        measured, modelled = np.array(pairs(agreement, m, calibrates)).T
        axes.scatter(measured, modelled, s=14, color=color, alpha=0.85, linewidths=0, label=label)
    for which in ("x", "y"):
        time_axis(axes, low, high, which=which)
    axes.set_aspect("equal")
    axes.set_xlabel("measured, us")
    axes.set_ylabel("modelled, us")
    rank = rank_line(pairs(agreement, m, False)).split(", ")
    axes.set_title(f"M = {m}\n{found[-1][0]}: {rank[1]}", fontsize=9, color=GREY)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")
    clean(axes, grid="both")


@click.command()
@click.argument("agreement", type=click.Path(exists=True, path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True)
def main(agreement: Path, output: Path) -> None:
    """Draw what `sweeps.agreement compare` wrote."""
    click.echo(save(draw_agreement(read_agreement(agreement)), output))


if __name__ == "__main__":
    main()

"""What each tunable buys, in the model, as a picture and as a Markdown table.

python -m results.plot_ablation ablation.jsonl --output ablation.png
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure

from harness.ablation_record import (
    ALL,
    FUSED,
    SMALLEST_TILE,
    TWO_KERNEL_PATH,
    VARIANTS,
    Tried,
    best,
    read_tried,
    released,
    within,
)
from kernels.family import ParamValue
from results.markdown import number, table
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
    commit_text,
    mark_modelled,
    new_figure,
    save,
    write_texts,
)

COLORS = (INK, BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY)
ROWS = (*VARIANTS, TWO_KERNEL_PATH)
# What tells a config's shape at a glance.
SHOWN = {
    "mma_n": "n",
    "cta_group": "group",
    "cluster_m": "cluster_m",
    "expert_split": "expert_split",
    "split_k": "split_k",
    "grid_split": "grid_split",
    "swap_operands": "swap",
    "early_release": "early",
}


def searched_m(tried: Sequence[Tried]) -> list[int]:
    """The M at which every search was made."""
    return sorted(set.intersection(*(set(one.us) for one in tried if one.us and one.search in ROWS)))


def draw_ablation(tried: Sequence[Tried]) -> Figure:
    """At each M a bar for each variant: its best modelled time."""
    m_values = searched_m(tried)
    figure = new_figure(10, 4.6)
    axes = figure.subplots()
    width = 0.84 / len(ROWS)
    for place, (variant, color) in enumerate(zip(ROWS, COLORS, strict=True)):
        winners = [best(tried, variant, m) for m in m_values]
        times = [one.us[m] if one is not None else np.nan for one, m in zip(winners, m_values, strict=True)]
        left = np.arange(len(m_values)) + (place - (len(ROWS) - 1) / 2) * width
        axes.bar(left, times, 0.9 * width, color=color, label=variant)
    axes.set_xticks(range(len(m_values)), [str(m) for m in m_values])
    axes.set_xlabel("tokens M")
    axes.set_ylabel("best modelled time, us")
    axes.legend(fontsize=8, frameon=False, ncols=len(ROWS), loc="upper center", bbox_to_anchor=(0.5, 1.1))
    clean(axes)
    first = tried[0]
    write_texts(
        figure,
        f"What each small-batch tunable buys, {first.problem} on {first.target}",
        "the fastest of the configs tried that each variant allows; inputs cold",
        f"MODELLED by the simulator for {first.target}, not measured  ·  {first.provenance.date[:10]}, "
        f"{commit_text(one.provenance.commit for one in tried)}  ·  {UNTIMED}",
    )
    mark_modelled(figure)
    return figure


def best_table(tried: Sequence[Tried]) -> str:
    """Modelled microseconds, and what forbidding costs against everything allowed."""
    m_values = searched_m(tried)
    rows = []
    for variant in ROWS:
        cells = [variant]
        for m in m_values:
            one, free = best(tried, variant, m), best(tried, ALL, m)
            if one is None or free is None:
                cells.append("–")
                continue
            mark = "" if one.checked else " (not checked)"
            cells.append(f"{one.us[m]:.1f}{mark} ({one.us[m] / free.us[m] - 1:+.0%})")
        rows.append(cells)
    return table(["modelled us, cold", *(f"M = {m}" for m in m_values)], rows)


def config_table(tried: Sequence[Tried]) -> str:
    """The config behind each best time."""
    rows = []
    for variant in ROWS:
        for m in searched_m(tried):
            one = best(tried, variant, m)
            if one is not None:
                checked = "passed" if one.checked else "not checked"
                rows.append([variant, m, *(one.config[name] for name in SHOWN), number(one.us[m]), checked])
    return table(["variant", "M", *SHOWN.values(), "modelled us", "check"], rows)


def design_table(tried: Sequence[Tried]) -> str:
    """The factorial design: modelled microseconds at the smallest M, K splits side by side.

    Of a combination's configs, those that another search had tried before included, the fastest.
    """
    found = [one for one in tried if one.family == FUSED and within(one.config, SMALLEST_TILE)]
    m = min((m for one in found for m in one.us), default=0)
    cells: dict[tuple[ParamValue, ...], dict[ParamValue, float]] = {}
    for one in found:
        if m in one.us:
            row = tuple(one.config[name] for name in ("swap_operands", "expert_split", "grid_split"))
            of_row, split = cells.setdefault(row, {}), one.config["split_k"]
            of_row[split] = min(one.us[m], of_row.get(split, math.inf))
    splits = sorted({split for of_row in cells.values() for split in of_row})
    rows = [[*row, *(number(cells[row].get(split)) for split in splits)] for row in sorted(cells)]
    header = ["swap", "expert_split", "grid_split", *(f"split_k {split}" for split in splits)]
    return f"M = {m}, modelled us:\n\n{table(header, rows)}"


def release_table(tried: Sequence[Tried]) -> str:
    """Pairs of configs that differ in early release only, at the largest M that were modelled."""
    m_values = sorted({m for one in tried if one.search == "early_release" for m in one.us})
    names = ["mma_n", "acc_stages", "cta_group", "cluster_m", "expert_split", "grid_split"]
    rows = []
    for m in m_values:
        for without, early in released(tried, m):
            if not any(side.search == "early_release" for side in (without, early)):
                continue
            checked = "passed" if without.checked and early.checked else "not both checked"
            change = f"{early.us[m] / without.us[m] - 1:+.1%}"
            shape = [without.config[name] for name in names]
            rows.append([m, *shape, number(without.us[m]), number(early.us[m]), change, checked])
    return table(["M", *names, "without, us", "with, us", "change", "check"], rows)


@click.command()
@click.argument("ablation", type=click.Path(exists=True, path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True)
def main(ablation: Path, output: Path) -> None:
    """Draw what `routertune ablate` wrote, and print its tables."""
    tried = read_tried(ablation)
    tried_fused = sum(one.family == FUSED for one in tried)
    checked = sum(one.checked for one in tried)
    click.echo(f"{len(tried)} configs modelled ({tried_fused} fused), {checked} checked\n")
    for text in (best_table, design_table, config_table, release_table):
        click.echo(text(tried) + "\n")
    click.echo(save(draw_ablation(tried), output))


if __name__ == "__main__":
    main()

"""`routertune ablate`: what each small-batch tunable of the Blackwell router buys, in the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kernels.problem import DEFAULT_PRESET, preset
from sweeps.cli_types import TOKENS, known_preset

if TYPE_CHECKING:
    from harness.ablation_record import Tried

DEFAULT_M = "1,16,64,128,256,1024"


def _tokens(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    listed = value.split(",")
    if not all(each.isdecimal() and int(each) > 0 for each in listed):
        raise click.BadParameter(f"{value!r} is not numbers of tokens with commas, such as {DEFAULT_M}")
    return tuple(TOKENS.convert(int(each), parameter, context) for each in listed)


@click.command(epilog="\b\nExamples:\n  routertune ablate --candidates 20 --out ablation.jsonl")
@click.option("--problem", callback=known_preset, default=DEFAULT_PRESET, show_default=True, help="A preset.")
@click.option(
    "--m", "m_values", default=DEFAULT_M, show_default=True, callback=_tokens, help="Tokens, with commas."
)
@click.option(
    "--candidates",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Configs that each search tries.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON lines; goes on with them.")
def ablate(problem: str, m_values: tuple[int, ...], candidates: int, seed: int, out: Path) -> None:
    """Model the best config with all small-batch tunables, and with each of them forbidden.

    The same number of candidates is searched for every variant. All times are modelled; the winners are
    executed and checked by the simulator.
    """
    from harness.ablation_record import TWO_KERNEL_PATH, VARIANTS
    from harness.cache import ArtifactCache
    from sweeps.ablation import Ablation

    ablation = Ablation(preset(problem), m_values, out, ArtifactCache().root)
    variants = (*VARIANTS, TWO_KERNEL_PATH)
    for variant in variants:
        for one in ablation.search(variant, candidates, seed):
            _show(one)
    for one in ablation.design(seed):
        _show(one)
    for one in ablation.check_winners(variants):
        _show(one)
    ablation.pairs_of_early_release(_show)


def _show(one: Tried) -> None:
    times = ", ".join(f"{m}: {us:.1f}" for m, us in sorted(one.us.items()))
    state = "checked, " if one.checked else ""
    click.echo(
        f"{one.search} {one.number}: {state}{one.outcome.value} {one.reason or f'modelled us at {times}'}"
    )

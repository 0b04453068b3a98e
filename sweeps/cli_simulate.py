"""`routertune simulate`: one launch in the simulator, and where its time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sweeps.cli_types import TOKENS, known_family, known_preset


@click.command(
    epilog="\b\nExamples:\n"
    "  routertune simulate --m 1024\n"
    "  routertune simulate --m 64 --spec default tile_m=64 tile_n=64 --output simulated\n"
    "  routertune simulate --m 4096 --family two_kernel_sm90 --target sm_90a --warm"
)
@click.argument("assignments", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--m", type=TOKENS, default=1024, show_default=True, help="Tokens.")
@click.option("--spec", "spec_name", metavar="NAME|FILE", help="A sweep, for its problem, family and target.")
@click.option("--problem", metavar="PRESET", callback=known_preset, help="Another problem than the sweep's.")
@click.option("--family", callback=known_family, help="Another kernel family than the sweep's.")
@click.option("--target", help="Another target than the sweep's, such as sm_90a.")
@click.option("--warm", is_flag=True, help="With the inputs in the L2 already.")
@click.option("--cache", type=click.Path(), help="Artifact cache.  [default: ~/.cache/routertune]")
@click.option("--output", type=click.Path(path_type=Path), help="A folder for the timeline, timeline.png.")
def simulate(
    assignments: tuple[str, ...],
    m: int,
    spec_name: str | None,
    warm: bool,
    cache: str | None,
    output: Path | None,
    **other: Any,
) -> None:
    """Model one launch: what each warp role did and waited for, how busy every unit was, what was moved.

    Parameters that are not said are those of the best known config at M, or the family's default; where these
    do not go with the others, those of the nearest legal config.
    """
    from results.account_text import account_text
    from results.plot_timeline import draw_timeline
    from results.style import save
    from sweeps.simulating import simulate_launch
    from sweeps.spec import default_spec, load_spec

    spec = load_spec(spec_name or default_spec(), {key: value for key, value in other.items() if value})
    simulated = simulate_launch(spec, assignments, m, warm=warm, cache=cache)
    click.echo(account_text(simulated.title, simulated.account))
    if output is not None:
        path = save(
            draw_timeline(simulated.title, simulated.source, simulated.account), output / "timeline.png"
        )
        click.echo(path)

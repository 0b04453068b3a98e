"""`routertune verify`: prove a search space in the simulator, config after config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from kernels.problem import DEFAULT_PRESET, preset
from sweeps.cli_types import MINUTES, PROCESSES, known_family, known_preset
from sweeps.limits import MAX_HIDDEN


@click.command(
    epilog="\b\nExamples:\n"
    "  routertune verify --hidden 1024 --minutes 30 --out verified.jsonl\n"
    "  routertune verify --family fused_sm90 --target sm_90a --configs 100 --out verified.jsonl"
)
@click.option("--family", "family_name", callback=known_family, default="fused_sm100", show_default=True)
@click.option("--target", default="sm_100a", show_default=True)
@click.option("--problem", callback=known_preset, default=DEFAULT_PRESET, show_default=True, help="A preset.")
@click.option(
    "--hidden",
    type=click.IntRange(1, MAX_HIDDEN),
    help="The problem with another hidden size: the same code, sooner.",
)
@click.option(
    "--configs", type=click.IntRange(min=1), help="Stop when so many are known; otherwise all legal ones."
)
@click.option("--minutes", type=MINUTES, help="Stop after so long.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON lines, appended to.")
@click.option("--jobs", type=PROCESSES, default=1, show_default=True, help="Processes.")
@click.option("--on-gpu", is_flag=True, help="Also compare each config's answers with this machine's GPU.")
@click.option(
    "--check",
    type=click.Choice(["full", "brief"]),
    help="Give each config the check of a sweep's candidate, as on a GPU (full) or in the simulator (brief), "
    "instead of fewer distributions, more M and the comparison with the two kernels.",
)
@click.option("--shard", default="0/1", show_default=True, help="I/N: part I of N, for N machines.")
def verify(
    family_name: str,
    target: str,
    problem: str,
    hidden: int | None,
    configs: int | None,
    minutes: float | None,
    out: Path,
    jobs: int,
    on_gpu: bool,
    check: str | None,
    shard: str,
) -> None:
    """Compile a space's configs and check each in the simulator against the float64 reference.

    Configs come in an order that meets every choice early. The same command goes on where it stopped: a space
    of many thousands is a matter of patience, and what has been proven so far is always in the file. Configs
    that an earlier version proved when it asked less come last, again.
    """
    from harness.cache import ArtifactCache
    from harness.device import visible_capabilities
    from harness.executor import CheckDepth
    from harness.record import Outcome
    from harness.toolchain import TARGETS
    from kernels.families import family
    from sweeps.covering import pairs_met
    from sweeps.errors import DeviceError, SpecError
    from sweeps.space import Space
    from sweeps.verify import read_verified, table
    from sweeps.verify_space import Plan, verify_space

    try:
        wanted = preset(problem) if hidden is None else replace(preset(problem), hidden=hidden)
    except ValueError as error:
        raise SpecError(f"--hidden: {error}") from None
    space = Space(family(family_name), wanted, target)
    first, _, step = shard.partition("/")
    if not (first.isdecimal() and step.isdecimal() and int(first) < int(step)):
        raise click.BadParameter(f"{shard!r} is not I/N with I below N", param_hint="--shard")
    if on_gpu and check:
        raise click.UsageError("--on-gpu and --check exclude each other: leave one out")
    if on_gpu and TARGETS[target] not in visible_capabilities():
        capability = ".".join(map(str, TARGETS[target]))
        raise DeviceError(
            f"--on-gpu: no NVIDIA GPU of compute capability {capability} is visible: leave it out, or verify "
            f"on a host with one"
        )
    depth = CheckDepth(check) if check else None
    plan = Plan(ArtifactCache().root, configs, minutes, (int(first), int(step)), jobs, on_gpu, depth)
    for one in verify_space(space, out, plan):
        if one.outcome is not Outcome.OK:
            click.echo(f"{one.outcome.value}: {one.reason}: {one.config}", err=True)
    found = read_verified(out)
    click.echo(table(found, len(space)))
    met, legal = pairs_met(space, (one.config for one in found))
    click.echo(f"\n{met} of the {legal} pairs of choices that legal configs have occur in these.")

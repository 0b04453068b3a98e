"""The command line: `routertune COMMAND`. Exit statuses are listed in `sweeps.errors`.

Nothing heavy is imported before a command needs it: torch, Optuna and the DSL take seconds.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from harness.passwords import without_passwords
from sweeps.cli_ablate import ablate
from sweeps.cli_simulate import simulate
from sweeps.cli_trace import trace
from sweeps.cli_types import MINUTES, PROCESSES, known_preset
from sweeps.cli_verify import verify
from sweeps.errors import STOPPED, SpecError, exit_status

Command = Callable[..., Any]


class OneLineError(click.ClickException):
    """A user's mistake, shown as one line."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        return self.status

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {without_passwords(self.message)}", err=True)


class Commands(click.Group):
    """Shows users' mistakes as one line, unless `--debug` asks for the traceback, and lists commands in the
    order in which they are used."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit as ending:
            if ending.exit_code == STOPPED:
                _ignore_interrupts()
            raise
        except (click.ClickException, click.Abort):
            raise
        except KeyboardInterrupt:
            _ignore_interrupts()
            raise OneLineError("stopped; everything told is stored", STOPPED) from None
        except Exception as error:
            status = exit_status(error)
            if status is None or ctx.params["debug"]:
                raise
            raise OneLineError(str(error), status) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _ignore_interrupts() -> None:
    """Nothing is left to stop: another Ctrl-C would only be a traceback of the interpreter's own end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def examples(*lines: str) -> str:
    """An epilog that click does not rewrap."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def sweep_options(command: Command) -> Command:
    """What names a sweep."""
    options = (
        click.option("--spec", "spec_name", metavar="NAME|FILE", help="A committed sweep or a TOML file."),
        click.option(
            "--problem", metavar="PRESET", callback=known_preset, help="Another problem than the sweep's."
        ),
        click.option("--target", help="Another target than the sweep's, such as sm_90a."),
    )
    return _apply(command, options)


def study_options(command: Command) -> Command:
    """Where a study is kept."""
    options = (
        click.option("--storage", metavar="URL|FILE", help="Optuna storage.  [default: runs/STUDY.db]"),
        click.option("--study", metavar="NAME", help="The study's name.  [default: SPEC-TARGET]"),
    )
    return _apply(command, options)


def compile_options(command: Command) -> Command:
    """How candidates are compiled."""
    options = (
        click.option("--workers", type=PROCESSES, help="Compile processes.  [default: one per core]"),
        click.option("--cache", type=click.Path(), help="Artifact cache.  [default: ~/.cache/routertune]"),
    )
    return _apply(command, options)


def _apply(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def _spec(spec_name: str | None, problem: str | None, target: str | None, **search: Any) -> Any:
    from sweeps.spec import default_spec, load_spec

    spec_name = spec_name or default_spec()
    # What a person asks for holds on a GPU and on the simulator.
    overrides = {
        f"{table}.{key}": value
        for key, value in search.items()
        if value is not None
        for table in ("search", "simulator")
    }
    if target is not None:
        overrides["target"] = target
    if problem is not None:
        # Another problem is another study: its name must not be the spec's own.
        overrides |= {"problem": problem, "name": f"{Path(spec_name).stem}-{problem}"}
    return load_spec(spec_name, overrides)


def _found(spec_name: str | None, problem: str | None, target: str | None, **place: str | None) -> Any:
    from sweeps.places import find_place

    named = any((spec_name, problem, target))
    return find_place(_spec(spec_name, problem, target) if named else None, place["storage"], place["study"])


def _loaded(place: Any) -> Any:
    """The results room's view of a study; a storage with one study needs no name."""
    from results.load import load_study
    from sweeps.store import open_storage, read_study

    storage = open_storage(place.storage)
    return load_study(storage, read_study(storage, place.study).study_name)


def _export_if_any(place: Any) -> None:
    """Write the best config at each M beside a sweep's other results, once there is one."""
    from results.choose import choose_all
    from results.export import export_best

    loaded = _loaded(place)
    if choose_all(loaded):
        path = place.results / "best.json"
        table = export_best(loaded, path)
        click.echo(f"{path}: the best config at each M, {table.source} on {table.device}")


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=examples(
        "routertune sweep                      tune the default problem (what `make sweep` runs)",
        "routertune sweep --spec quick         a few configs, some minutes",
        "routertune plot && routertune report  of the sweep that was written last",
        "routertune export --install           best config per M, where the public wrapper finds it",
    ),
)
@click.version_option(package_name="routertune")
@click.option("--debug", is_flag=True, help="Show the traceback of a mistake, too.")
def main(debug: bool) -> None:
    """Autotune the fused MoE router: compile, check, time, record and choose."""


@main.command(
    epilog=examples(
        "routertune sweep",
        "routertune sweep --spec small-batch --minutes 20",
        "routertune sweep --spec my-sweep.toml --trials 300",
        "routertune sweep --problem kimi-k2 --storage postgresql://tuner@db/sweeps",
    )
)
@sweep_options
@study_options
@click.option(
    "--executor",
    type=click.Choice(["auto", "cuda", "simulator", "none"]),
    default="auto",
    show_default=True,
    help="What runs candidates; auto: the GPU where there is one for the target, else the simulator, whose "
    "times are modelled; none: compile only.",
)
@click.option(
    "--check",
    type=click.Choice(["full", "brief"]),
    help="How much is checked before a time.  [default: full on a GPU, brief on the simulator]",
)
@click.option(
    "--quantize", is_flag=True, help="Time raw activations: their quantization is in every time then."
)
@click.option("--trials", type=click.IntRange(min=1), help="Budget of configs, over all runs of the study.")
@click.option("--minutes", type=MINUTES, help="Time budget of this run's search.")
@compile_options
def sweep(
    spec_name: str | None,
    problem: str | None,
    target: str | None,
    storage: str | None,
    study: str | None,
    executor: str,
    check: str | None,
    quantize: bool,
    trials: int | None,
    minutes: float | None,
    workers: int | None,
    cache: str | None,
) -> None:
    """Sweep: compile, check, time and record candidates.

    Ctrl-C finishes the trial that is being measured and stops; the same command goes on from there. Without a
    GPU for the target the simulator executes the compiled candidates: their times are modelled, and kept
    apart from measured ones. The best config at each M is written to runs/STUDY/best.json.
    """
    from harness.executor import CheckDepth
    from sweeps.run import run_sweep
    from sweeps.spec import default_spec

    spec_name = spec_name or default_spec()
    spec = _spec(spec_name, problem, target, trials=trials, minutes=minutes)
    if quantize:
        spec = replace(spec, quantize=True, name=f"{spec.name}-quantized")

    place, stopped = run_sweep(
        spec,
        spec_name=spec_name,
        storage=storage,
        study=study,
        executor=executor,
        workers=workers,
        cache=cache,
        check_depth=CheckDepth(check) if check else None,
    )
    _export_if_any(place)
    if stopped:
        raise click.exceptions.Exit(STOPPED)


@main.command(epilog=examples("routertune status", "routertune status --study default-sm_90a"))
@sweep_options
@study_options
def status(**named: Any) -> None:
    """Where a sweep stands: outcomes, the best so far, the tuner's own overhead."""
    from sweeps.progress import summary
    from sweeps.store import open_storage, read_info, read_study, records

    place = _found(**named)
    opened = read_study(open_storage(place.storage), place.study)
    info = read_info(opened)
    click.echo(f"{info.name}: {info.family} for {info.problem['name']} on {info.target}, {info.source}")
    click.echo(f"space: {info.legal_size} legal of {info.space_size} configs")
    click.echo(summary(records(opened), info.objective, info.m_values))
    if (overhead := opened.user_attrs.get("overhead_ms")) is not None:
        click.echo(f"tuner's own time: {overhead} ms per trial")


@main.command(epilog=examples("routertune plot", "routertune plot --spec quick --output plots"))
@sweep_options
@study_options
@click.option("--output", type=click.Path(path_type=Path), help="A folder.  [default: runs/STUDY]")
def plot(output: Path | None, **named: Any) -> None:
    """Pictures: latency against M, the sweep's progress, what each parameter does, outcomes."""
    from results.plots import write_plots

    place = _found(**named)
    for path in write_plots(_loaded(place), output or place.results):
        click.echo(path)


@main.command(epilog=examples("routertune report", "routertune report --spec quick --output report"))
@sweep_options
@study_options
@click.option("--output", type=click.Path(path_type=Path), help="A folder.  [default: runs/STUDY]")
def report(output: Path | None, **named: Any) -> None:
    """A report that a person can read."""
    from results.report import write_report

    place = _found(**named)
    click.echo(write_report(_loaded(place), output or place.results))


@main.command(epilog=examples("routertune export", "routertune export --install --spec small-batch"))
@sweep_options
@study_options
@click.option("--output", type=click.Path(path_type=Path), help="A file.  [default: runs/best/...]")
@click.option("--install", is_flag=True, help="Put it where the public wrapper finds it, too.")
def export(output: Path | None, install: bool, **named: Any) -> None:
    """The best config at each M as JSON, with where it comes from.

    Installed, it replaces a table for the same problem, kernel family, target and source from the smallest to
    the largest M of the sweep; entries for fewer and for more tokens stay.
    """
    from results.export import best_table, write_best
    from sweeps.places import RUNS, best_file, install_best

    table = best_table(_loaded(_found(**named)))
    path = output or RUNS / "best" / best_file(table)
    write_best(table, path)
    click.echo(f"{path}: {len(table.entries)} values of M, {table.source} on {table.device}")
    if install:
        installed = install_best(table)
        kept = ", ".join(str(m) for m in installed.kept)
        beside = f", beside the entries for M = {kept} that were there" if kept else ""
        click.echo(f"installed as {installed.path}{beside}")


@main.command(epilog=examples("routertune pack --spec quick --output quick-pack"))
@sweep_options
@click.option(
    "--study", metavar="NAME", help="The study of what is compiled.  [default: SPEC-TARGET-compiled]"
)
@click.option("--trials", type=click.IntRange(min=1), help="How many configs.")
@compile_options
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A new folder.")
def pack(
    spec_name: str | None,
    problem: str | None,
    target: str | None,
    study: str | None,
    trials: int | None,
    workers: int | None,
    cache: str | None,
    output: Path,
) -> None:
    """Compile a sweep's configs and pack them for a GPU host without network or compiler.

    Carry the folder there, run `python3 PACK/measure.py --out records.jsonl`, and bring the records back.
    """
    from sweeps.transfer import pack_sweep

    spec = _spec(spec_name, problem, target, trials=trials)
    packed = pack_sweep(spec, output, study=study, workers=workers, cache=cache)
    click.echo(f"{packed.folder}: {packed.artifacts} artifacts, {packed.size_bytes / 2**20:.1f} MiB")
    click.echo(f"on the GPU host: python3 {packed.folder.name}/measure.py --out records.jsonl")


@main.command(epilog=examples("routertune measure quick-pack --output records.jsonl"))
@click.argument("pack", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The records to write.")
def measure(pack: Path, output: Path) -> None:
    """Check and time the artifacts of a pack on this host's GPU; goes on where it stopped."""
    from sweeps.transfer import measure_on_gpu

    click.echo(f"{output}: {measure_on_gpu(pack, output)} records")


@main.command(epilog=examples("routertune collect records.jsonl --spec quick"))
@click.argument("records", type=click.Path(path_type=Path))
@sweep_options
@study_options
def collect(records: Path, storage: str | None, study: str | None, **named: Any) -> None:
    """Bring records that `measure` wrote into a study; records that are there already are left alone."""
    from sweeps.transfer import collect_records

    done = collect_records(records, _spec(**named), storage, study)
    storage = without_passwords(done.place.storage)
    click.echo(f"{storage}: {done.added} records added, {done.known} were there already")


@main.command(epilog=examples("routertune space", "routertune space --reasons"))
@click.option("--reasons", is_flag=True, help="Also why the other configs of the family are illegal.")
@sweep_options
def space(reasons: bool, **named: Any) -> None:
    """A sweep's search space: parameters, choices, and how many configs are legal."""
    from kernels.families import family
    from sweeps.refusals import refusals
    from sweeps.space import Space

    spec = _spec(**named)
    found = Space(family(spec.family), spec.problem, spec.target, spec.parameters)
    click.echo(f"{spec.family} for {spec.problem.name} on {spec.target}")
    for name, choices in found.choices.items():
        kept = spec.parameters.get(name, choices)
        click.echo(f"  {name:16} {', '.join(str(choice) for choice in choices if choice in kept)}")
    click.echo(f"{len(found)} legal of {found.size} configs")
    if reasons:
        for refusal in refusals(found.family, spec.problem):
            click.echo(f"{refusal.configs:9} illegal, for example: {refusal.example}")


@main.command(
    "check-config", epilog=examples("routertune check-config --spec default tile_m=64 tile_n=64 stages=4")
)
@click.argument("assignments", metavar="[NAME=VALUE]...", nargs=-1)
@sweep_options
def check_config(assignments: tuple[str, ...], **named: Any) -> None:
    """Whether a config is legal, and why not; what is not said is the family's default."""
    from kernels.families import family
    from sweeps.space import config_params, parse_params

    spec = _spec(**named)
    of = family(spec.family)
    try:
        params = config_params(of.default_config(spec.problem, spec.m_values[0]))
    except ValueError as error:
        raise SpecError(str(error)) from None
    params |= parse_params(of, spec.problem, assignments)
    reason = of.illegal_reason(spec.problem, of.config(params), spec.target)
    click.echo(" ".join(f"{name}={value}" for name, value in params.items()))
    click.echo("legal" if reason is None else f"illegal: {reason}")


@main.command(
    epilog=examples("routertune rejudge --storage old.db --study default-sm_90a --output judged.db")
)
@click.option("--storage", metavar="URL|FILE", required=True, help="The study's storage; it stays as it is.")
@click.option("--study", required=True, help="The study's name.")
@click.option("--output", metavar="URL|FILE", required=True, help="The storage of the judged copy.")
def rejudge(storage: str, study: str, output: str) -> None:
    """Judge a study's measurements by the present rule of what is steady, into a new storage."""
    from sweeps.rejudge import rejudge_study

    click.echo(f"{output}: {rejudge_study(storage, study, output)} records judged otherwise than before")


@main.command(epilog=examples("routertune bench", "routertune bench --trials 500"))
@click.option("--trials", type=click.IntRange(min=1), default=200, show_default=True)
@click.option(
    "--simulator/--no-simulator", default=True, show_default=True, help="Also the simulator's cost."
)
def bench(trials: int, simulator: bool) -> None:
    """The tuner's own overhead per trial, what the simulator takes for one candidate of each target, and what
    the quantization of activations takes on a GPU."""
    from sweeps.bench import overhead_ms
    from sweeps.bench_quantize import quantization_report

    click.echo(f"tuner's own time: {overhead_ms(trials):.1f} ms per trial over {trials} trials")
    click.echo("\n".join(quantization_report()))
    if not simulator:
        return
    from sweeps.bench_simulator import FAMILIES, M, simulator_cost

    for name in FAMILIES:
        cost = simulator_cost(name)
        click.echo(
            f"simulator, {name}, CPU seconds: {cost.launch_s:.2f} for a launch at M = {M}, "
            f"{cost.check_s:.2f} for a brief check, {cost.times_s:.2f} for modelled times at seven M"
        )


main.add_command(simulate)
main.add_command(trace)
main.add_command(verify)
main.add_command(ablate)


if __name__ == "__main__":
    sys.exit(main())

"""`routertune trace`: where a mixture-of-experts layer's output begins to differ."""

from __future__ import annotations

from pathlib import Path

import click

from sweeps.cli_types import known_preset
from sweeps.errors import OUT_OF_BAND, SpecError
from sweeps.limits import MAX_TRACED_TOKENS


@click.command(
    epilog="\b\nExamples:\n"
    "  routertune trace\n"
    "  routertune trace --preset kimi-k2 --layers 4 --output trace\n"
    "  routertune trace --weights model.safetensors --scale-down 1 --device cuda"
)
@click.option(
    "--preset",
    callback=known_preset,
    default="deepseek-v4-pro",
    show_default=True,
    help="Whose router and sizes.",
)
@click.option(
    "--scale-down",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Divides hidden size and experts.",
)
@click.option("--layers", type=click.IntRange(min=1), default=2, show_default=True, help="In a row.")
@click.option(
    "--tokens", type=click.IntRange(1, MAX_TRACED_TOKENS), default=32, show_default=True, help="Of the input."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of what is generated."
)
@click.option("--weights", type=click.Path(path_type=Path), help="A safetensors file.  [default: generated]")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--output", type=click.Path(path_type=Path), help="A folder for trace.json and trace.png.")
def trace(
    preset: str,
    scale_down: int,
    layers: int,
    tokens: int,
    seed: int,
    weights: Path | None,
    device: str,
    output: Path | None,
) -> None:
    """Trace decoder layers step by step against exact NVFP4 and bf16; name the first step out of its band.

    A file holds layer i's tensors as layers.<i>.<name> with these names, H the hidden size, and may hold the
    tokens as `input` [M, H]:

    \b
      attention_norm, ffn_norm                          [H]
      attention.{q,k,v,o}.weight                        [outputs, inputs]
      router.weight                                     [experts, H]
      selection_bias                                    [experts], where the router has one
      experts.<e>.{gate,up,down}.weight, shared.{gate,up,down}.weight

    The exit status is 9 when a step is out of its band.
    """
    from harness.trace_record import Finding, trace_to_json
    from kernels.dispatch_table import write_atomically
    from kernels.moe_shape import layer_shape
    from kernels.problem import preset as find_preset
    from results.plot_trace import draw_trace
    from results.style import save
    from results.trace_text import trace_text
    from sweeps.tracing import run_trace

    try:
        shape = layer_shape(find_preset(preset), scale_down)
    except ValueError as error:
        raise SpecError(f"--scale-down: {error}") from None
    options = {"scale_down": scale_down, "layers": layers, "tokens": tokens, "seed": seed}
    record = run_trace(shape, layers, tokens, seed, weights, device, options)
    click.echo(trace_text(record))
    if output is not None:
        write_atomically(output / "trace.json", trace_to_json(record))
        save(draw_trace(record), output / "trace.png")
        click.echo(f"{output / 'trace.json'}\n{output / 'trace.png'}")
    if record.verdict.finding is not Finding.IN_BAND:
        raise click.exceptions.Exit(OUT_OF_BAND)

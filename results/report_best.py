"""The report's first table: the best config at each M, beside the floor and the two-kernel path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.record import ConfigKey, config_key
from results.choose import Choice
from results.frames import trials_frame
from results.markdown import bullets, images, number, table
from results.stats import Verdict, median_interval
from results.study import Study, timed_group
from results.style import is_modelled

HEADER = (
    "M", "config", "cold µs", "warm µs", "95 % interval", "floor µs", "floor / time", "M tokens/s", "TFLOP/s",
    "GB/s", "two kernels µs", "two kernels / fused", "verdict",
)  # fmt: skip
VERDICT_WORDS = {
    Verdict.FASTER: "fused is faster",
    Verdict.SLOWER: "**two kernels are faster**",
    Verdict.TIE: "tie",
}
MODELLED_HEADER = tuple(f"modelled {name}" if name.endswith(" µs") else name for name in HEADER)
MEASURED_TIMES = (
    "Median times per launch, the quantization of activations {quantization}; rates and shares are of the "
    "{objective} time, and the interval is that of its median. The floor is what the device's own copy and "
    "matrix rates, measured in the same run, allow."
)
MODELLED_TIMES = (
    "Modelled times per launch, the quantization of activations {quantization}: one number each, without "
    "samples or noise, so the interval has no width; rates and shares are of the {objective} time. The floor "
    "is what the bandwidth and matrix rate in the simulator's table of the target allow."
)
TIE_RULE = "there the fixed rule chose (fewer registers, less shared memory, then by the config)"


def best(study: Study, choices: Sequence[Choice], plots_in: Path) -> str:
    """The winners' times, how they were chosen, and their configs side by side."""
    if not choices:
        return ""
    names: dict[ConfigKey, str] = {}
    for choice in choices:
        names.setdefault(config_key(choice.best.record), f"C{len(names) + 1}")
    modelled, group = is_modelled(study), timed_group(study.records)
    return "\n\n".join(
        [
            f"## The best config at each M{', modelled' * modelled}",
            (MODELLED_TIMES if modelled else MEASURED_TIMES).format(
                objective=study.info.objective,
                quantization="included" if group and group.quantized else "not included",
            ),
            table(
                MODELLED_HEADER if modelled else HEADER,
                [_row(choice, names[config_key(choice.best.record)]) for choice in choices],
            ),
            _how_chosen(choices),
            *images(plots_in, "latency"),
            "The configs:",
            _config_table(choices, names),
        ]
    )


def _row(choice: Choice, name: str) -> tuple[object, ...]:
    low, high = median_interval(choice.best.time(choice.objective).samples_us)
    at = choice.best.record.at(choice.m)
    return (
        choice.m,
        name,
        number(choice.best.cold.median_us),
        number(choice.best.warm.median_us),
        f"{number(low)} to {number(high)}",
        number(choice.best.floor_us),
        f"{choice.floor_share:.0%}",
        number(choice.m / choice.best_us),
        number(at.flops / choice.best_us * 1e-6) if at else "",
        number(at.bytes_moved / choice.best_us * 1e-3) if at else "",
        number(choice.baseline_us) if choice.baseline_us else "not measured",
        f"{choice.speedup:.2f}×" if choice.speedup else "",
        VERDICT_WORDS[choice.verdict] if choice.verdict else "",
    )


def _how_chosen(choices: Sequence[Choice]) -> str:
    items = []
    if confirmed := [f"{choice.m} ({choice.best.rounds} rounds)" for choice in choices if choice.confirmed]:
        items.append(
            f"The finalists were measured again, interleaved, and that decided at M = {', '.join(confirmed)}."
        )
    if tied := [f"{choice.m} ({len(choice.tied)} more)" for choice in choices if choice.tied]:
        items.append(
            f"Several configs are equally fast within the noise at M = {', '.join(tied)}: {TIE_RULE}."
        )
    return bullets(items)


def _config_table(choices: Sequence[Choice], names: dict[ConfigKey, str]) -> str:
    """Parameters down, the chosen configs across."""
    chosen = {names[config_key(choice.best.record)]: choice.best.record for choice in choices}
    parameters = dict.fromkeys(name for record in chosen.values() for name in record.config)
    rows: list[tuple[object, ...]] = [
        (f"`{name}`", *(f"{record.config.get(name, '')}".lower() for record in chosen.values()))
        for name in parameters
    ]
    used = trials_frame(list(chosen.values()))
    rows += [
        ("registers per thread", *(number(value) for value in used["registers"])),
        ("spilled bytes per thread", *(number(value) for value in used["spill_bytes"])),
    ]
    return table(("parameter", *chosen), rows)

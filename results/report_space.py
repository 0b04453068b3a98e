"""The report's account of the space: what became of every trial, why some failed, what the parameters do."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from harness.record import Outcome, config_key
from results.frames import outcomes, slowdowns, trials_frame
from results.markdown import images, number, table
from results.stats import spearman
from results.study import CONFIG_PREFIX, Study, short_reason


def accounting(study: Study, plots_in: Path) -> str:
    """How many trials ended how; the counts sum to the trials."""
    rows: list[tuple[object, ...]] = [
        (f"`{row.outcome}`", row.trials, f"{row.share:.0%}")
        for row in outcomes(study.candidates).itertuples()
    ]
    rows.append(("**all candidates**", len(study.candidates), ""))
    info = study.info
    lines = [
        "## Every trial accounted for",
        table(("outcome", "trials", "share"), rows),
        f"Recorded beside the {len(study.candidates)} candidates: {len(study.baselines)} of the two-kernel "
        f"path and {len(study.confirmations)} confirmations; {len(study.records)} records in all. Proposals "
        f"without a record, in flight or given up before they were measured: {study.without_record}.",
    ]
    if info.legal_size:
        distinct = len({config_key(record) for record in study.candidates})
        lines.append(
            f"The space has {info.space_size} configs, {info.legal_size} of them legal; {distinct} distinct "
            f"ones were tried ({distinct / info.legal_size:.0%} of the legal)."
        )
    return "\n\n".join([*lines, *images(plots_in, "progress", "outcomes")])


def failures(study: Study) -> str:
    """Every record that is not ok, grouped by outcome and reason."""
    grouped: dict[tuple[Outcome, str], list[int]] = {}
    for trial, record in enumerate(study.records):
        if record.outcome not in (Outcome.OK, Outcome.COMPILED):
            grouped.setdefault((record.outcome, short_reason(record)), []).append(trial)
    if not grouped:
        return ""
    rows = [
        (
            f"`{outcome}`",
            len(trials),
            study.records[trials[0]].reason or "no reason recorded",
            f"#{trials[0]}",
        )
        for (outcome, _), trials in sorted(grouped.items(), key=lambda item: -len(item[1]))
    ]
    return "\n\n".join(
        [
            "## Failures by reason",
            "Reasons that differ only in numbers are one row, with the first of them as the example; # "
            "counts the study's records from 0.",
            table(("outcome", "trials", "reason", "first"), rows),
        ]
    )


class Effect(NamedTuple):
    """What the choices of one parameter do to the slowdown."""

    name: str
    cost: float  # best slowdown with the worst choice / with the best choice
    choices: pd.DataFrame  # indexed by the choice: size, median, min


def _effects(study: Study) -> list[Effect]:
    """Every parameter of which several choices were timed, the costliest first."""
    losses = slowdowns(study)
    found = []
    for column in map(str, losses.filter(like=CONFIG_PREFIX)):
        choices = losses.groupby(column)["slowdown"].agg(["size", "median", "min"])
        if len(choices) > 1:
            cost = float(choices["min"].max() / choices["min"].min())
            found.append(Effect(column.removeprefix(CONFIG_PREFIX), cost, choices))
    return sorted(found, key=lambda effect: -effect.cost)


def parameters(study: Study, plots_in: Path) -> str:
    """The slowdown with each choice of each parameter."""
    effects = _effects(study)
    if not effects:
        return ""
    rows = [
        (f"`{effect.name}`", str(choice).lower(), size, f"{median:.2f}×", f"{best:.2f}×")
        for effect in effects
        for choice, size, median, best in effect.choices.itertuples()
    ]
    worst = effects[0]
    lines = [
        "## What the parameters do",
        f"{study.info.objective.capitalize()} time relative to the best config at each M, geometric mean "
        f"over M. The parameter whose wrong choice costs most is `{worst.name}`: the best config with its "
        f"worst choice takes {worst.cost:.2f}× the time of the best with its best.",
        table(("parameter", "choice", "configs", "median", "best"), rows),
        "This is what the sweep saw, not an experiment: the sampler tries promising configs more often, and "
        "a choice is seen together with the others of its configs.",
        _rank_line(study),
        *images(plots_in, "parameters", "parameters-m*"),
    ]
    return "\n\n".join(line for line in lines if line)


def _rank_line(study: Study) -> str:
    """How far the ranking of configs at the smallest M says anything about the largest."""
    m_values = study.info.m_values
    if len(m_values) < 2:
        return ""
    small, large = (slowdowns(study, m)["slowdown"] for m in (m_values[0], m_values[-1]))
    both = small.index.intersection(large.index)
    rho = spearman([float(small[trial]) for trial in both], [float(large[trial]) for trial in both])
    if rho is None:
        return ""
    return (
        f"The ranks of the configs at M = {m_values[0]} and at M = {m_values[-1]} correlate with Spearman's "
        f"rho = {rho:.2f} (1: one config is best for both; 0: each says nothing about the other)."
    )


def resources(study: Study, plots_in: Path) -> str:
    """What the compiled configs use."""
    used = trials_frame(study.candidates)
    if not len(used) or used["registers"].isna().all():
        return ""
    used = used.dropna(subset=["registers"])
    columns = [
        ("registers per thread", used["registers"]),
        ("spilled bytes per thread", used["spill_bytes"]),
        ("shared memory per block, KiB", used["smem_bytes"] / 1024),
        ("seconds to compile", used["compile_s"]),
    ]
    if used["tmem_columns"].any():
        columns.insert(3, ("columns of tensor memory per block", used["tmem_columns"]))
    rows = [
        (label, *(number(float(value)) for value in (values.min(), values.median(), values.max())))
        for label, values in columns
    ]
    spilling = int((used["spill_bytes"] > 0).sum())
    return "\n\n".join(
        [
            "## Resources",
            f"Of {len(used)} compiled configs, {spilling} spill registers.",
            table(("", "least", "median", "most"), rows),
            *images(plots_in, "resources"),
        ]
    )

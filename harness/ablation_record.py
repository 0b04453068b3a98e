"""What each tunable buys: the schema of an ablation, and its figures.

A config is modelled once, at several M, whichever search proposed it. A variant forbids some choices; its
best time is the best of every config tried, by any search, that it allows: forbidding more can never look
faster.

It crosses a file boundary, from `sweeps.ablation` to `results.plot_ablation`, as JSON lines: one for each
config tried, and another, which replaces it, once it has been checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from harness.json_lines import read_lines
from harness.record import Outcome, Provenance
from kernels.family import ParamValue

SCHEMA = "routertune.ablation/1"
FUSED, TWO_KERNELS = "fused_sm100", "two_kernel_sm100"
ALL = "all allowed"
# What each variant leaves of the parameters that it restricts.
VARIANTS: Mapping[str, Mapping[str, tuple[ParamValue, ...]]] = {
    ALL: {},
    "no expert_split": {"expert_split": (1,)},
    "no split_k": {"split_k": (1,)},
    "no grid_split": {"grid_split": (1,)},
    "no swap_operands": {"swap_operands": (False,)},
    "none of the four": {
        "expert_split": (1,),
        "split_k": (1,),
        "grid_split": (1,),
        "swap_operands": (False,),
    },
}
TWO_KERNEL_PATH = "two kernels"
DESIGN = "design"  # the search that is a factorial design, at this tile
SMALLEST_TILE: Mapping[str, tuple[ParamValue, ...]] = {
    "mma_n": (64,),
    "cta_group": (1,),
    "cluster_m": (1,),
    "multicast_a": (False,),
    "acc_stages": (1,),
    "early_release": (False,),
}


@dataclass(frozen=True)
class Tried:
    """One config of one family.

    Attributes:
        search: the variant whose search proposed it first; `number` counts that search's proposals.
        us: modelled microseconds by M, inputs cold; empty unless `outcome` is ok.
        checked: the simulator has executed and checked it at the brief depth; `outcome` says the result.
    """

    family: str
    target: str
    problem: str
    search: str
    number: int
    config: dict[str, ParamValue]
    provenance: Provenance
    us: dict[int, float] = field(default_factory=dict)
    outcome: Outcome = Outcome.OK
    reason: str = ""
    checked: bool = False
    source: str = "modelled"
    schema: str = SCHEMA


def read_tried(path: Path) -> list[Tried]:
    """Every config in `path`, as its last line has it; raises `RecordError` for anything else.

    A last line that was being written is left out.
    """
    found = {key(one.family, one.config): one for one in read_lines(path, Tried, [SCHEMA])}
    return list(found.values())


def key(family: str, config: Mapping[str, ParamValue]) -> bytes:
    """What identifies a config among the tried ones."""
    return msgspec.json.encode([family, dict(config)], order="deterministic")


def within(config: Mapping[str, ParamValue], choices: Mapping[str, tuple[ParamValue, ...]]) -> bool:
    """Whether a config has one of these choices of each parameter that they name."""
    return all(config[name] in values for name, values in choices.items())


def allowed(config: Mapping[str, ParamValue], variant: str) -> bool:
    """Whether a variant allows a config."""
    return within(config, VARIANTS[variant])


def best(tried: Iterable[Tried], variant: str, m: int) -> Tried | None:
    """The fastest config of a variant at `m` tokens that is not known to be wrong."""
    two = variant == TWO_KERNEL_PATH
    fit = [
        one
        for one in tried
        if one.outcome is Outcome.OK
        and m in one.us
        and one.family == (TWO_KERNELS if two else FUSED)
        and (two or allowed(one.config, variant))
    ]
    return min(fit, key=lambda one: one.us[m], default=None)


def released(tried: Sequence[Tried], m: int) -> list[tuple[Tried, Tried]]:
    """Pairs of configs that differ in early_release only, without and with it, both modelled at `m`."""
    of = {key(one.family, one.config): one for one in tried if one.outcome is Outcome.OK and m in one.us}
    pairs = []
    for one in of.values():
        partner = of.get(key(one.family, {**one.config, "early_release": True}))
        if one.family == FUSED and partner is not None and not one.config["early_release"]:
            pairs.append((one, partner))
    return sorted(pairs, key=lambda pair: min(side.us[m] for side in pair))

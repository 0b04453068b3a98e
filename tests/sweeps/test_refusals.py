"""Why configs are illegal, counted: the same as asking for each one."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from kernels.families import family
from kernels.family import ParamValue, Rule
from kernels.problem import RouterProblem, preset
from kernels.sm90.families import FusedSm90
from sweeps.refusals import _NUMBER, refusals
from sweeps.space import Space

TARGETS = {"fused_sm90": "sm_90a", "fused_sm100": "sm_100a", "two_kernel_sm100": "sm_100a"}


@dataclass(frozen=True)
class Config:
    rows: int = 1
    columns: int = 1
    wide: bool = False


class Family(FusedSm90):
    """Two rules that both refuse some configs, and one that refuses for two reasons."""

    name = "counted"
    config_type = Config

    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        return {"rows": (1, 2, 3, 4), "columns": (1, 2, 3), "wide": (False, True)}

    def rules(self) -> tuple[Rule, ...]:
        return (
            Rule(
                ("rows", "columns"),
                lambda _, c: f"{c.rows * c.columns} cells" if c.rows * c.columns > 6 else None,
            ),
            Rule(("wide",), lambda _, c: None),
            Rule(
                ("columns", "wide"),
                lambda _, c: (
                    ("one column" if c.columns == 1 else "two columns") if c.wide and c.columns < 3 else None
                ),
            ),
        )


def by_hand(kernels: Family, problem: RouterProblem) -> Counter[str]:
    choices = kernels.space(problem)
    reasons = (
        kernels.illegal_reason(problem, kernels.config_type(*values), "sm_90a")
        for values in itertools.product(*choices.values())
    )
    return Counter(_NUMBER.sub("N", reason) for reason in reasons if reason is not None)


def test_counts_are_those_of_asking_every_config() -> None:
    problem = preset("deepseek-v4-pro")
    found = refusals(Family(), problem)
    assert {one.reason: one.configs for one in found} == by_hand(Family(), problem)
    assert [one.configs for one in found] == sorted((one.configs for one in found), reverse=True)
    assert {one.example for one in found if "cells" in one.reason} <= {"8 cells", "9 cells", "12 cells"}


@pytest.mark.parametrize("name", TARGETS)
def test_legal_and_refused_configs_are_all(name: str) -> None:
    kernels, problem = family(name), preset("deepseek-v4-pro")
    space = Space(kernels, problem, TARGETS[name])
    found = refusals(kernels, problem)
    assert len(space) + sum(one.configs for one in found) == space.size
    # And of a sample, each illegal one is illegal for one of these reasons.
    reasons = {one.reason for one in found}
    rng = np.random.default_rng(0)
    for _ in range(300):
        params = {parameter: values[rng.integers(len(values))] for parameter, values in space.choices.items()}
        reason = kernels.illegal_reason(problem, kernels.config(params), TARGETS[name])
        assert reason is None or _NUMBER.sub("N", reason) in reasons

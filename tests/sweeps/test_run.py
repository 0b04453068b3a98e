"""What is measured beside the candidates, and what is said where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kernels.families import family
from kernels.family import ParamValue
from kernels.problem import PRESETS, RouterProblem
from sweeps.run import baseline_configs, known_configs
from sweeps.spec import BaselineSpec, SweepSpec


def spec(config: dict[str, ParamValue] | None = None, **changes: Any) -> SweepSpec:
    baseline = BaselineSpec(family="two_kernel_sm90", config=config or {})
    of: dict[str, Any] = {"problem": PRESETS["deepseek-v4-pro"], "family": "fused_sm90"}
    return SweepSpec(**of | {"m_values": (1, 16, 16384), "baseline": baseline} | changes)


def test_a_problem_that_no_default_suits_is_swept_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    odd = spec(problem=RouterProblem("odd", hidden=16, experts=1, top_k=1), family="fused_sm100")
    odd = replace(odd, target="sm_100a", baseline=BaselineSpec(family="two_kernel_sm100"))
    assert baseline_configs(odd) == []
    assert known_configs(family("fused_sm100"), odd) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert "odd: no default config is legal (hidden = 16: " in line


def test_the_defaults_for_all_m_or_the_configured_one(capsys: pytest.CaptureFixture[str]) -> None:
    defaults = baseline_configs(spec())
    assert len(defaults) > 1
    ((kernels, params),) = baseline_configs(spec({"tile_n": 96}))
    assert (kernels.name, params["tile_n"]) == ("two_kernel_sm90", 96)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("config", "target", "reason"),
    [
        ({}, "sm_100a", "target sm_100a: this kernel is for sm_90a"),
        ({"tile_m": 63}, "sm_90a", "tile_m = 63 is not one of "),
    ],
)
def test_a_baseline_that_cannot_be_is_left_out_with_one_line(
    config: dict[str, ParamValue], target: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert baseline_configs(spec(config, target=target)) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"the sweep goes without a baseline of two_kernel_sm90: {reason}")

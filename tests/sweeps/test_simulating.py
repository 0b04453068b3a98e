"""Which config a launch is simulated with, where a person says only a part of it."""

from __future__ import annotations

import pytest

from kernels.best import best_known_config
from kernels.families import family
from sweeps.errors import SpecError
from sweeps.simulating import chosen_params
from sweeps.space import config_params
from sweeps.spec import load_spec


@pytest.mark.filterwarnings("ignore:fused_sm")
@pytest.mark.parametrize("m", [1, 64, 1024, 4096])
@pytest.mark.parametrize("said", [["tile_m=128", "tile_n=64"], ["tile_m=64", "tile_n=64"], ["stages=12"], []])
def test_the_rest_goes_with_what_is_said(m: int, said: list[str]) -> None:
    spec = load_spec("default")
    kernels = family(spec.family)
    params = chosen_params(kernels, spec, said, m)
    assert kernels.illegal_reason(spec.problem, kernels.config(params), spec.target) is None
    assert {f"{name}={value}" for name, value in params.items()} >= set(said)
    known = config_params(best_known_config(kernels, spec.problem, spec.target, m))
    if not said:
        assert params == known
    # Of the dozen parameters, few have to change.
    assert sum(params[name] != value for name, value in known.items()) <= len(said) + 3


@pytest.mark.filterwarnings("ignore:fused_sm")
def test_what_no_legal_config_has_is_refused_with_a_reason() -> None:
    spec = load_spec("default")
    said = ["tile_m=128", "tile_n=384", "stages=12"]
    with pytest.raises(SpecError, match=r"tile_n=384 .*: .*; no legal config has what is asked"):
        chosen_params(family(spec.family), spec, said, 64)

"""What every kernel family refuses alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernels.families import families, family
from kernels.problem import RouterProblem


@pytest.mark.parametrize("name", families())
def test_one_expert_is_no_choice(name: str) -> None:
    kernels = family(name)
    one = RouterProblem("one", hidden=1024, experts=1, top_k=1)
    config = kernels.default_config(replace(one, experts=2), 64)
    reason = "experts = 1: there is nothing to choose from"
    assert kernels.illegal_reason(one, config, kernels.targets[0]) == reason
    with pytest.raises(ValueError, match=rf"one: no default config is legal \({reason}\)"):
        kernels.default_config(one, 64)

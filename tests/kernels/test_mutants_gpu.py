"""The check rejects every defect planted in the compiled kernel, on the GPU that runs it."""

from __future__ import annotations

from typing import Any

import pytest

from harness.check import check_router
from harness.record import CheckResult
from kernels.problem import RouterProblem
from kernels.sm90.config import Sm90Config, workspace_elements
from kernels.sm90.families import FusedSm90
from kernels.sm90.launch import compile_fused
from tests.kernels.mutants import MUTANTS, SHARED, compile_mutant, config_of

pytestmark = [pytest.mark.gpu, pytest.mark.compiles]

PROBLEM = RouterProblem("mutants", hidden=512, experts=128, top_k=6, routed_scale=2.5)
# Two expert tiles and two blocks of 64 rows a thread, so that every planted place exists.
CONFIG = Sm90Config(tile_m=128, tile_n=64, tile_k=64, stages=4, warpgroups=1)


def check(launch: Any, config: Sm90Config, seed: int) -> CheckResult:
    assert FusedSm90().illegal_reason(PROBLEM, config, "sm_90a") is None
    return check_router(
        launch, PROBLEM, lambda m: workspace_elements(PROBLEM, config, m), "cuda", seed, config.tile_m
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["no defect", *SHARED])
def test_the_kernel_itself_passes(name: str, seed: int) -> None:
    config = config_of(name, CONFIG)
    result = check(compile_fused(PROBLEM, config), config, seed)
    assert result.passed, result.first_failure


@pytest.mark.parametrize("name", MUTANTS)
def test_the_check_rejects(name: str) -> None:
    config = config_of(name, CONFIG)
    result = check(compile_mutant(name, PROBLEM, config), config, seed=0)
    assert not result.passed, f"{name} passed the check"
    print(f"{name}: {result.first_failure}")

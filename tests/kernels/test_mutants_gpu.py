"""The check rejects every defect planted in the compiled kernel, on the GPU that runs it."""

from __future__ import annotations

import pytest

from harness.check import check_router
from kernels.problem import RouterProblem
from kernels.sm90.config import Sm90Config, workspace_elements
from kernels.sm90.launch import compile_fused
from tests.kernels.mutants import MUTANTS, compile_mutant

pytestmark = [pytest.mark.gpu, pytest.mark.compiles]

PROBLEM = RouterProblem("mutants", hidden=512, experts=128, top_k=6, routed_scale=2.5)
# Two expert tiles and two blocks of 64 rows a thread, so that every planted place exists.
CONFIG = Sm90Config(tile_m=128, tile_n=64, tile_k=64, stages=4, warpgroups=1)


def workspace(m: int) -> int:
    return workspace_elements(PROBLEM, CONFIG, m)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kernel_itself_passes(seed: int) -> None:
    result = check_router(compile_fused(PROBLEM, CONFIG), PROBLEM, workspace, "cuda", seed, CONFIG.tile_m)
    assert result.passed, result.first_failure


@pytest.mark.parametrize("name", MUTANTS)
def test_the_check_rejects(name: str) -> None:
    launch = compile_mutant(name, PROBLEM, CONFIG)
    result = check_router(launch, PROBLEM, workspace, "cuda", 0, CONFIG.tile_m)
    assert not result.passed, f"{name} passed the check"
    print(f"{name}: {result.first_failure}")

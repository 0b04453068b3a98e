"""The check rejects every defect planted in the compiled Hopper kernel, on a GPU or in the simulator."""

from __future__ import annotations

import re

import pytest

from harness.compile_pool import CompilePool
from kernels.problem import RouterProblem
from kernels.sm90.config import Sm90Config
from tests.kernels.executors import Kernels
from tests.kernels.mutants import MUTANTS, SHARED, config_of
from tests.kernels.planted import NO_DEFECT, PlantedSm90, PlantedSm90Config

pytestmark = pytest.mark.compiles

FAMILY = PlantedSm90()
PROBLEM = RouterProblem("mutants", hidden=512, experts=128, top_k=6, routed_scale=2.5)
# Two expert tiles and two blocks of 64 rows a thread, so that every planted place exists.
CONFIG = Sm90Config(tile_m=128, tile_n=64, tile_k=64, stages=4, warpgroups=1)


def planted(name: str, like: str) -> PlantedSm90Config:
    """The defect `name`, or NO_DEFECT, in the config that the defect `like` needs."""
    return FAMILY.planted(config_of(like, CONFIG), name)


@pytest.fixture(scope="module")
def kernels(compile_pool: CompilePool, request: pytest.FixtureRequest) -> Kernels:
    kernels = Kernels("sm_90a", compile_pool)
    for item in request.session.items:
        if item.path == request.path and isinstance(item, pytest.Function):
            name = item.callspec.params["name"]
            kernels.prepare(
                FAMILY, PROBLEM, planted(NO_DEFECT if "seed" in item.callspec.params else name, name)
            )
    return kernels


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", [NO_DEFECT, *SHARED])
def test_the_kernel_itself_passes(name: str, seed: int, kernels: Kernels) -> None:
    if seed and not kernels.on_gpu:
        pytest.skip("one seed in the simulator, which takes 6 s for it")
    assert FAMILY.illegal_reason(PROBLEM, planted(NO_DEFECT, name), "sm_90a") is None
    assert not kernels.fault(FAMILY, PROBLEM, planted(NO_DEFECT, name), seed)


@pytest.mark.parametrize("name", MUTANTS)
def test_the_check_rejects(name: str, kernels: Kernels) -> None:
    config = planted(name, name)
    # Plain data betrays most of them.
    fault = kernels.fault(FAMILY, PROBLEM, config, 0, ("normal",)) or kernels.fault(
        FAMILY, PROBLEM, config, 0
    )
    # A deadlock or another error of a patch gone wrong is not the defect found.
    outside = name == "row_past_the_end" and not kernels.on_gpu
    found = r"simulator: .*: outside every tensor" if outside else "check: "
    assert re.match(found, fault), fault or f"{name} passed the check"
    print(f"{name}: {fault}")

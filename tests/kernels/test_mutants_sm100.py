"""The check or the simulator's strictness catches every defect planted in the compiled Blackwell kernel.

`DEFECTS` says which of them catches what, and with which words.
"""

from __future__ import annotations

import re

import pytest

from harness.compile_pool import CompilePool
from tests.kernels.executors import Kernels
from tests.kernels.mutants_sm100 import CONFIG, DEFECTS, PROBLEM
from tests.kernels.planted import NO_DEFECT, PlantedSm100

pytestmark = pytest.mark.compiles

FAMILY = PlantedSm100()


@pytest.fixture(scope="module")
def kernels(compile_pool: CompilePool, request: pytest.FixtureRequest) -> Kernels:
    kernels = Kernels("sm_100a", compile_pool)
    kernels.prepare(FAMILY, PROBLEM, FAMILY.planted(CONFIG, NO_DEFECT))
    for item in request.session.items:
        if item.path == request.path and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            name = item.callspec.params["name"]
            kernels.prepare(FAMILY, DEFECTS[name].problem, FAMILY.planted(DEFECTS[name].config, name))
    return kernels


def test_the_kernel_itself_passes(kernels: Kernels) -> None:
    only = ("normal", "nvfp4_every_expert", "ties")  # test_router_simulated runs more
    assert not kernels.fault(FAMILY, PROBLEM, FAMILY.planted(CONFIG, NO_DEFECT), seed=0, only=only)


@pytest.mark.parametrize("name", DEFECTS)
def test_it_is_caught(name: str, kernels: Kernels) -> None:
    defect = DEFECTS[name]
    config = FAMILY.planted(defect.config, name)
    assert FAMILY.illegal_reason(defect.problem, config, "sm_100a") is None
    fault = kernels.fault(FAMILY, defect.problem, config, seed=0, only=defect.only)
    assert re.search(defect.caught, fault), fault or f"{name} passed the check"

"""Every tiny kernel of one feature computes in the simulator what it must, as it does on an H100."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.simulator.run import Program
from tests.harness.simulator.routers import ROUTERS, Operands
from tests.harness.simulator.tiny_kernels import TINY_KERNELS

CASES = [(target, kernel) for kernel in TINY_KERNELS.values() for target in kernel.targets]


@pytest.mark.compiles
@pytest.mark.parametrize(("target", "name"), [(target, kernel.name) for target, kernel in CASES])
def test_tiny_kernels(compiled: dict[str, Path], target: str, name: str) -> None:
    kernel = TINY_KERNELS[name]
    program = Program.of_folder(compiled[target] / name)
    for seed in (0, 1):
        x, y = kernel.make(seed)
        expected = kernel.reference(x.clone(), y.clone())
        program(x, y)
        assert kernel.mismatch(y, expected) == ""


@pytest.mark.compiles
@pytest.mark.parametrize("tokens", [1, 64, 130])
@pytest.mark.parametrize("name", ROUTERS)
def test_routers(compiled: dict[str, Path], name: str, tokens: int) -> None:
    operands = Operands(name, tokens)
    operands.launch(Program.of_folder(compiled["sm_90a"] / name))
    assert operands.mismatch() == ""

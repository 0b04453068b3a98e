"""A machine ends with its last use: its memories wait for no collection of cycles."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.simulator.machine import Machine
from harness.simulator.model import Model
from harness.simulator.run import Program
from tests.harness.simulator.gemm_params import GEMMS
from tests.harness.simulator.gemm_reference import make_operands
from tests.harness.simulator.routers import ROUTERS, Operands
from tests.harness.simulator.tiny_kernels import HOPPER

pytestmark = pytest.mark.compiles


@pytest.fixture
def no_machine_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No machine that a test makes is left to a collection.

    They are seen by weak references: `gc.get_objects` would take hold of tuples that other threads, such as
    the compile pool's, are still filling, and break those.
    """
    made: list[weakref.ref[Machine]] = []
    run = Machine.run

    def noted(machine: Machine) -> object:
        made.append(weakref.ref(machine))
        return run(machine)

    monkeypatch.setattr(Machine, "run", noted)
    gc.disable()
    try:
        yield
        assert made
        assert [one for one in made if one() is not None] == []
    finally:
        gc.enable()


@pytest.mark.usefixtures("no_machine_left")
@pytest.mark.parametrize("races", [False, True])
@pytest.mark.parametrize("name", ROUTERS)
def test_of_a_router(compiled: dict[str, Path], name: str, races: bool) -> None:
    program = replace(Program.of_folder(compiled[HOPPER] / name), races=races)
    Operands(name, tokens=130).launch(program)


@pytest.mark.usefixtures("no_machine_left")
def test_of_a_model(compiled: dict[str, Path]) -> None:
    program = Program.of_folder(compiled[HOPPER] / "router_cluster")
    assert Model(program).microseconds(Operands("router_cluster", tokens=130).arguments()) > 0


@pytest.mark.usefixtures("no_machine_left")
@pytest.mark.parametrize("name", list(GEMMS)[::8])
def test_of_a_blackwell_gemm(blackwell_gemms: Path, name: str) -> None:
    params = GEMMS[name]
    m, n, k = 160, params.mma_n, 2 * params.stage_k
    operands = make_operands(params, m, n, k, seed=0)
    program = Program.of_folder(blackwell_gemms / name)
    program(*operands, torch.empty(m, n))

"""The model of a launch: whole where the grid is small, in waves where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.simulator.grids import Grids
from harness.simulator.machine import Machine
from harness.simulator.memory_path import Wave
from harness.simulator.model import Model, launch_cycles, representative, resident_clusters
from harness.simulator.run import Program, memory_of
from harness.simulator.target import target_named
from harness.simulator.timing import Units
from tests.harness.simulator.routers import ROUTERS, Operands
from tests.harness.simulator.tiny_kernels import HOPPER

pytestmark = pytest.mark.compiles


@pytest.fixture(params=ROUTERS)
def named(request: pytest.FixtureRequest, compiled: dict[str, Path]) -> tuple[str, Program]:
    """A router's name and its program."""
    return request.param, Program.of_folder(compiled[HOPPER] / request.param)


@pytest.mark.parametrize("m", [1, 64, 130])
def test_a_small_grid_takes_as_long_as_the_full_run(named: tuple[str, Program], m: int) -> None:
    """The same clusters with the arithmetic of copies and tensor cores: only the times may be equal."""
    name, program = named
    args = Operands(name, m).arguments()
    (launch,) = program.recorder.record(args)
    kernel = program.kernels[launch.kernel]
    target = target_named("sm_90a")
    clusters = launch.ctas // launch.cluster_size
    shared = ((args[1].data_ptr(), args[1].data_ptr() + args[1].numel() * 2),)
    columns = launch.grid[0] // launch.cluster[0]
    units = Units(target, Wave(clusters, clusters, shared=shared, columns=columns))
    grids = Grids.of_launch(kernel, launch, memory_of(args))
    full = Machine(kernel, grids, np.arange(clusters), units).run().max()
    modelled = Model(program).microseconds(args) * target.clock_mhz - launch_cycles(target, launch.ctas)
    assert modelled == pytest.approx(full, rel=0.02)


def test_more_tokens_than_the_chip_holds_come_in_waves(named: tuple[str, Program]) -> None:
    name, program = named
    few, many = (Model(program).microseconds(Operands(name, m).arguments()) for m in (64 * 132, 64 * 132 * 4))
    assert 2.0 < many / few < 4.5


def test_whole_columns_are_simulated(named: tuple[str, Program]) -> None:
    name, program = named
    (launch,) = program.recorder.record(Operands(name, 1000).arguments())
    chosen = representative(launch, launch.ctas // launch.cluster_size)
    columns = launch.grid[0] // launch.cluster[0]
    rows = len(chosen) // len(np.unique(chosen % columns))
    assert rows * columns * launch.cluster_size == launch.ctas
    kernel = program.kernels[launch.kernel]
    assert resident_clusters(kernel, launch, target_named("sm_90a"), 255) <= 132


def test_warm_inputs_are_not_slower(named: tuple[str, Program]) -> None:
    name, program = named
    model, args = Model(program), Operands(name, 64).arguments()
    assert model.microseconds(args, warm=True) <= model.microseconds(args)

"""How warps are grouped is no part of a kernel's meaning: together or apart, memory ends up the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from harness.simulator.cohort import some_lane
from harness.simulator.grids import Grids
from harness.simulator.machine import Machine
from harness.simulator.run import Program, memory_of
from harness.simulator.timing import Units
from tests.harness.simulator.routers import ROUTERS, Operands
from tests.harness.simulator.tiny_kernels import TINY_KERNELS

pytestmark = pytest.mark.compiles
WARPGROUP = 4
TINY = ("divergence", "named_barriers", "atomics", "shuffles", "math_exact", "distributed_shared_memory_4")


def run_apart(program: Program, arguments: Sequence[Tensor], apart: int | None) -> None:
    """One launch with at most `apart` warps in a cohort."""
    memory = memory_of(arguments)
    for launch in program.recorder.record(arguments):
        kernel = program.kernels[launch.kernel]
        clusters = np.arange(launch.ctas // launch.cluster_size)
        grids = Grids.of_launch(kernel, launch, memory)
        Machine(kernel, grids, clusters, Units(kernel.target), apart=apart).run()


@pytest.mark.parametrize("apart", [1, 3])
@pytest.mark.parametrize("name", TINY)
def test_tiny_kernels(compiled: dict[str, Path], name: str, apart: int) -> None:
    kernel = TINY_KERNELS[name]
    x, y = kernel.make(3)
    expected = kernel.reference(x.clone(), y.clone())
    run_apart(Program.of_folder(compiled["sm_90a"] / name), [x, y], apart)
    assert kernel.mismatch(y, expected) == ""


@pytest.mark.parametrize("name", ROUTERS)
def test_routers(compiled: dict[str, Path], name: str) -> None:
    """The warps of a warpgroup multiply together, so four of them is the least."""
    program = Program.of_folder(compiled["sm_90a"] / name)
    together, alone = Operands(name, 130), Operands(name, 130)
    together.launch(program)
    run_apart(program, alone.arguments(), WARPGROUP)
    for one, other in zip(together.arguments(), alone.arguments(), strict=True):
        assert (
            one.numpy(force=True).tobytes() == other.numpy(force=True).tobytes()
            if one.dtype.itemsize == 4
            else True
        )
    assert alone.mismatch() == ""


def test_some_lane_of_each_warp() -> None:
    masks = np.random.default_rng(0).random((99, 32)) < 0.03
    for mask in (masks, masks.T[:32, :].T, np.broadcast_to(masks[:1], masks.shape), np.zeros((0, 32), bool)):
        assert np.array_equal(some_lane(mask), mask.any(1))

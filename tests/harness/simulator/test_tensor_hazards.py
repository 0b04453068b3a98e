"""The shadow of tensor memory: which accesses meet, where accumulators share columns."""

from __future__ import annotations

import numpy as np
import pytest

from harness.simulator.errors import SimulationError
from harness.simulator.ordering import Ordering
from harness.simulator.ptx import Instruction
from harness.simulator.tensor_hazards import TensorShadow

WARPS = 5
MULTIPLIER, READER = np.array([4]), np.array([1])
ROW, FIRST = np.array([0]), np.array([0])
COLUMNS = 32
MMA = Instruction(1, ("tcgen05", "mma"), ())
LOAD = Instruction(2, ("tcgen05", "ld"), ())


def read_beside_a_product(written: int, read: int | None) -> None:
    """A product into one half of all quarters, and another warp's load from a half of its own, or both."""
    shadow = TensorShadow(Ordering(WARPS, WARPS), 1, WARPS, halves=2)
    shadow.core(
        MMA, "accumulator", shadow.all_lanes(MULTIPLIER, ROW[None], FIRST, COLUMNS, np.array([written]))
    )
    half = None if read is None else np.array([read])
    shadow.load(LOAD, shadow.quarter(READER, ROW, READER, FIRST, COLUMNS, half))


@pytest.mark.parametrize("half", [0, 1])
def test_halves_of_the_same_columns_are_apart(half: int) -> None:
    read_beside_a_product(half, 1 - half)


@pytest.mark.parametrize(("written", "read", "lane"), [(0, 0, 32), (1, 1, 48), (0, None, 32), (1, None, 48)])
def test_the_same_half_is_not(written: int, read: int | None, lane: int) -> None:
    with pytest.raises(SimulationError, match=f"lanes {lane} on, column 0"):
        read_beside_a_product(written, read)

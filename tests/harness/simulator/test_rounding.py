"""Choosing between two operands, lane by lane."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.simulator.rounding import select

SHAPES = [(4, 32), (64, 32), (65, 32)]  # fewer lanes than are worth masking, as many, more


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "f4", "f8", "?"])
@pytest.mark.parametrize(
    "kinds", ["lanes lanes", "lanes scalar", "scalar lanes", "warps lanes", "scalar warps"]
)
def test_every_lane_gets_the_operand_of_its_condition(shape: tuple[int, int], dtype: str, kinds: str) -> None:
    rng = np.random.default_rng(3)

    def operand(kind: str) -> Any:
        drawn = rng.integers(0, 256, shape).astype(dtype)
        return {"lanes": drawn, "warps": drawn[:, :1], "scalar": drawn[0, 0]}[kind]

    yes, no = (operand(kind) for kind in kinds.split())
    condition = rng.random(shape) < 0.5
    chosen = select(condition, yes, no)
    assert chosen.dtype == dtype
    np.testing.assert_array_equal(chosen, np.where(condition, yes, no))


def test_a_scalar_condition_gives_the_operand_itself() -> None:
    yes, no = np.zeros((64, 32), np.uint32), np.uint32(7)
    assert select(np.bool_(True), yes, no) is yes
    assert select(np.bool_(False), yes, no) is no

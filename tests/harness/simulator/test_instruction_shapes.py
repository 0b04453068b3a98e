"""Every instruction gives the same bits whatever shape its operands have, and no larger shape than theirs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from harness.simulator.instruction_set import lookup
from harness.simulator.ops_lanes import ACROSS_LANES
from harness.simulator.registry import registered
from tests.harness.simulator.spellings import SPELLINGS, operand

SHAPES = ((), (3, 1), (3, 32))

PREDICATES = ("setp", "testp", "pred")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_shapes_broadcast_and_stay_small(spelling: str) -> None:
    widths = SPELLINGS[spelling]
    execute, rng = lookup(tuple(spelling.split("."))), np.random.default_rng(17)
    for shapes in itertools.product(SHAPES, repeat=len(widths)):
        operands = [operand(width, shape, rng) for width, shape in zip(widths, shapes, strict=True)]
        got = execute(*operands)
        shape = np.broadcast_shapes(*(x.shape for x in operands))
        assert np.broadcast_shapes(got.shape, shape) == shape
        assert isinstance(got, np.ndarray if got.shape else np.generic)
        assert (got.dtype == bool) == any(name in PREDICATES for name in spelling.split("."))
        assert got.dtype.kind in "ub"
        scalars = zip(*(np.broadcast_to(x, shape).reshape(-1) for x in operands), strict=True)
        want = [execute(*each) for each in scalars]
        assert np.broadcast_to(got, shape).reshape(-1).tolist() == [x.item() for x in want]


def test_every_opcode_within_a_lane_is_among_the_spellings() -> None:
    carries = {"addc", "subc", "madc"}
    scalar_twins = {"mad24", "rsqrt", "sin", "cos", "tanh", "or", "xor"}
    known = {opcode for opcode, _, destinations in registered() if destinations == 1} - ACROSS_LANES
    assert known - carries - scalar_twins == {spelling.split(".")[0] for spelling in SPELLINGS}

"""Transcendental instructions: the float64 function rounded, and the special values of the ISA."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from harness.simulator.instruction_set import lookup
from tests.harness.simulator.exact import NAN, f32_bits

FUNCTIONS: dict[str, tuple[Callable[[float], float], float, float]] = {
    "ex2": (lambda x: 2.0**x, -126, 127),
    "lg2": (math.log2, 1e-30, 1e30),
    "sin": (math.sin, -6.28, 6.28),
    "cos": (math.cos, -6.28, 6.28),
    "tanh": (math.tanh, -8, 8),
    "rsqrt": (lambda x: 1 / math.sqrt(x), 1e-30, 1e30),
    "rcp": (lambda x: 1 / x, 1e-30, 1e30),
    "sqrt": (math.sqrt, 1e-30, 1e30),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_within_an_ulp_of_the_function(name: str) -> None:
    function, low, high = FUNCTIONS[name]
    rng = np.random.default_rng(1)
    x = rng.uniform(low, high, 2000) if low < 0 else np.exp(rng.uniform(math.log(low), math.log(high), 2000))
    x = x.astype(np.float32)
    got = lookup((name, "approx", "f32"))(x.view(np.uint32)).view(np.float32)
    want = np.array([function(float(value)) for value in x])
    assert np.abs(got - want).max() > 0
    np.testing.assert_array_less(np.abs(got - want), np.spacing(np.abs(want).astype(np.float32)) * 0.501)


INFINITY, NEGATIVE = 0x7F800000, 0xFF800000
SPECIAL = {
    "ex2": {
        NEGATIVE: 0,
        INFINITY: INFINITY,
        0x80000001: 0x3F800000,
        f32_bits(-150.0): 0,
        f32_bits(-149.0): 1,
    },
    "lg2": {0: NEGATIVE, 0x80000000: NEGATIVE, INFINITY: INFINITY, f32_bits(-1.0): NAN, 1: f32_bits(-149.0)},
    "rsqrt": {0: INFINITY, 0x80000000: NEGATIVE, INFINITY: 0, NEGATIVE: NAN, f32_bits(-4.0): NAN},
    "rcp": {0: INFINITY, 0x80000000: NEGATIVE, INFINITY: 0, NEGATIVE: 0x80000000},
    "sqrt": {0: 0, 0x80000000: 0x80000000, INFINITY: INFINITY, f32_bits(-4.0): NAN},
    "tanh": {0x80000000: 0x80000000, INFINITY: 0x3F800000, NEGATIVE: 0xBF800000},
    "sin": {0x80000000: 0x80000000, INFINITY: NAN},
    "cos": {0x80000000: 0x3F800000, NEGATIVE: NAN},
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(name: str) -> None:
    execute = lookup((name, "approx", "f32"))
    assert {x: int(execute(np.uint32(x))) for x in SPECIAL[name]} == SPECIAL[name]
    assert execute(np.uint32(0xFFC00001)) == NAN


def test_ftz_flushes_operand_and_result() -> None:
    assert lookup(("ex2", "approx", "ftz", "f32"))(np.uint32(f32_bits(-149.0))) == 0
    assert lookup(("rcp", "approx", "ftz", "f32"))(np.uint32(f32_bits(2.0**127))) == 0
    assert lookup(("rcp", "approx", "ftz", "f32"))(np.uint32(0x80000001)) == NEGATIVE
    assert lookup(("lg2", "approx", "ftz", "f32"))(np.uint32(1)) == NEGATIVE

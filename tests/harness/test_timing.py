"""The arithmetic of measuring, against worked examples and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import timing
from harness.executor import MeasurePlan
from harness.record import Conditions, Rates, Timing
from harness.timing import Attempt
from kernels.family import OperandFormat
from kernels.problem import preset

PROBLEM = preset("deepseek-v4-pro")
H100_L2 = 50 * 2**20
STEADY = Timing((10.0,), 10.0, 0.1)
NOISY = Timing((10.0,), 10.0, 2.0)


def test_bytes_and_flops_of_the_default_problem() -> None:
    # A 16384 x 7168 x 2, B 384 x 7168 x 2, bias 384 x 4, outputs 16384 x 6 x 8 bytes.
    assert timing.bytes_moved(PROBLEM, 16384) == 234_881_024 + 5_505_024 + 1_536 + 786_432
    assert timing.flops(PROBLEM, 16384) == 2 * 16384 * 384 * 7168


def test_nvfp4_moves_nine_sixteenths_of_a_byte_an_element() -> None:
    # (1024 + 384) x 7168 x (1/2 + 1/16), bias 384 x 4.
    assert timing.input_bytes(PROBLEM, 1024, OperandFormat.NVFP4) == 5_677_056 + 1_536


def test_the_floor_is_the_larger_of_both() -> None:
    rates = Rates(copy_bytes_per_s=2.4e12, matrix_flop_per_s=8e14)
    assert timing.floor_us(PROBLEM, 1, rates) == pytest.approx(1e6 * 5_520_944 / 2.4e12)
    assert timing.floor_us(PROBLEM, 16384, rates) == pytest.approx(1e6 * 2 * 16384 * 384 * 7168 / 8e14)


@given(m=st.integers(1, 16384))
def test_cold_sets_exceed_twice_the_l2(m: int) -> None:
    sets = timing.cold_sets(PROBLEM, m, H100_L2)
    assert sets * timing.input_bytes(PROBLEM, m) >= 2 * H100_L2
    assert sets == 1 or (sets - 1) * timing.input_bytes(PROBLEM, m) < 2 * H100_L2


@given(round_us=st.floats(0, 1e6), launches=st.integers(1, 40))
def test_a_replay_is_long_enough_or_as_long_as_allowed(round_us: float, launches: int) -> None:
    rounds = timing.rounds_per_replay(round_us, launches)
    assert rounds >= 1
    assert rounds == 1 or rounds * launches <= timing.MAX_LAUNCHES
    long_enough = rounds * round_us >= timing.REPLAY_US
    assert long_enough or (rounds + 1) * launches > timing.MAX_LAUNCHES


def test_median_and_quartiles() -> None:
    assert timing.summarize([5.0, 1.0, 3.0, 2.0, 4.0]) == Timing((5.0, 1.0, 3.0, 2.0, 4.0), 3.0, 2.0)


def attempts(*sequence: Attempt) -> tuple[Attempt, int, bool]:
    return timing.repeat_until_steady(lambda repeats: sequence[repeats], MeasurePlan(max_repeats=2))


def test_a_steady_measurement_is_not_repeated() -> None:
    good = Attempt(STEADY, STEADY, Conditions())
    assert attempts(good) == (good, 0, True)


def test_a_power_limit_that_hardly_moves_the_clock_is_no_throttling() -> None:
    capped = Attempt(STEADY, STEADY, Conditions(sm_clock_mhz=1965, throttle_reasons=("sw_power_cap",)), 1980)
    assert attempts(capped) == (capped, 0, True)


@pytest.mark.parametrize(
    "bad",
    [
        Attempt(NOISY, STEADY, Conditions()),
        Attempt(STEADY, NOISY, Conditions()),
        Attempt(STEADY, STEADY, Conditions(throttle_reasons=("hw_thermal_slowdown",))),
        Attempt(STEADY, STEADY, Conditions(sm_clock_mhz=1845, throttle_reasons=("sw_power_cap",)), 1980),
        Attempt(STEADY, STEADY, Conditions(sm_clock_mhz=1965, throttle_reasons=("sw_power_cap",))),
    ],
)
def test_an_unsteady_or_throttled_measurement_is_repeated_then_kept_as_unsteady(bad: Attempt) -> None:
    good = Attempt(STEADY, STEADY, Conditions(throttle_reasons=("gpu_idle",)))
    assert attempts(bad, good) == (good, 1, True)
    assert attempts(bad, bad, bad) == (bad, 2, False)

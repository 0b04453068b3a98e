"""The arithmetic of measuring: bytes, floors, how many launches, statistics, and when to measure again.

Nothing here touches a device; `harness.graph_timer` and `harness.cuda_runner` do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from harness.executor import MeasurePlan
from harness.record import Conditions, Rates, Timing
from kernels.family import OperandFormat
from kernels.nvfp4_layout import BLOCK
from kernels.problem import RouterProblem

# Of one element, an NVFP4 one with its share of the block's e4m3 scale.
ELEMENT_BYTES = {OperandFormat.BF16: Fraction(2), OperandFormat.NVFP4: Fraction(1, 2) + Fraction(1, BLOCK)}
# How many times the bf16 matrix rate, which is what is measured, the tensor cores have in this format (B200
# data sheet: 9 PFLOP/s dense FP4, 2.25 bf16).
MATRIX_SPEEDUP = {OperandFormat.BF16: 1, OperandFormat.NVFP4: 4}
FP32_BYTES = 4
INT32_BYTES = 4

# One replay of a graph lasts about this long: the launch of the graph itself (some 5 us) and the events'
# resolution (0.5 us) are then below 0.5 percent.
REPLAY_US = 2000.0
MAX_LAUNCHES = 400
# Cold inputs rotate over this many times the L2 (see the design's "Measuring").
COLD_L2_FACTOR = 2

# Throttle reasons that slow the clock below what the device would run at, by `harness.device`'s names.
SLOWING_REASONS = frozenset(
    {"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"}
)
# The power limit moves the clock in steps of 15 MHz: what keeps the tensor cores busy runs one step below
# the maximum (an H100 at M = 16384: 1965 of 1980 MHz, 0.2 percent spread), and that is its speed. Below this
# share of the maximum the limit has decided the time.
POWER_CAP = "sw_power_cap"
CAPPED_CLOCK_SHARE = 0.97


def input_bytes(problem: RouterProblem, m: int, operand_format: OperandFormat = OperandFormat.BF16) -> int:
    """Bytes of A [M, K], B [E, K] and bias [E] fp32."""
    operands = (m + problem.experts) * problem.hidden * ELEMENT_BYTES[operand_format]
    return int(operands) + problem.experts * FP32_BYTES


def bytes_moved(problem: RouterProblem, m: int, operand_format: OperandFormat = OperandFormat.BF16) -> int:
    """Bytes that any implementation moves at least: the inputs and the outputs [M, k], each once."""
    return input_bytes(problem, m, operand_format) + m * problem.top_k * (FP32_BYTES + INT32_BYTES)


def flops(problem: RouterProblem, m: int) -> int:
    """Floating-point operations of the GEMM: a multiplication and an addition for each product."""
    return 2 * m * problem.experts * problem.hidden


def floor_us(
    problem: RouterProblem, m: int, rates: Rates, operand_format: OperandFormat = OperandFormat.BF16
) -> float:
    """The time below which no kernel can be: its bytes at copy bandwidth or its flops at matrix rate."""
    matrix_rate = rates.matrix_flop_per_s * MATRIX_SPEEDUP[operand_format]
    seconds = max(
        bytes_moved(problem, m, operand_format) / rates.copy_bytes_per_s, flops(problem, m) / matrix_rate
    )
    return 1e6 * seconds


def cold_sets(
    problem: RouterProblem, m: int, l2_bytes: int, operand_format: OperandFormat = OperandFormat.BF16
) -> int:
    """How many sets of inputs to rotate over, so that each has left the L2 before it is used again."""
    return max(1, math.ceil(COLD_L2_FACTOR * l2_bytes / input_bytes(problem, m, operand_format)))


def rounds_per_replay(round_us: float, launches_per_round: int) -> int:
    """How many rounds of `launches_per_round` launches, `round_us` together, one graph should hold."""
    wanted = math.ceil(REPLAY_US / max(round_us, 1e-3))
    return max(1, min(wanted, MAX_LAUNCHES // launches_per_round))


def summarize(samples_us: Sequence[float]) -> Timing:
    """Median and interquartile range of at least one sample."""
    low, median, high = np.percentile(samples_us, (25, 50, 75))
    return Timing(tuple(samples_us), float(median), float(high - low))


@dataclass(frozen=True)
class Attempt:
    """One measurement under both cache conditions, and the device's state during it.

    `max_sm_clock_mhz` is what the power limit may hold the clock below; 0 where it is not known.
    """

    cold: Timing
    warm: Timing
    conditions: Conditions
    max_sm_clock_mhz: int = 0

    def steady(self, max_relative_spread: float) -> bool:
        """Whether neither the spread nor a throttled clock speaks against the numbers."""
        spread = max(self.cold.relative_spread, self.warm.relative_spread)
        return spread <= max_relative_spread and not self.slowed

    @property
    def slowed(self) -> bool:
        """Whether the clock was throttled to where it changes the numbers."""
        reasons = set(self.conditions.throttle_reasons)
        held_down = self.conditions.sm_clock_mhz <= CAPPED_CLOCK_SHARE * self.max_sm_clock_mhz
        unknown = not self.max_sm_clock_mhz
        return bool(SLOWING_REASONS & reasons) or (POWER_CAP in reasons and (held_down or unknown))


def repeat_until_steady(measure: Callable[[int], Attempt], plan: MeasurePlan) -> tuple[Attempt, int, bool]:
    """Measure, again while unsteady, at most `plan.max_repeats` times more.

    Args:
        measure: makes one attempt, given how many came before.

    Returns:
        The last attempt, how often it was repeated, and whether it is steady.
    """
    for repeats in range(plan.max_repeats + 1):
        attempt = measure(repeats)
        if steady := attempt.steady(plan.max_relative_spread):
            break
    return attempt, repeats, steady

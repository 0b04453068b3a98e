"""Statistics of timings: what a median is worth, and whether one config is faster than another.

Nothing here assumes a distribution: samples of kernel times are skewed and have outliers.

Two timings differ when both hold, and are a tie otherwise:

1. the two-sided Mann-Whitney U test rejects that neither tends to be the larger, at `ALPHA`, in the same
   direction as the medians;
2. the medians differ by more than `RESOLUTION`. The samples of one measurement share a clock, a temperature
   and a memory layout, so the test sees less noise than there is between two measurements.

A tie between configs is resolved by the fixed rule of `tie_key`, so the same records always give the same
choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from scipy.stats import binom, mannwhitneyu, spearmanr

from harness.record import Timing, TrialRecord

# With the 20 samples of a measurement this is reached by medians about one interquartile range apart.
ALPHA = 0.01
# Relative. An assumption about repeatability between measurements, not a measured figure.
RESOLUTION = 0.01
# Above any real kernel: a config whose resources are unknown loses a tie.
UNKNOWN_RESOURCE = 1 << 30


class Verdict(StrEnum):
    """How the first of two timings compares with the second."""

    FASTER = "faster"
    SLOWER = "slower"
    TIE = "tie"


def timing(samples_us: Sequence[float]) -> Timing:
    """The samples with their median and interquartile range; raises `ValueError` when there are none."""
    if not samples_us:
        raise ValueError("a timing needs at least one sample")
    low, median, high = np.percentile(samples_us, (25, 50, 75))
    return Timing(tuple(samples_us), float(median), float(high - low))


def pool(timings: Sequence[Timing]) -> Timing:
    """Several measurements of the same thing as one."""
    return timing([sample for each in timings for sample in each.samples_us])


def median_interval(samples_us: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """A distribution-free confidence interval of the median: two order statistics of the samples.

    The number of samples below the median is binomial(n, 1/2); the interval drops as many samples on either
    side as leaves at least `confidence` coverage. Under 6 samples not even the whole range covers 95 %: the
    whole range is returned. Raises `ValueError` when there are no samples.
    """
    if not samples_us:
        raise ValueError("an interval needs at least one sample")
    ordered = sorted(samples_us)
    count = len(ordered)
    # The most that may be dropped: P(X <= dropped) < (1 - confidence) / 2 on either side. ppf is one above.
    dropped = max(int(binom.ppf((1 - confidence) / 2, count, 0.5)) - 1, 0)
    return ordered[dropped], ordered[count - 1 - dropped]


def compare(a: Timing, b: Timing, *, exact: bool = False) -> Verdict:
    """Whether `a` is faster than `b`, slower, or the same within the noise (see the module).

    `exact` times have no noise (a simulator's clock): only the medians' resolution counts. Raises
    `ValueError` when either has no samples.
    """
    if not a.samples_us or not b.samples_us:
        raise ValueError("a comparison needs samples on both sides")
    low, high = sorted((a.median_us, b.median_us))
    if high <= low * (1 + RESOLUTION):
        return Verdict.TIE
    verdict = Verdict.FASTER if a.median_us < b.median_us else Verdict.SLOWER
    if exact:
        return verdict
    test = mannwhitneyu(a.samples_us, b.samples_us, alternative="two-sided")
    pairs = len(a.samples_us) * len(b.samples_us)
    # U counts the pairs in which a is the larger.
    ranks = Verdict.FASTER if test.statistic < pairs / 2 else Verdict.SLOWER
    return verdict if test.pvalue < ALPHA and ranks is verdict else Verdict.TIE


def tie_key(record: TrialRecord) -> tuple[object, ...]:
    """Sorts configs that are as fast as each other, the one to choose first.

    Fewer registers, then less shared memory (what a kernel leaves to its neighbours), then the config's
    parameters by name and value, which no two configs share.
    """
    registers = max((used.registers for used in record.resources), default=UNKNOWN_RESOURCE)
    smem_bytes = max(
        (used.static_smem_bytes + used.dynamic_smem_bytes for used in record.resources),
        default=UNKNOWN_RESOURCE,
    )
    config = tuple((name, type(value).__name__, value) for name, value in sorted(record.config.items()))
    return registers, smem_bytes, config


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Rank correlation of paired values, from -1 to 1; None under 3 pairs or for a constant side."""
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return float(spearmanr(a, b).statistic)

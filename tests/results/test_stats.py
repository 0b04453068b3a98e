"""Statistics: what is called different is different, and a tie is always resolved the same way."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.record import Resources
from results.stats import Verdict, compare, median_interval, pool, spearman, tie_key, timing

# Samples of one measurement: 20 within 15 % of each other, so that a factor of 1.2 separates any two of them.
samples = st.floats(1.0, 1e5).flatmap(
    lambda scale: st.lists(st.floats(1.0, 1.15).map(lambda x: x * scale), min_size=6, max_size=30)
)
OPPOSITE = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER, Verdict.TIE: Verdict.TIE}


@given(a=samples, b=samples, exact=st.booleans())
def test_compare_is_antisymmetric(a: list[float], b: list[float], exact: bool) -> None:
    forth = compare(timing(a), timing(b), exact=exact)
    assert compare(timing(b), timing(a), exact=exact) is OPPOSITE[forth]


@given(a=samples)
def test_a_timing_ties_with_itself(a: list[float]) -> None:
    assert compare(timing(a), timing(a)) is Verdict.TIE


@given(a=samples)
def test_twenty_percent_is_always_detected(a: list[float]) -> None:
    slower = [1.2 * sample for sample in a]
    assert compare(timing(a), timing(slower)) is Verdict.FASTER
    assert compare(timing(slower), timing(a)) is Verdict.SLOWER


@given(a=samples)
def test_less_than_the_resolution_is_never_a_difference(a: list[float]) -> None:
    assert compare(timing(a), timing([1.009 * sample for sample in a]), exact=True) is Verdict.TIE


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.3])
def test_the_same_distribution_is_rarely_called_different(synthetic: Any, noise: float) -> None:
    # 500 pairs at a false-alarm rate of 1 %: 5 expected; more than 14 has a probability under 0.02 %.
    rng = random.Random(20)
    pairs = [(synthetic.noisy(rng, 10.0, noise), synthetic.noisy(rng, 10.0, noise)) for _ in range(500)]
    assert sum(compare(a, b) is not Verdict.TIE for a, b in pairs) <= 14


def test_a_difference_inside_the_noise_is_a_tie(synthetic: Any) -> None:
    rng = random.Random(3)
    a, b = synthetic.noisy(rng, 10.0, 0.5), synthetic.noisy(rng, 10.2, 0.5)
    assert compare(a, b) is Verdict.TIE
    assert compare(a, b, exact=True) is not Verdict.TIE


def test_one_outlier_does_not_decide() -> None:
    steady = [10.0 + 0.01 * i for i in range(20)]
    assert compare(timing(steady), timing([*steady[:-1], 500.0])) is Verdict.TIE


@pytest.mark.parametrize("empty", [timing, median_interval])
def test_no_samples_is_refused(empty: Any) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        empty([])


@given(a=samples)
def test_the_interval_holds_the_median_and_is_in_the_range(a: list[float]) -> None:
    low, high = median_interval(a)
    assert min(a) <= low <= timing(a).median_us <= high <= max(a)


def test_the_interval_is_the_textbook_one() -> None:
    # n = 20: the 6th and the 15th, coverage 95.9 %. n = 5: the range covers 93.75 %, and is all there is.
    assert median_interval([float(i) for i in range(1, 21)]) == (6.0, 15.0)
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (1.0, 5.0)


def test_the_interval_covers_the_true_median_of_a_skewed_distribution() -> None:
    # 1000 draws at 95.9 % coverage: under 930 has a probability below 1e-5. The median of exp(1) is ln 2.
    rng = random.Random(7)
    intervals = [median_interval([rng.expovariate(1.0) for _ in range(20)]) for _ in range(1000)]
    covered = sum(low <= 0.6931471805599453 <= high for low, high in intervals)
    assert 930 <= covered <= 985


def test_pooling_keeps_every_sample() -> None:
    pooled = pool([timing([1.0, 2.0]), timing([3.0])])
    assert pooled.samples_us == (1.0, 2.0, 3.0)
    assert pooled.median_us == 2.0


def test_the_tie_rule(synthetic: Any) -> None:
    base = synthetic.record({"stages": 4})
    used = base.resources[0]
    fewer_registers = replace(
        base, resources=(replace(used, registers=used.registers - 1, dynamic_smem_bytes=200_000),)
    )
    less_smem = replace(base, resources=(replace(used, dynamic_smem_bytes=used.dynamic_smem_bytes - 1),))
    smaller_config = replace(base, config={"stages": 3})
    unknown = replace(base, resources=())
    two_kernels = replace(base, resources=(used, Resources("gate", used.registers + 1, 0, 0)))
    order = [fewer_registers, less_smem, smaller_config, base, two_kernels, unknown]
    for shuffled in itertools.permutations(order):
        assert sorted(shuffled, key=tie_key) == order


def test_spearman() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 400]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None

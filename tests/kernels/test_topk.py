"""The exchanges that merge two sorted lists: they sort whatever falls and then rises."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.device.topk import bitonic_exchanges


def merged(ours: list[float], theirs: list[float]) -> list[float]:
    """The k highest of two falling lists of k, as `TopK.merge_lanes` finds them."""
    held = [max(pair) for pair in zip(ours, reversed(theirs), strict=True)]
    for upper, lower in bitonic_exchanges(len(held)):
        held[upper], held[lower] = max(held[upper], held[lower]), min(held[upper], held[lower])
    return held


@pytest.mark.parametrize("k", range(1, 17))
def test_every_pair_of_lists_of_zeros_and_ones_is_merged(k: int) -> None:
    """Which is enough for all lists (the 0-1 principle: Knuth, volume 3, 5.3.4, theorem Z)."""
    for ours, theirs in product(range(k + 1), repeat=2):
        lists = [[1.0] * ones + [0.0] * (k - ones) for ones in (ours, theirs)]
        assert merged(*lists) == sorted(lists[0] + lists[1], reverse=True)[:k], (ours, theirs)


@given(
    st.integers(1, 16).flatmap(lambda k: st.tuples(*[st.lists(st.floats(0, 1), min_size=k, max_size=k)] * 2))
)
def test_lists_are_merged(lists: tuple[list[float], list[float]]) -> None:
    ours, theirs = (sorted(one, reverse=True) for one in lists)
    assert merged(ours, theirs) == sorted(ours + theirs, reverse=True)[: len(ours)]


def test_six_values_take_seven_exchanges() -> None:
    assert len(bitonic_exchanges(6)) == 7

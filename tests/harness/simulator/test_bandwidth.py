"""A shared bandwidth serves everything once, in whatever order it is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.bandwidth import SLOT_CYCLES, Bandwidth

REQUESTS = st.lists(st.tuples(st.floats(0, 1e5), st.floats(1, 1e5)), min_size=1, max_size=40)


def test_alone_a_request_takes_its_bytes_at_the_rate() -> None:
    assert Bandwidth(4.0).take(0.0, 4096.0) == pytest.approx(1024.0)


@given(REQUESTS)
def test_nothing_is_served_faster_than_the_rate(requests: list[tuple[float, float]]) -> None:
    bandwidth = Bandwidth(64.0)
    ends = [bandwidth.take(time, amount) for time, amount in requests]
    for (time, amount), end in zip(requests, ends, strict=True):
        assert end >= time + amount / 64.0 - 1e-6
    first = min(time for time, _ in requests)
    total = sum(amount for _, amount in requests)
    # A slot counts as a whole, so the first one may serve what was asked for in its middle from its start.
    assert max(ends) >= first - SLOT_CYCLES + total / 64.0 - 1e-6


@given(REQUESTS)
def test_the_last_end_does_not_depend_on_the_order(requests: list[tuple[float, float]]) -> None:
    forth, back = Bandwidth(64.0), Bandwidth(64.0)
    last = max(forth.take(time, amount) for time, amount in requests)
    other = max(back.take(time, amount) for time, amount in reversed(requests))
    longest = max(amount for _, amount in requests) / 64.0
    assert last == pytest.approx(other, abs=longest + 2 * SLOT_CYCLES)

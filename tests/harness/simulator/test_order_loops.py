"""Clocks raised in C: the same as numpy's, whoever is named how often."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.simulator import order_loops

WARPS, PER_CLUSTER, BARRIERS = 12, 6, 5
AGENTS = 2 * PER_CLUSTER
AGENT = np.arange(WARPS) % PER_CLUSTER


def clocks(random: np.random.Generator, rows: int) -> NDArray[np.int32]:
    return random.integers(0, 9, (rows, AGENTS), np.int32)


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_raised_to_others(seed: int) -> None:
    random = np.random.default_rng(seed)
    known, others = clocks(random, BARRIERS), clocks(random, WARPS)
    count = int(random.integers(0, 2 * WARPS))
    keys, rows = random.integers(0, BARRIERS, count), random.integers(0, WARPS, count)
    want = known.copy()
    np.maximum.at(want, keys, others[rows])
    order_loops.raise_rows(known, keys, others, rows)
    assert (known == want).all()


@pytest.mark.parametrize("seed", range(20))
def test_barriers_learn_what_warps_have_seen_and_their_own_epoch(seed: int) -> None:
    random = np.random.default_rng(seed)
    known, seen = clocks(random, BARRIERS), clocks(random, WARPS)
    epoch = random.integers(0, 9, WARPS, np.int32)  # at times less than what is said of it elsewhere
    count = int(random.integers(0, 3 * WARPS))
    keys, warps = (random.integers(0, end, count).repeat(1 + seed % 2) for end in (BARRIERS, WARPS))
    told = seen[warps]
    told[np.arange(len(warps)), AGENT[warps]] = epoch[warps]
    want = known.copy()
    np.maximum.at(want, keys, told)
    order_loops.publish(known, keys, seen, warps, AGENT, epoch)
    assert (known == want).all()


@pytest.mark.parametrize("seed", range(20))
def test_a_barrier_that_turns_closes_what_was_open(seed: int) -> None:
    random = np.random.default_rng(seed)
    opened, closed = clocks(random, BARRIERS), clocks(random, BARRIERS)
    phase, now = (random.integers(0, 2, BARRIERS) for _ in range(2))
    keys = random.integers(0, BARRIERS, int(random.integers(0, 2 * BARRIERS)))
    turned = np.zeros(BARRIERS, np.bool_)
    turned[keys] = (phase != now)[keys]
    want = np.where(turned[:, None], opened, closed), np.where(turned, now, phase)
    order_loops.turn(opened, closed, phase, keys, now[keys])
    assert (closed == want[0]).all()
    assert (phase == want[1]).all()


def test_the_address_of_an_array_that_is_not_in_one_piece_is_refused() -> None:
    array = np.arange(6).reshape(2, 3)
    frozen = array.copy()
    frozen.flags.writeable = False
    for whole in (array, array[1:], frozen, array[:0]):
        assert order_loops.address(whole) == whole.ctypes.data
    for part in (array.T, array[:, :2], frozen.T):
        with pytest.raises((TypeError, AssertionError)):
            order_loops.address(part)

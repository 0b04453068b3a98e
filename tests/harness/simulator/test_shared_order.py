"""Races in shared memory: what a chain of barriers orders passes, what none orders is refused."""

from __future__ import annotations

import numpy as np
import pytest

from harness.simulator.errors import SimulationError
from harness.simulator.shared_order import SharedOrder

WARPS, WORDS = 2, 16  # of a CTA
WORD = 3  # of CTA 0
MBARRIER = 5


def pair() -> SharedOrder:
    """Two CTAs of two warps each, in one cluster."""
    return SharedOrder(2, WARPS, 2, WORDS)


def at(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, np.int64)


def written(step: int, warp: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    """The stamp of a word that the first thread of a warp of the word's own CTA wrote."""
    return np.array([[step << 16 | warp * 32]], np.uint64)


def read(order: SharedOrder, warp: int, stamps: np.ndarray[tuple[int, int], np.dtype[np.uint64]]) -> None:
    order.read(at(warp), np.array([[WORD]]), stamps, None, step=9)


def sync(order: SharedOrder, arriving: int, waiting: int, step: int, barrier: int = MBARRIER) -> None:
    """A warp arrives in phase 0 of an mbarrier, which completes it; another sees that."""
    order.arrive("mbarrier", at(arriving), at(barrier), at(0), step)
    order.passed("mbarrier", at(waiting), at(barrier), at(1))


@pytest.mark.parametrize("reader", [1, 2, 3])
def test_a_read_that_waits_for_nobody_is_refused(reader: int) -> None:
    with pytest.raises(SimulationError, match=r"at 0xc that warp 0 of the cluster's CTA 0 wrote"):
        read(pair(), reader, written(4, 0))


@pytest.mark.parametrize(("arrives", "fine"), [(3, False), (4, True), (5, True)])
def test_an_arrival_counts_for_what_lies_before_it(arrives: int, fine: bool) -> None:
    order = pair()
    sync(order, arriving=0, waiting=2, step=arrives)
    if fine:
        read(order, 2, written(4, 0))
    else:
        with pytest.raises(SimulationError, match="no barrier orders"):
            read(order, 2, written(4, 0))


def test_a_warp_reads_what_it_wrote_itself() -> None:
    read(pair(), 0, written(4, 0))


def test_what_a_warp_has_learned_it_passes_on() -> None:
    order = pair()
    sync(order, arriving=0, waiting=1, step=5)
    sync(order, arriving=1, waiting=3, step=6, barrier=MBARRIER + 1)
    read(order, 3, written(4, 0))


def test_a_barrier_of_others_tells_nothing() -> None:
    order = pair()
    sync(order, arriving=1, waiting=2, step=5)
    with pytest.raises(SimulationError, match="no barrier orders"):
        read(order, 2, written(4, 0))


def test_what_the_asynchronous_proxy_wrote_is_not_judged() -> None:
    read(pair(), 2, np.array([[4 << 16 | 0xFFFF]], np.uint64))


@pytest.mark.parametrize("awaited", [True, False])
def test_a_store_over_what_another_warp_reads_waits_for_it(awaited: bool) -> None:
    order = pair()
    sync(order, arriving=0, waiting=2, step=5)
    read(order, 2, written(4, 0))  # at step 9
    if awaited:
        sync(order, arriving=2, waiting=0, step=10, barrier=MBARRIER + 1)
        order.write(at(0), at(WORD), at(0))
    else:
        with pytest.raises(SimulationError, match=r"that warp 0 of the cluster's CTA 1 has read"):
            order.write(at(0), at(WORD), at(0))


@pytest.mark.parametrize("awaited", [True, False])
def test_a_cta_leaves_when_others_have_read_its_shared_memory(awaited: bool) -> None:
    order = pair()
    sync(order, arriving=0, waiting=2, step=5)
    read(order, 2, written(4, 0))
    order.leave(at(1))  # whose own nobody has read
    if awaited:
        sync(order, arriving=2, waiting=1, step=10, barrier=MBARRIER + 1)
        order.leave(at(0))
    else:
        with pytest.raises(SimulationError, match="CTA 0 of a cluster exits, warp 0 of the cluster's CTA 1"):
            order.leave(at(0))

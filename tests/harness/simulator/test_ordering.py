"""Vector clocks of tensor memory: what a warp knows to be over, behind barriers, fences and commits."""

from __future__ import annotations

import numpy as np
import pytest

from harness.simulator.ordering import Array, Ordering

WARPS = 4
A, B, C = (np.array([warp]) for warp in range(3))
BARRIERS = [np.array([key]) for key in range(3)]
FIRST, SECOND = np.array([0]), np.array([1])  # phases of a barrier


def hand_over(ordering: Ordering, source: Array, target: Array, barrier: int) -> None:
    """`source` arrives on a barrier, which completes, and `target` waits for it."""
    ordering.arrive("mbarrier", source, BARRIERS[barrier], FIRST)
    ordering.passed("mbarrier", target, BARRIERS[barrier], SECOND)


def knows_load(ordering: Ordering, target: Array, epoch: int = 1) -> bool:
    """Whether accesses of warp A in `epoch` are over for the accesses of `target`."""
    return bool(ordering.held[target, 0] >= epoch)


@pytest.mark.parametrize("waited", [False, True])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_a_load_is_over_only_with_wait_and_both_fences(waited: bool, before: bool, after: bool) -> None:
    ordering = Ordering(WARPS, WARPS)
    ordering.started(A, "ld")
    if waited:
        ordering.finished(A, "ld")
    if before:
        ordering.fence_before(A)
    hand_over(ordering, A, B, 0)
    if after:
        ordering.fence_after(B)
    assert knows_load(ordering, B) == (waited and before and after)


def test_a_wait_behind_the_fence_is_too_late() -> None:
    ordering = Ordering(WARPS, WARPS)
    ordering.started(A, "ld")
    ordering.fence_before(A)
    ordering.finished(A, "ld")
    hand_over(ordering, A, B, 0)
    ordering.fence_after(B)
    assert not knows_load(ordering, B)


def test_knowledge_passes_through_a_warp_that_touches_no_tensor_memory() -> None:
    ordering = Ordering(WARPS, WARPS)
    ordering.fence_before(A)
    hand_over(ordering, A, B, 0)
    hand_over(ordering, B, C, 1)
    ordering.fence_after(C)
    assert knows_load(ordering, C)


def test_what_arrives_in_a_later_phase_is_not_known_yet() -> None:
    ordering = Ordering(WARPS, WARPS)
    ordering.arrive("mbarrier", B, BARRIERS[0], FIRST)
    ordering.fence_before(A)
    ordering.arrive("mbarrier", A, BARRIERS[0], SECOND)
    ordering.passed("mbarrier", C, BARRIERS[0], SECOND)
    ordering.fence_after(C)
    assert not knows_load(ordering, C)
    ordering.passed("mbarrier", C, BARRIERS[0], SECOND + 1)
    ordering.fence_after(C)
    assert knows_load(ordering, C)


def test_a_commit_tells_of_the_products_before_it_and_of_what_their_thread_knew() -> None:
    ordering = Ordering(WARPS, WARPS)
    ordering.fence_before(A)
    hand_over(ordering, A, B, 0)
    clocks = ordering.committed(B)
    ordering.committed(B)
    ordering.deliver("mbarrier", clocks, BARRIERS[1], FIRST)
    ordering.passed("mbarrier", C, BARRIERS[1], SECOND)
    ordering.fence_after(C)
    assert knows_load(ordering, C)
    assert ordering.held[2, WARPS + 1] == 1
    assert ordering.core_epoch[1] == 3


def test_clusters_do_not_share_agents() -> None:
    ordering = Ordering(2 * WARPS, WARPS)
    assert ordering.agent.tolist() == [0, 1, 2, 3] * 2
    ordering.fence_before(np.array([WARPS]))
    ordering.arrive("cluster", np.array([WARPS]), np.array([1]), FIRST)
    ordering.passed("cluster", np.array([WARPS + 1]), np.array([1]), SECOND)
    ordering.passed("cluster", np.array([1]), np.array([0]), SECOND)
    assert ordering.seen[WARPS + 1, 0] == 1
    assert ordering.seen[1, 0] == 0

"""mbarriers, named barriers and cluster barriers: phases, counts, times, and every misuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.barriers import MAX_COUNT, ClusterBarriers, MBarriers, NamedBarriers
from harness.simulator.errors import SimulationError

ROWS = 2


def one_barrier(count: int, row: int = 1) -> tuple[MBarriers, np.ndarray]:
    barriers = MBarriers(ROWS, 4096)
    barriers.initialize(np.array([row]), np.array([1024]), np.array([count]))
    return barriers, barriers.keys(np.array([row]), np.array([1024]))


def passed(barriers: MBarriers, key: np.ndarray, parity: int) -> bool:
    return bool(barriers.passed(key, np.array([parity]))[0])


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.booleans(), st.integers(1, 5000)), max_size=4),
    st.randoms(use_true_random=False),
)
def test_a_phase_completes_with_the_last_of_arrivals_and_bytes(
    count: int, copies: list[tuple[bool, int]], random: object
) -> None:
    """Whatever the order, bytes may arrive before they are expected: the phase ends when all is there."""
    barriers, key = one_barrier(count)
    events = [("expect", size) for _, size in copies] + [("copy", size) for _, size in copies]
    random.shuffle(events)  # type: ignore[attr-defined]
    times = iter(np.arange(1.0, 100.0))
    latest = 0.0
    # All arrivals but one come first: the phase stays open while bytes are announced and arrive.
    for _ in range(count - 1):
        latest = next(times)
        barriers.arrive(key, 1, np.array([latest]))
    for what, size in events:
        assert not passed(barriers, key, 0)
        if what == "expect":
            barriers.expect(key, np.array([size]))
        else:
            latest = next(times)
            barriers.complete_bytes(key, size, np.array([latest]))
    latest = next(times)
    assert not passed(barriers, key, 0)
    barriers.arrive(key, 1, np.array([latest]))
    assert passed(barriers, key, 0)
    assert not passed(barriers, key, 1)
    assert barriers.completed_at[key][0] == latest
    assert (barriers.pending[key][0], barriers.phase[key][0]) == (count, 1)


def test_parities_alternate() -> None:
    barriers, key = one_barrier(1)
    for phase in range(5):
        assert passed(barriers, key, 1 - phase % 2)
        assert not passed(barriers, key, phase % 2)
        assert not barriers.passed(key, np.array([phase]), by_parity=False)[0]
        barriers.arrive(key, 1, np.array([0.0]))
        assert barriers.passed(key, np.array([phase]), by_parity=False)[0]


def test_misuse_of_mbarriers() -> None:
    barriers, key = one_barrier(2)
    with pytest.raises(SimulationError, match="more arrivals on the mbarrier at 0x400 of CTA 1 than the 2"):
        barriers.arrive(key, 3, np.array([0.0]))
    barriers, key = one_barrier(2)
    with pytest.raises(SimulationError, match=r"initialized again without an mbarrier\.inval"):
        barriers.initialize(np.array([1]), np.array([1024]), np.array([2]))
    barriers.invalidate(np.array([1]), np.array([1024]))
    with pytest.raises(SimulationError, match="no mbarrier was initialized at shared address 0x400"):
        barriers.keys(np.array([1]), np.array([1024]))
    barriers.initialize(np.array([1]), np.array([1024]), np.array([3]))
    assert barriers.count[key][0] == 3
    for row, offset in ((0, 1024), (1, 1032), (1, 1028)):
        with pytest.raises(
            SimulationError, match=f"no mbarrier was initialized at shared address {offset:#x}"
        ):
            barriers.keys(np.array([1, row]), np.array([1024, offset]))
    for count in (0, MAX_COUNT + 1):
        with pytest.raises(SimulationError, match=f"mbarrier count {count}: from 1"):
            barriers.initialize(np.array([0]), np.array([2048]), np.array([count]))
    with pytest.raises(SimulationError, match="at most 1048575"):
        barriers.expect(key, np.array([MAX_COUNT + 1]))


@pytest.mark.parametrize(
    ("expected", "arrived", "says"),
    [(64, 48, "16 transaction bytes"), (48, 64, "16 bytes arrived that were not")],
)
def test_bytes_left_over_at_the_exit(expected: int, arrived: int, says: str) -> None:
    barriers, key = one_barrier(1)
    barriers.expect(key, np.array([expected]))
    barriers.complete_bytes(key, arrived, np.array([1.0]))
    with pytest.raises(
        SimulationError, match=f"wrong transaction count: the mbarrier at 0x400 of CTA 1 .*{says}"
    ):
        barriers.check_drained(np.arange(ROWS))


def test_stores_over_mbarriers() -> None:
    barriers, _ = one_barrier(1)
    offsets = np.array([1024, 1028, 1020, 1032])
    assert barriers.holds(np.ones(4, np.int64), offsets, 4).tolist() == [True, True, False, False]
    assert not barriers.holds(np.zeros(4, np.int64), offsets, 4).any()
    assert barriers.holds(np.array([1]), np.array([1016]), 16).tolist() == [True]


def arrive(named: NamedBarriers, row: int, number: int, threads: int, time: float) -> int:
    return int(named.arrive(*(np.array([v]) for v in (row, number, threads, 32)), np.array([time]))[0])


def test_named_barriers_count_warps_of_their_cta() -> None:
    named = NamedBarriers(ROWS)
    for time, row in ((1.0, 0), (5.0, 1), (3.0, 0)):
        assert arrive(named, row, 4, 96, time) == 0
    assert named.generation[:, 4].tolist() == [0, 0]
    assert arrive(named, 0, 4, 96, 2.0) == 0
    assert named.generation[:, 4].tolist() == [1, 0]
    assert named.completed_at[0, 4] == 3.0
    assert arrive(named, 0, 4, 64, 7.0) == 1


def test_misuse_of_named_barriers() -> None:
    named = NamedBarriers(ROWS)
    arrive(named, 0, 1, 64, 0.0)
    with pytest.raises(
        SimulationError, match="named barrier 1 for 96 threads, when others wait there for 64"
    ):
        arrive(named, 0, 1, 96, 0.0)
    with pytest.raises(SimulationError, match="for 48 threads: want a multiple of 32"):
        arrive(named, 0, 2, 48, 0.0)
    both = np.array([0, 0, 0])
    with pytest.raises(SimulationError, match="96 threads arrive at named barrier 3, which expects 64"):
        named.arrive(both, both + 3, both + 64, both + 32, np.zeros(3))


def test_cluster_barriers_forget_warps_that_left() -> None:
    barriers = ClusterBarriers(clusters=2, warps=8, warps_per_cluster=4)
    barriers.arrive(np.array([0, 1, 4]), np.array([0, 0, 1]), np.array([3.0, 9.0, 1.0]))
    barriers.leave(np.array([0]))
    assert barriers.generation.tolist() == [0, 0]
    with pytest.raises(SimulationError, match=r"barrier\.cluster\.arrive twice"):
        barriers.arrive(np.array([1]), np.array([0]), np.array([1.0]))
    barriers.leave(np.array([0]))
    assert barriers.generation.tolist() == [1, 0]
    assert barriers.completed_at[0] == 9.0

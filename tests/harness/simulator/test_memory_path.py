"""What of a tile load comes from where: the L2's contents, and transfers that CTAs share."""

from __future__ import annotations

import numpy as np
import pytest

from harness.simulator.memory_path import MemoryPath, Wave
from harness.simulator.residency import Residency
from harness.simulator.target import Target, target_named

TILE = 16384


@pytest.fixture(scope="module")
def target() -> Target:
    return target_named("sm_90a")


def load(path: MemoryPath, sm: int, tile: object, time: float, shared: bool = False) -> float:
    size = np.array([TILE])
    return float(path.load(np.array([sm]), size, size, np.array([time]), [tile], shared)[0])


def test_a_tile_stays_until_as_much_has_come_as_the_l2_holds() -> None:
    residency = Residency(3.0)
    for tile in range(3):
        assert residency.touch(tile) is None
        residency.fill(tile, present=10.0 + tile, size=1.0)
    assert residency.touch(0) == 10.0
    residency.fill(3, present=13.0, size=1.0)
    residency.fill(4, present=14.0, size=1.0)
    assert residency.touch(0) == 10.0
    assert residency.touch(1) == 11.0
    for tile in (5, 6):
        residency.fill(tile, present=15.0, size=1.0)
    assert residency.touch(2) is None
    assert not residency.is_new(2)


@pytest.mark.parametrize("share", [1, 4])
def test_passes_over_more_than_the_l2_holds_come_from_memory_again(target: Target, share: int) -> None:
    capacity = int(target.chip["l2_capacity_bytes"]) // share
    for size, passes in ((capacity // 2, 1), (2 * capacity, 2)):
        path = MemoryPath(target, Wave(clusters=share), 1)
        for _ in range(2):
            for tile in range(size // TILE):
                load(path, 0, tile, 0.0)
        assert path.memory_bytes == pytest.approx(passes * size, rel=0.01)


def test_rows_of_different_turns_read_the_same_tokens_from_memory(target: Target) -> None:
    for turns, times in ((np.array([0, 0]), 1), (np.array([0, 1]), 2)):
        path = MemoryPath(target, Wave(2, 2, turns=turns), 2)
        load(path, 0, "tile", 0.0)
        load(path, 1, "tile", 0.0)
        assert path.memory_bytes == times * TILE


def test_all_columns_bring_the_weight_once(target: Target) -> None:
    path = MemoryPath(target, Wave(clusters=8, shared_in_l2=False), 1)
    load(path, 0, "weight", 0.0, shared=True)
    assert path.memory_bytes == TILE / 8
    path = MemoryPath(target, Wave(clusters=8, shared_in_l2=True), 1)
    load(path, 0, "weight", 0.0, shared=True)
    assert path.memory_bytes == 0


def test_ctas_of_a_cluster_share_a_transfer_that_is_under_way(target: Target) -> None:
    # A wave of a thousand times as many leaves so little of the L2 that it alone counts.
    wave = Wave(clusters=2000, simulated=2, warm=True)
    apart, together, late = (MemoryPath(target, wave, 2) for _ in range(3))
    together.cluster_size = late.cluster_size = 2
    ends = []
    for path, time in ((apart, 0.0), (together, 0.0), (late, 10 * target.chip["l2_latency"])):
        for sm, start in ((0, 0.0), (1, time)):
            ends.append([load(path, sm, tile, start) for tile in range(8)][-1])
    first, second = ends[0::2], ends[1::2]
    assert first[0] == first[1] == first[2]
    assert second[0] == pytest.approx(2 * first[0], rel=0.02)
    assert second[1] == pytest.approx((2 - target.chip["l2_coalesced"]) * first[0], rel=0.02)
    assert second[2] == pytest.approx(second[0], rel=0.02)

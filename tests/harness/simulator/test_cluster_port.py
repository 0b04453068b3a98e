"""Requests to distributed shared memory: what other CTAs hold, counted in lines and sectors."""

from __future__ import annotations

import numpy as np
import pytest

from harness.simulator.cluster_port import Port, requests

LANES = np.arange(32)[None, :]
HOME = np.array([0])


@pytest.mark.parametrize(
    ("rows", "offsets", "expected"),
    [
        (np.ones((1, 32), int), 4 * LANES, (1, 4)),  # 128 neighbouring bytes
        (np.ones((1, 32), int), LANES // 2 * 272 + LANES % 2 * 4, (16, 16)),  # two words of 16 rows
        (LANES % 8, 24 * LANES, (28, 28)),  # lists of eight CTAs, one of them its own
        (np.zeros((1, 32), int), 4 * LANES, (0, 0)),  # its own memory
        (np.ones((1, 1), int), np.array([[64]]), (1, 1)),  # one address for the whole warp
        (np.ones((1, 32), int), np.full((1, 32), 64), (1, 1)),
        (np.ones((1, 32), int), 16 * LANES, (4, 16)),  # vectors of 16 bytes, one after the other
    ],
)
def test_requests_are_distinct_lines_and_sectors_of_other_ctas(
    rows: np.ndarray, offsets: np.ndarray, expected: tuple[int, int]
) -> None:
    assert np.stack(requests(HOME, rows, offsets, None), 1).tolist() == [list(expected)]


def test_inactive_lanes_send_nothing() -> None:
    active = LANES < 2
    lines, sectors = requests(HOME, np.ones((1, 32), int), 32 * LANES, active)
    assert (lines.tolist(), sectors.tolist()) == ([1], [2])


def test_warps_of_an_sm_take_turns_and_sms_do_not() -> None:
    port = Port(2)
    sms, cycles, times = np.array([0, 0, 1]), np.array([10.0, 10.0, 10.0]), np.array([5.0, 0.0, 5.0])
    assert port.take(sms, cycles, times).tolist() == [20.0, 10.0, 15.0]
    assert port.take(sms[:1], np.array([0.0]), times[:1]).tolist() == [5.0]

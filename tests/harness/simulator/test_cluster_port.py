"""Requests to distributed shared memory: what other CTAs hold, counted in lines and sectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.simulator.cluster_port import Port, lines_of, requests
from harness.simulator.target import target_named
from tests.harness.simulator.raw_ptx import run_ptx

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


@pytest.mark.parametrize(
    ("addresses", "active", "expected"),
    [
        (4 * LANES, None, 1),
        (4 * LANES + 64, None, 1),
        (8 * LANES + 64, None, 2),
        (16 * LANES, None, 4),
        (LANES // 4 * 1536 + LANES % 4 * 8, None, 8),  # an accumulator's rows
        (1536 * LANES, None, 32),
        (1536 * LANES, LANES < 5, 5),
        (1536 * LANES, LANES < 0, 0),
        (np.array([[64]]), None, 1),
    ],
)
def test_lines_of_stores(addresses: np.ndarray, active: np.ndarray | None, expected: int) -> None:
    assert lines_of(addresses, active).tolist() == [expected]


@pytest.mark.parametrize(("stride", "each"), [(4, 1), (8, 2), (128, 32)])
def test_stores_pass_their_sm_line_by_line(stride: int, each: int) -> None:
    """Many of them take as long as their lines do, whichever warps they come from."""
    stores, warps = 64, 8
    body = f"mul.lo.u32 %r4, %r0, {stride}; cvt.u64.u32 %rd5, %r4; add.s64 %rd6, %rd1, %rd5;"
    body += "st.global.b32 [%rd6], %r0;" * stores
    x, y = torch.zeros(1, dtype=torch.int32), torch.zeros(32 * warps * stride // 4, dtype=torch.int32)
    cycles = float(run_ptx(body, x, y, threads=32 * warps)._finished.max())
    a_line = target_named("sm_90a").issue_of("st.global") / 4
    assert cycles == pytest.approx(stores * warps * each * a_line, rel=0.2)

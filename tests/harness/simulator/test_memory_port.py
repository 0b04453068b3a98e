"""Plain accesses to global memory: what they touch, and that they cost what an H200 was measured to take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.provenance import PROJECT_ROOT
from harness.simulator.bandwidth import Bandwidth
from harness.simulator.memory_path import Wave
from harness.simulator.memory_port import MemoryPort, Touched
from harness.simulator.microbench.entries import access_cycles
from harness.simulator.microbench.patterns import GAPS, PATTERNS, PITCH, SMS, Pattern
from harness.simulator.microbench.results import Results
from harness.simulator.target import target_named
from tests.harness.simulator.raw_ptx import run_ptx

LANES = np.arange(32)[None, :]
TARGET = target_named("sm_90a")
PATTERNS_OF, GAPS_OF = (
    Results.read(PROJECT_ROOT / f"results/published/2026-11-29-h200-microbench-{name}/microbench.json")
    for name in ("patterns", "gaps")
)
# Its loads wait for each other: 16 warps have too few bytes under way.
LATENCY_BOUND = Pattern(1, 1)


def port(share_of: int = 1) -> MemoryPort:
    return MemoryPort(TARGET, Wave(share_of, 1), Bandwidth(TARGET.chip["l2_bytes"] / share_of), 1)


@pytest.mark.parametrize(
    ("addresses", "lane_bytes", "active", "expected"),
    [
        (4 * LANES, 4, None, (1, 4, 0)),
        (4 * LANES + 64, 4, None, (1, 4, 0)),  # lines are counted from the first sector
        (4 * LANES + 16, 4, None, (2, 5, 2)),  # the first sector of both is a half
        (16 * LANES, 16, None, (4, 16, 0)),
        (LANES // 4 * PITCH + LANES % 4 * 8, 8, None, (8, 8, 0)),  # an accumulator's rows, in pairs
        (LANES // 4 * PITCH + LANES % 4 * 8, 4, None, (8, 8, 8)),  # and column by column
        (LANES // 4 * PITCH + LANES % 4 * 4, 4, None, (8, 8, 8)),
        (24 * LANES, 4, None, (6, 24, 6)),  # one result of each token
        (24 * LANES, 8, None, (6, 24, 6)),
        (PITCH * LANES, 16, None, (32, 32, 32)),
        (PITCH * LANES, 32, None, (32, 32, 0)),
        (PITCH * LANES, 16, LANES < 5, (5, 5, 5)),
        (PITCH * LANES, 16, LANES < 0, (0, 0, 0)),
        (np.array([[64]]), 4, None, (1, 1, 1)),  # one address for the whole warp
        (0 * LANES + 96, 4, None, (1, 1, 1)),
    ],
)
def test_lines_and_sectors_of_an_instruction(
    addresses: np.ndarray, lane_bytes: int, active: np.ndarray | None, expected: tuple[int, ...]
) -> None:
    two_warps = np.concatenate([addresses + (7 << 40), addresses])
    both = None if active is None else np.concatenate([active, ~active])
    found = Touched.by(two_warps, lane_bytes, both)
    first = [int(each[0]) for each in (found.lines, found.sectors, found.masked)]
    assert tuple(first) == expected
    assert len(found.lines_at) == found.lines.sum()
    if active is None:
        second = [int(each[1]) for each in (found.lines, found.sectors, found.masked)]
        assert second == first


def of_pattern(pattern: Pattern) -> Touched:
    lanes = 32 // pattern.rows
    return Touched.by(LANES // lanes * PITCH + LANES % lanes * pattern.lane_step, pattern.lane_bytes, None)


def measured(op: str, pattern: Pattern, run: str) -> float:
    """Cycles of an SM for each access of a warp."""
    return access_cycles(GAPS_OF if pattern in GAPS else PATTERNS_OF, op, pattern, run)


@pytest.mark.parametrize("pattern", [*PATTERNS, *GAPS], ids=lambda pattern: pattern.name)
def test_stores_cost_what_was_measured(pattern: Pattern) -> None:
    cycles = float(port().store_cycles(of_pattern(pattern))[0])
    issue = TARGET.issue_of("st.global") / 4
    near = 0.02 if pattern in GAPS else 0.2
    assert max(cycles, issue) == pytest.approx(measured("st", pattern, "one_16"), rel=near)
    of_all = cycles * SMS / TARGET.chip["l2_store_sms"]
    assert of_all == pytest.approx(measured("st", pattern, f"own_{SMS}"), rel=0.15)


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p != LATENCY_BOUND], ids=lambda p: p.name)
def test_loads_cost_what_was_measured(pattern: Pattern) -> None:
    touched = of_pattern(pattern)
    assert float(port().load_cycles(touched)[0]) == pytest.approx(
        measured("ld_cg", pattern, "one_16"), rel=0.2
    )
    # The table's L2 is an H100's, which gives 15 % less.
    of_all = float(port(SMS).load(np.zeros(1, int), touched, np.zeros(1))[0])
    assert of_all == pytest.approx(measured("ld_cg", pattern, f"own_{SMS}"), rel=0.25)


def test_what_an_sm_holds_does_not_come_from_the_l2_again() -> None:
    slow = MemoryPort(TARGET, Wave(), Bandwidth(1.0), 2)
    row = Touched.by(4 * LANES, 4, None)
    first, again, other = (
        float(slow.load(np.array([sm]), row, np.array([1000.0 * number]))[0]) - 1000 * number
        for number, sm in enumerate((0, 0, 1))
    )
    assert first == pytest.approx(128)
    assert again == pytest.approx(float(slow.load_cycles(row)[0]))
    assert other == pytest.approx(128)


@pytest.mark.parametrize(("stride", "each"), [(4, 4.0), (8, 2 * (4 + 1.0)), (128, 32 * 2.0)])
def test_stores_pass_their_sm_one_after_the_other(stride: int, each: float) -> None:
    """Many of them take as long as what they touch does, whichever warps they come from."""
    stores, warps = 64, 8
    body = f"mul.lo.u32 %r4, %r0, {stride}; cvt.u64.u32 %rd5, %r4; add.s64 %rd6, %rd1, %rd5;"
    body += "st.global.b32 [%rd6], %r0;" * stores
    x, y = torch.zeros(1, dtype=torch.int32), torch.zeros(32 * warps * stride // 4, dtype=torch.int32)
    cycles = float(run_ptx(body, x, y, threads=32 * warps)._finished.max())
    assert cycles == pytest.approx(stores * warps * each, rel=0.2)

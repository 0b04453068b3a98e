"""The loops over pages against the same in numpy, on tables of random states and numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.simulator.errors import SimulationError
from harness.simulator.operand_reads import OperandReads
from harness.simulator.pages import any_in_flight, note_reads, pages_are, set_pages
from harness.simulator.shared import PAGE_BYTES, PAGE_WORDS

Array = npt.NDArray[Any]
CTAS, PAGES, STATES, PER_CTA = 5, 40, 7, 2
SEEDS = range(8)


def drawn_tiles(random: np.random.Generator, size: int, unit: int) -> tuple[Array, Array]:
    """Up to six tiles that lie within a CTA, at multiples of `unit`; rows come again."""
    count = int(random.integers(1, 7))
    last = (PAGES * PAGE_BYTES - size) // unit
    return random.integers(0, CTAS, count), random.integers(0, last + 1, count) * unit


def pages_of(offset: int, size: int) -> slice:
    return slice(offset // PAGE_BYTES, (offset + size - 1) // PAGE_BYTES + 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("same", [True, False])
def test_states_of_pages(seed: int, same: bool) -> None:
    random = np.random.default_rng(seed)
    state = random.integers(0, STATES, (CTAS, PAGES)).astype(np.uint8)
    rows = random.integers(0, CTAS, 4)
    pages = np.sort(random.integers(0, PAGES, (1 if same else len(rows), 3)))
    found = state[rows[:, None], pages]
    assert pages_are(state, rows, pages, np.isin(np.arange(STATES), found))
    for missing in np.unique(found):
        allowed = np.arange(STATES) != missing
        assert not pages_are(state, rows, pages, allowed)
        assert pages_are(state, rows[:1], pages[:1], allowed) == (missing not in found[0])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [256, 2048])
def test_pages_of_tiles(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    state = random.integers(0, STATES, (CTAS, PAGES)).astype(np.uint8)
    stamps = np.ones((CTAS, PAGES * PAGE_WORDS), np.uint32)
    rows, offsets = drawn_tiles(random, size, PAGE_BYTES)
    drawn, times = state.copy(), np.zeros((CTAS, PAGES), np.int64)
    for row, offset in zip(rows, offsets, strict=True):
        times[row, pages_of(offset, size)] += 1
    inside, twice = times > 0, (times > 1).any()
    stamped = random.integers(0, 2, STATES).astype(np.bool_)
    stamped[6] = False  # a page of two tiles comes twice
    cleared = np.repeat(inside & stamped[state], PAGE_WORDS, 1)
    wanted = np.where(inside, np.uint8(6), state)
    before = (state[rows[0]] == 6)[pages_of(offsets[0], size)]
    found = set_pages(state, stamps, rows, offsets, size, stamped, 6)
    assert (found is None) == (not twice and not (inside & (drawn == 6)).any())
    if before.any():
        assert found == rows[0] * PAGES + offsets[0] // PAGE_BYTES + np.argmax(before)
    assert np.array_equal(state, wanted)
    assert np.array_equal(stamps == 0, cleared)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [4, 16, 256, 320, 2048])
def test_pages_in_flight(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    last = random.integers(0, 4, (CTAS * PER_CTA, PAGES)).astype(np.int32)
    retired = random.integers(2, 4, CTAS * PER_CTA)
    rows, offsets = drawn_tiles(random, size, min(size & -size, 16))
    late = [
        (last[group, pages_of(offset, size)] > retired[group]).any()
        for row, offset in zip(rows, offsets, strict=True)
        for group in range(row * PER_CTA, (row + 1) * PER_CTA)
    ]
    assert any_in_flight(last, retired, PER_CTA, rows, offsets, size) == any(late)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("same", [True, False])
def test_reads_are_noted(seed: int, same: bool) -> None:
    random = np.random.default_rng(seed)
    last = np.zeros((CTAS * PER_CTA, PAGES), np.int32)
    committed = random.integers(1, 99, CTAS * PER_CTA)
    groups = random.permutation(CTAS * PER_CTA)[:4]
    pages = random.integers(0, PAGES, (1 if same else len(groups), 3))
    wanted = last.copy()
    wanted[groups[:, None], pages] = committed[groups, None] + 1
    note_reads(last, groups, pages, committed)
    assert np.array_equal(last, wanted)


def test_a_tile_ends_in_a_page_that_is_still_read() -> None:
    """One of 256 bytes that begins within a page touches two: once only the first of them was looked at."""
    reads = OperandReads(1, 4, PAGES * PAGE_BYTES)
    reads.note(np.array([0]), np.array([[9]]))
    place = np.array([0]), np.array([8 * PAGE_BYTES])
    reads.check_write(*place, PAGE_BYTES, "a tile load")
    with pytest.raises(SimulationError, match="still reads"):
        reads.check_write(place[0], place[1] + PAGE_BYTES // 2, PAGE_BYTES, "a tile load")

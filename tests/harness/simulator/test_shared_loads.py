"""Shared memory that a tile load under way writes may not be read by tensor cores or other copies."""

from __future__ import annotations

import numpy as np
import pytest

from harness.simulator.errors import SimulationError
from harness.simulator.shared import SharedMemory

ROWS = np.array([1])
OFFSETS = np.array([384])
SIZE = 640


def words(first_byte: int, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return first_byte // 4 + np.arange(count)[None]


@pytest.mark.parametrize("first_byte", [384, 1020])
def test_a_read_of_what_is_loading(first_byte: int) -> None:
    shared = SharedMemory(2, 4096, 32)
    shared.begin_load(ROWS, OFFSETS, SIZE)
    with pytest.raises(SimulationError, match=f"at {first_byte:#x}, which a tile load under way writes"):
        shared.check_async_read(ROWS, words(first_byte, 1))
    shared.end_load(ROWS, OFFSETS, SIZE)
    shared.mark_loaded(ROWS, OFFSETS, SIZE, 1)
    shared.check_async_read(ROWS, words(first_byte, 1))


@pytest.mark.parametrize(("row", "first_byte", "count"), [(0, 384, 160), (1, 256, 32), (1, 1024, 64)])
def test_a_read_beside_what_is_loading(row: int, first_byte: int, count: int) -> None:
    shared = SharedMemory(2, 4096, 32)
    shared.begin_load(ROWS, OFFSETS, SIZE)
    shared.check_not_loading(np.array([row]), words(first_byte, count))


def test_two_loads_of_one_place() -> None:
    shared = SharedMemory(2, 4096, 32)
    shared.begin_load(ROWS.repeat(2), OFFSETS.repeat(2), SIZE)
    shared.end_load(ROWS, OFFSETS, SIZE)
    with pytest.raises(SimulationError, match="under way"):
        shared.check_not_loading(ROWS, words(640, 8))

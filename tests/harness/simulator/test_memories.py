"""Shared, global and local memory: values against plain numpy, and everything that may not be accessed."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from harness.simulator.errors import SimulationError
from harness.simulator.global_memory import GlobalMemory
from harness.simulator.local_memory import LocalMemory
from harness.simulator.machine_constants import LOCAL_BASE
from harness.simulator.operand_reads import OperandReads
from harness.simulator.shared import SharedMemory

ROWS, SIZE, THREADS = 3, 8192, 64
ROW = np.arange(ROWS)


@pytest.fixture
def shared() -> SharedMemory:
    return SharedMemory(ROWS, SIZE, THREADS)


def words_of(shared: SharedMemory, row: int, offset: int, count: int) -> np.ndarray:
    return row * (shared.size // 4) + offset // 4 + np.arange(count)


@pytest.mark.parametrize(
    ("offset", "size", "says"),
    [
        (1023, 1, "outside the CTA's own bytes"),
        (SIZE, 4, "outside the CTA's own bytes"),
        (SIZE - 4, 8, "misaligned"),
        (2049, 2, "misaligned"),
    ],
)
def test_shared_addresses(shared: SharedMemory, offset: int, size: int, says: str) -> None:
    good = np.array([1024, SIZE - size - SIZE % size, offset])
    with pytest.raises(SimulationError, match=says) as caught:
        shared.index(ROW, good, size, None)
    assert caught.value.wrong.tolist() == [False, False, True]
    active = np.array([True, True, False])
    assert shared.index(ROW, good, size, active)[1] == shared.size + good[1]


def test_a_dead_cta_has_no_memory(shared: SharedMemory) -> None:
    shared.alive[1] = False
    with pytest.raises(SimulationError, match="a CTA that has exited") as caught:
        shared.index(ROW, np.full(3, 2048), 4, None)
    assert caught.value.wrong.tolist() == [False, True, False]


def test_words_are_readable_once_written(shared: SharedMemory) -> None:
    words = words_of(shared, 1, 2048, 8)
    with pytest.raises(SimulationError, match="at 0x800, which nobody wrote"):
        shared.check_initialized(words, None)
    shared.mark(words[:7], 3, step=5)
    with pytest.raises(SimulationError, match="at 0x81c, which nobody wrote") as caught:
        shared.check_initialized(words, None)
    assert caught.value.wrong.tolist() == [False] * 7 + [True]
    shared.mark(words[7:], 3, step=6)
    shared.check_initialized(words, None)


@pytest.mark.parametrize("size", [128, 256, 1024])
def test_a_load_fills_memory_when_it_arrives(shared: SharedMemory, size: int) -> None:
    rows, offsets = np.array([0, 2]), np.array([2048, 4096])
    words = words_of(shared, 2, 4096, size // 4)
    shared.begin_load(rows, offsets, size)
    with pytest.raises(SimulationError, match="still under way" if size >= 256 else "nobody wrote"):
        shared.check_initialized(words, None)
    shared.mark_loaded(rows, offsets, size, step=4)
    shared.check_initialized(words, None)
    shared.check_async_read(np.array([2]), words[None] - 2 * shared.size // 4)
    with pytest.raises(SimulationError, match="which nobody wrote"):
        shared.check_initialized(words + size // 4, None)


def test_nothing_may_write_where_a_load_is_under_way(shared: SharedMemory) -> None:
    shared.begin_load(ROW[:1], np.array([2048]), 512)
    with pytest.raises(SimulationError, match="store to shared memory at 0x900 while a tile load fills it"):
        shared.mark(words_of(shared, 0, 0x900, 1), 0, step=3)
    with pytest.raises(SimulationError, match="two tile loads under way to shared memory at 0x900"):
        shared.begin_load(ROW[:1], np.array([0x900]), 256)
    shared.mark(words_of(shared, 0, 0xA00, 1), 0, step=3)


def test_nor_may_two_loads_of_one_instruction_overlap(shared: SharedMemory) -> None:
    shared.begin_load(np.array([1, 2]), np.array([0x800, 0x900]), 512)
    with pytest.raises(SimulationError, match="two tile loads under way to shared memory at 0x900"):
        shared.begin_load(np.array([0, 0]), np.array([0x800, 0x900]), 512)


def test_proxy_fences_cover_what_was_before_them(shared: SharedMemory) -> None:
    words = words_of(shared, 0, 2048, 4)
    read = np.array([0]), words[None]
    shared.mark(words, 7, step=10)
    for threads, step, covered in ((8, 11, False), (7, 9, False), (7, 12, True)):
        shared.fence(np.array([0]), np.array([threads]), step)
        if covered:
            shared.check_async_read(*read)
        else:
            with pytest.raises(SimulationError, match=r"that thread 7 wrote without a fence\.proxy\.async"):
                shared.check_async_read(*read)


def test_a_fence_behind_a_barrier_covers_the_whole_cta(shared: SharedMemory) -> None:
    words = words_of(shared, 0, 2048, 4)
    shared.mark(words, 7, step=10)
    shared.barrier_at[0] = 11
    shared.fence(np.array([0]), np.array([33]), 12)
    shared.check_async_read(np.array([0]), words[None])
    shared.mark(words, 7, step=13)
    with pytest.raises(SimulationError, match="without a fence"):
        shared.check_async_read(np.array([0]), words[None])


def test_a_load_over_stores_needs_no_fence(shared: SharedMemory) -> None:
    words = words_of(shared, 0, 2048, 64)
    shared.mark(words, 7, step=10)
    shared.begin_load(ROW[:1], np.array([2048]), 256)
    shared.mark_loaded(ROW[:1], np.array([2048]), 256, step=12)
    shared.check_async_read(np.array([0]), words[None])


@pytest.fixture
def tensors() -> tuple[GlobalMemory, list[np.ndarray]]:
    buffer = np.random.default_rng(0).integers(0, 256, 1024, np.uint8)
    arrays = [buffer[first : first + size] for first, size in ((128, 64), (256, 128), (512, 192))]
    memory = GlobalMemory()
    for number, array in enumerate(arrays):
        memory.register(f"argument {number}", array.ctypes.data, array.size)
    return memory, arrays


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_global_loads_and_stores(tensors: tuple[GlobalMemory, list[np.ndarray]], size: int) -> None:
    memory, arrays = tensors
    random = np.random.default_rng(size)
    addresses = np.concatenate(
        [array.ctypes.data + random.permutation(array.size // size)[:7] * size for array in arrays]
    ).astype(np.uint64)
    random.shuffle(addresses)
    expected = [int.from_bytes(ctypes.string_at(int(address), size), "little") for address in addresses]
    assert memory.load(addresses, size).tolist() == expected
    values = random.integers(0, 2 ** (8 * size), addresses.size, np.uint64, endpoint=False).astype(f"u{size}")
    memory.store(addresses, values, size)
    assert memory.load(addresses, size).tolist() == values.tolist()
    for address, value in zip(addresses, values, strict=True):
        assert int.from_bytes(ctypes.string_at(int(address), size), "little") == value


def test_global_addresses_outside(tensors: tuple[GlobalMemory, list[np.ndarray]]) -> None:
    memory, arrays = tensors
    inside = arrays[1].ctypes.data
    addresses = np.array([inside, inside + arrays[1].size - 2], np.uint64)
    with pytest.raises(SimulationError, match="is not aligned to 4 bytes") as caught:
        memory.load(addresses, 4)
    assert caught.value.wrong.tolist() == [False, True]
    behind = np.array([inside, arrays[2].ctypes.data + arrays[2].size], np.uint64)
    with pytest.raises(SimulationError, match=r"the nearest is 'argument 2', 1 bytes away") as caught:
        memory.load(behind, 4)
    assert caught.value.wrong.tolist() == [False, True]
    with pytest.raises(SimulationError, match="no global memory is registered"):
        GlobalMemory().load(np.array([8], np.uint64), 8)
    with pytest.raises(SimulationError, match="outside every tensor"):
        memory.array(inside, arrays[1].size + 1)


def test_local_memory_is_each_threads_own() -> None:
    memory = LocalMemory(4, 16)
    warps, active = np.array([1, 3]), np.ones((2, 32), bool)
    active[1, :5] = False
    values = np.arange(64, dtype=np.uint32).reshape(2, 32)
    addresses = np.full((2, 32), LOCAL_BASE + 8, np.uint64)
    memory.store(warps, active, addresses, values, 4)
    memory.store(np.array([0]), active[:1], addresses[:1], values[:1] + 100, 4)
    assert np.array_equal(memory.load(warps, active, addresses, 4), np.where(active, values, 0))
    with pytest.raises(SimulationError, match="read of local memory nobody wrote, at 0x8") as caught:
        memory.load(warps, np.ones((2, 32), bool), addresses, 4)
    assert np.array_equal(caught.value.wrong, ~active)
    for offset, says in ((16, "outside the thread's 16 bytes"), (6, "misaligned")):
        with pytest.raises(SimulationError, match=says):
            memory.store(warps, active, np.full((2, 32), LOCAL_BASE + offset, np.uint64), values, 4)


def test_operands_in_flight_are_not_overwritten() -> None:
    """Two CTAs of two warpgroups (and a warp besides): group 3 is the second warpgroup of CTA 1."""
    reads = OperandReads(2, 8, SIZE)
    place = np.array([1]), np.array([2048])
    reads.check_write(*place, 256, "a store")
    group = np.array([3])
    for pages in ([8, 9], [10]):
        reads.note(group, np.array([pages]))
        reads.commit(group)
    with pytest.raises(
        SimulationError, match="a store of 256 bytes to shared memory at 0x800, which a wgmma of"
    ):
        reads.check_write(*place, 256, "a store")
    reads.check_write(np.array([0]), np.array([2048]), 256, "a store")
    reads.check_write(np.array([1]), np.array([3072]), 256, "a store")
    reads.retire(group, 1)
    reads.check_write(*place, 512, "a store")
    with pytest.raises(SimulationError, match="warpgroup 1 still reads"):
        reads.check_write(*place, 513, "a store")
    reads.retire(group, 0)
    reads.check_write(*place, 4096, "a store")

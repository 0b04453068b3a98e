"""tcgen05.ld, .st and .cp against the formulas of the ISA's figures, on words that name their place."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.tcgen05_copy import copy_to_tensor_memory
from harness.simulator.tcgen05_transfer import Transfer
from harness.simulator.tensor_memory import TensorMemory
from tests.harness.simulator.operand_writer import Layout

CTAS = 3


def named_memory() -> TensorMemory:
    """Every word is CTA * 2^20 + lane * 2^10 + column, plus 2^31 in every other column."""
    memory = TensorMemory.empty(CTAS)
    cta, lane, column = np.indices(memory.data.shape, dtype=np.uint32)
    memory.data[:] = cta << 20 | lane << 10 | column | (column & 1) << 31
    memory.written[:] = True
    return memory


def place(shape: str, register: int, thread: int) -> tuple[int, int]:
    """(lane, column) of a register inside the access, by the figures "Matrix fragments for shape"."""
    if shape == "32x32b":
        return thread, register
    if shape == "16x64b":
        return thread // 4 + (8 if thread % 2 else 0), 2 * register + thread // 2 % 2
    if shape == "16x128b":
        return thread // 4 + 8 * (register % 2), register // 2 * 4 + thread % 4
    assert shape == "16x256b"
    return thread // 4 + (8 if register % 4 >= 2 else 0), register // 4 * 8 + thread % 4 * 2 + register % 2


REPEATS = {"32x32b": (1, 2, 32, 128), "16x64b": (1, 4, 128), "16x128b": (1, 8, 64), "16x256b": (1, 2, 32)}
CASES = [(shape, repeat) for shape, repeats in REPEATS.items() for repeat in repeats]


@pytest.mark.parametrize("same_column", [True, False])
@pytest.mark.parametrize(("shape", "repeat"), CASES)
def test_load_and_store(shape: str, repeat: int, same_column: bool) -> None:
    memory = named_memory()
    transfer = Transfer(shape, repeat)
    cta, quadrant = np.array([0, 2, 1, 1]), np.array([3, 0, 1, 2])
    half = np.zeros(4, int) if shape == "32x32b" else np.array([16, 0, 16, 0])
    column = np.full(4, 64) if same_column else np.array([0, 7, 7, 200])
    address = (quadrant * 32 + half) << 16 | column
    got = transfer.load(memory, cta, quadrant, address)
    expected = np.zeros((4, transfer.registers, 32), np.uint32)
    for warp in range(4):
        for register in range(transfer.registers):
            for thread in range(32):
                lane, offset = place(shape, register, thread)
                lane += quadrant[warp] * 32 + half[warp]
                expected[warp, register, thread] = memory.data[cta[warp], lane, column[warp] + offset]
    assert np.array_equal(got, expected)
    other = TensorMemory.empty(CTAS)
    transfer.store(other, cta, quadrant, address, got)
    assert int(other.written.sum()) == got.size
    assert np.array_equal(other.data[other.written], memory.data[other.written])


@pytest.mark.parametrize("repeat", [1, 16, 128])
def test_load_of_two_halves(repeat: int) -> None:
    """Threads 0 to 15 hold lanes 0 to 15 at the address, threads 16 to 31 the same lanes `half_split` on."""
    memory = named_memory()
    transfer = Transfer("16x32bx2", repeat, half_split=200)
    got = transfer.load(memory, np.array([1]), np.array([2]), np.array([(64 + 16) << 16 | 3]))
    for thread in range(32):
        column = 3 + (200 if thread >= 16 else 0)
        assert np.array_equal(got[0, :, thread], memory.data[1, 80 + thread % 16, column : column + repeat])
    other = TensorMemory.empty(CTAS)
    transfer.store(other, np.array([1]), np.array([2]), np.array([(64 + 16) << 16 | 3]), got)
    assert int(other.written.sum()) == got.size
    assert np.array_equal(other.data[other.written], memory.data[other.written])


@pytest.mark.parametrize("shape", REPEATS)
def test_pack_and_unpack(shape: str) -> None:
    """Packed, the fragment's columns are pairs of tensor-memory columns, of which it keeps the low halves."""
    memory = named_memory()
    transfer = Transfer(shape, 2, packed=True)
    arguments = np.array([1]), np.array([1]), np.array([32 << 16 | 8])
    got = transfer.load(memory, *arguments)
    for register in range(transfer.registers):
        for thread in range(32):
            lane, column = place(shape, register, thread)
            low, high = memory.data[1, 32 + lane, 8 + 2 * column : 10 + 2 * column] & 0xFFFF
            assert got[0, register, thread] == low | high << 16
    other = TensorMemory.empty(CTAS)
    transfer.store(other, *arguments, got)
    assert np.array_equal(other.data[other.written], memory.data[other.written] & 0xFFFF)
    assert int(other.written.sum()) == 2 * got.size


def test_a_warp_reaches_its_own_lanes_only() -> None:
    with pytest.raises(SimulationError, match="a warp of lanes 32 to 63 accesses 32 lanes from lane 0"):
        Transfer("32x32b", 1).load(named_memory(), np.array([0]), np.array([1]), np.array([0]))
    with pytest.raises(SimulationError, match="accesses 16 lanes from lane 8"):
        Transfer("16x64b", 1).load(named_memory(), np.array([0]), np.array([0]), np.array([8 << 16]))


def test_reading_what_nobody_wrote() -> None:
    memory = named_memory()
    memory.written[1, 40, 9] = False
    with pytest.raises(SimulationError, match="nobody wrote tensor memory of CTA 1, lane 40, column 9"):
        Transfer("32x32b", 16).load(memory, np.array([1]), np.array([1]), np.array([32 << 16]))


def test_columns_beyond_tensor_memory() -> None:
    with pytest.raises(SimulationError, match="columns 500 to 515 of 512"):
        Transfer("32x32b", 16).load(named_memory(), np.array([0]), np.array([0]), np.array([500]))


@pytest.mark.parametrize(
    ("shape", "repeat"), [("16x256b", 64), ("16x128b", 128), ("32x32b", 3), ("8x32b", 1)]
)
def test_transfers_that_do_not_exist(shape: str, repeat: int) -> None:
    with pytest.raises(SimulationError, match=rf"tcgen05\.ld/st \.{shape}"):
        Transfer(shape, repeat)


COPIES = {
    "128x256b": lambda row: [row],
    "128x128b": lambda row: [row],
    "64x128b.warpx2::02_13": lambda row: [row, row + 64],
    "64x128b.warpx2::01_23": lambda row: [row % 32 + 64 * (row // 32), row % 32 + 64 * (row // 32) + 32],
    "32x128b.warpx4": lambda row: [row, row + 32, row + 64, row + 96],
}


def random_bytes(rows: int, count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, count), dtype=np.uint8)


@pytest.mark.parametrize("gaps", [[], [0], [0, 0], [7]], ids=["one", "two", "three", "apart"])
@pytest.mark.parametrize("swizzle", ["none", "32B"])
@pytest.mark.parametrize("shape", COPIES)
def test_copies(shape: str, swizzle: str, gaps: list[int]) -> None:
    """One, and several that are executed as one: side by side, or with columns between them."""
    rows, row_bytes = (int(part) for part in shape.split("b")[0].split("x"))
    row_bytes //= 8
    width = 16 if swizzle == "none" else 32
    copies = 1 + len(gaps)
    layouts = [
        Layout(swizzle, False, 1024 + 4096 * copy, leading=rows * 16, stride=8 * width)
        for copy in range(copies)
    ]
    shared = np.zeros((CTAS, 16384), np.uint8)
    sources = [
        [random_bytes(rows, row_bytes, cta * 8 + copy) for copy in range(copies)] for cta in range(CTAS)
    ]
    for cta in range(CTAS):
        for layout, source in zip(layouts, sources[cta], strict=True):
            layout.write(shared[cta], source)
    memory = TensorMemory.empty(CTAS)
    count = row_bytes // 4
    ctas, columns = np.array([2, 0]), np.array([5, 100])[:, None] + np.cumsum([0, *(g + count for g in gaps)])
    descriptors = np.array([[layout.tcgen05_descriptor() for layout in layouts]] * 2, np.uint64)
    copy_to_tensor_memory(shape, shared, memory, ctas, columns, descriptors)
    for cta, its in zip(ctas, columns, strict=True):
        for source, column in zip(sources[cta], its, strict=True):
            words = source.view("<u4")
            for row in range(rows):
                for lane in COPIES[shape](row):
                    assert np.array_equal(memory.data[cta, lane, column : column + count], words[row])
    assert int(memory.written.sum()) == 2 * 128 * count * copies


@pytest.mark.parametrize("shape", ["4x256b", "32x128b", "128x128b.b8x16.b4x16_p64"])
def test_copies_that_are_not_simulated(shape: str) -> None:
    with pytest.raises(SimulationError, match="is not simulated"):
        copy_to_tensor_memory(
            shape,
            np.zeros((1, 16), np.uint8),
            TensorMemory.empty(1),
            np.array([0]),
            np.array([[0]]),
            np.array([[0]]),
        )


def test_copy_to_a_lane() -> None:
    with pytest.raises(SimulationError, match=r"tcgen05\.cp to lane 32, not 0"):
        copy_to_tensor_memory(
            "32x128b.warpx4",
            np.zeros((1, 1024), np.uint8),
            TensorMemory.empty(1),
            np.array([0]),
            np.array([[32 << 16]]),
            np.array([[1 << 46]], np.uint64),
        )

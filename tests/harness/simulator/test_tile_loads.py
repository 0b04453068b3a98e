"""Planned tile loads, and the loops below them, against the copies and the decoding that they replace."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from harness.simulator import tile_loads, tma_copy
from harness.simulator.errors import SimulationError
from harness.simulator.global_memory import GlobalMemory
from harness.simulator.machine_constants import PARAM_BASE
from harness.simulator.moves import bf16_reader
from harness.simulator.number_formats import BF16, decode
from harness.simulator.shared import SharedMemory
from harness.simulator.tensor_map import DataType, Swizzle, TensorMap
from harness.simulator.tensors_used import Tensor, each
from harness.simulator.tile_loads import MOST_PLANS, TileLoads
from harness.simulator.tma_box import shared_bytes

ROWS = 12
SHARED_BYTES = 64 * 1024
BOX_ROWS = 24


class Matrices:
    """Matrices of random bytes, one allocation each, of as many rows as `extents` says."""

    def __init__(
        self,
        columns: int,
        extents: list[int],
        data_type: DataType = DataType.BFLOAT16,
        inner: int = 64,
        swizzle: Swizzle = Swizzle.BYTES_128,
    ) -> None:
        generator = np.random.default_rng(columns)
        row_bytes = -(-columns * data_type.global_bits // 128) * 16
        self.data = [generator.integers(0, 256, (rows, row_bytes), np.uint8) for rows in extents]
        self.tensors = []
        for number, data in enumerate(self.data):
            memory = GlobalMemory()
            memory.register("a matrix", data.ctypes.data, data.size)
            m = TensorMap(
                data.ctypes.data, data_type, (columns, len(data)), (row_bytes,), (inner, BOX_ROWS), (1, 1),
                swizzle=swizzle,
            )  # fmt: skip
            self.tensors.append(Tensor(PARAM_BASE + 64 * number, m, memory, np.arange(3)))


def compared(
    loads: TileLoads, tensors: list[Tensor], corner: np.ndarray, offsets: np.ndarray, fan: int = 1
) -> None:
    """Load by plan and by `tma_copy.load`: each tile to `fan` CTAs, all bytes of shared memory compared."""
    got, wanted = (SharedMemory(ROWS, SHARED_BYTES, 128) for _ in range(2))
    # A column of another array, as `np.nonzero` gives a multicast's: these were once read as if contiguous.
    issue = np.stack([np.repeat(np.arange(len(corner)), fan), np.arange(fan * len(corner))], 1)[:, 0]
    rows = np.arange(len(issue)) % ROWS
    loads.load(tensors, corner, offsets, got, issue, rows)
    data = np.concatenate(
        [tma_copy.load(one.map, one.memory, corner[mine], offsets[mine]) for one, mine in each(tensors)]
    )
    size = shared_bytes(tensors[0].map)
    for tile, row, offset in zip(data[issue], rows, offsets[issue], strict=True):
        wanted.bytes[row, offset : offset + size] = tile
    np.testing.assert_array_equal(got.bytes, wanted.bytes)


def corners(first: int, rows: list[int]) -> np.ndarray:
    return np.array([(first, row) for row in rows])


@pytest.mark.parametrize("swizzle", [Swizzle.NONE, Swizzle.BYTES_64, Swizzle.BYTES_128])
@pytest.mark.parametrize(
    ("data_type", "columns"),
    [
        (DataType.BFLOAT16, 512),
        (DataType.BFLOAT16, 324),
        (DataType.UINT8, 777),
        (DataType.PACKED_16U4_ALIGN8B, 1024),
    ],
)
@pytest.mark.parametrize("fan", [1, 2])
def test_the_turns_of_a_loop_load_what_single_copies_do(
    swizzle: Swizzle, data_type: DataType, columns: int, fan: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tensors of several heights, with tails, boxes beyond the end, and all phases of the swizzle."""
    inner = (64 if swizzle is Swizzle.BYTES_64 else 128) * 8 // data_type.shared_bits
    matrices = Matrices(columns, [70, 24, 1], data_type, inner, swizzle)
    loads = TileLoads()
    offsets = 1024 + 128 * np.array([0, 0, 64, 3, 64, 0, 5, 128, 0])
    offsets = np.where(np.arange(9) % 2, offsets, offsets + 8 * 1024)
    rows = [0, 24, 48, 0, 1, 24, 0, 24, -24]
    turns = range(0, columns - inner + 1, inner)
    assert len(turns) > 1
    for first in turns:
        compared(loads, matrices.tensors, corners(first, rows), offsets, fan)
    assert len(loads._plans) == 1
    assert None not in loads._plans.values()
    # Where a plan is, nothing asks for single copies.
    monkeypatch.setattr(tma_copy, "load", None)
    shared = SharedMemory(ROWS, SHARED_BYTES, 128)
    loads.load(matrices.tensors, corners(0, rows), offsets, shared, np.arange(9), np.arange(9))


def test_boxes_that_the_first_dimension_cuts_are_loaded_all_the_same() -> None:
    matrices = Matrices(200, [70])
    loads = TileLoads()
    for first in (0, 64, 128, 192, 256, -64, 8):
        compared(loads, matrices.tensors, corners(first, [0, 24, 60]), np.array([1024, 5120, 9216]))


def test_each_issue_may_begin_somewhere_else() -> None:
    """CTAs of a K split."""
    matrices = Matrices(512, [70])
    loads = TileLoads()
    for first in (0, 64):
        corner = np.array([(first, 0), (first + 128, 24), (first + 256, 60)])
        compared(loads, matrices.tensors, corner, np.array([1024, 5120, 9216]))
    assert len(loads._plans) == 1


def test_no_more_plans_are_kept_than_loops_need() -> None:
    """Of rows that are others at each turn."""
    matrices = Matrices(64, [200])
    loads = TileLoads()
    for row in range(2 * MOST_PLANS):
        compared(loads, matrices.tensors, corners(0, [row, row + 1, 0]), np.array([1024, 5120, 9216]))
    assert len(loads._plans) == MOST_PLANS


def test_a_map_that_leaves_its_memory_is_refused_at_the_turn_that_does() -> None:
    (tensor,) = Matrices(512, [48]).tensors
    longer = replace(tensor, map=replace(tensor.map, extents=(512, 49)))
    wider = replace(tensor, map=replace(tensor.map, extents=(576, 48)))
    loads, shared = TileLoads(), SharedMemory(ROWS, SHARED_BYTES, 128)
    offsets, some = np.array([1024, 5120, 9216]), np.arange(3)
    with pytest.raises(SimulationError, match="outside every tensor"):
        loads.load([longer], corners(0, [0, 24, 48]), offsets, shared, some, some)
    for first in range(0, 512, 64):
        loads.load([wider], corners(first, [0, 0, 24]), offsets, shared, some, some)
    with pytest.raises(SimulationError, match="outside every tensor"):
        loads.load([wider], corners(512, [0, 0, 24]), offsets, shared, some, some)


def test_what_a_plan_cannot_do_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN beyond the edges, gaps, and maps in memory, which may change, are left to single copies."""
    (tensor,) = Matrices(512, [48]).tensors
    filled = replace(tensor, map=replace(tensor.map, nan_fill=True))
    in_memory = replace(tensor, address=tensor.map.address)
    asked = []
    monkeypatch.setattr(
        tile_loads, "tma_copy", SimpleNamespace(load=lambda *args: asked.append(args) or tma_copy.load(*args))
    )
    for one in (filled, in_memory):
        compared(TileLoads(), [one], corners(0, [0, 24, 40]), np.array([1024, 5120, 9216]))
    assert len(asked) == 2


@pytest.mark.parametrize("per_group", [False, True])
def test_bf16_is_widened_to_the_bit(per_group: bool) -> None:
    """NaN payloads, infinities and subnormals included; rows as a stride of other arrays gives them."""
    generator = np.random.default_rng(3)
    shared = generator.integers(0, 256, (7, 4096), np.uint8)
    rows = np.repeat(np.array([5, 0, 6]), 4)[::4]
    chunks = generator.integers(0, 4096 // 16, (3 if per_group else 1, 16, 4))
    picked = shared.reshape(7, -1, 16)[rows[:, None, None], chunks].reshape(3, 16, 64)
    wanted = decode(picked.view(np.uint16), BF16)
    read = bf16_reader(shared, rows, chunks)
    for some in (slice(0, 1), slice(1, 5), slice(0, 3)):
        np.testing.assert_array_equal(read(some).view(np.uint32), wanted[some].view(np.uint32))

"""`tcgen05.cp`: shared memory to tensor memory.

Source: PTX ISA "tcgen05.cp"; where multicast rows go as in CUTLASS's copy_traits_sm100.hpp (UTCCP). The
source is a K-major matrix of the descriptor, 16 bytes of a row filling four columns of a lane. With
`.cta_group::2` each CTA of the pair copies from its own shared memory.

Not simulated: `.4x256b`, whose source layout the ISA draws but does not state, and decompression
(`.b8x16`), whose bit positions are likewise only drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.matrix_descriptor import CHUNK, Generation, IndexArray, chunks_k_major
from harness.simulator.operand import SharedArray, by_descriptors, gather_chunks
from harness.simulator.tensor_memory import TensorMemory, are_adjacent, column_of, lane_of


@dataclass(frozen=True)
class CopyShape:
    """`rows` of `row_bytes`; row r goes to every lane in `lanes[r]`."""

    rows: int
    row_bytes: int
    lanes: tuple[tuple[int, ...], ...]


def _shape(rows: int, row_bytes: int, copies: list[range]) -> CopyShape:
    """A shape whose rows go to each of the lane ranges `copies`."""
    return CopyShape(rows, row_bytes, tuple(zip(*copies, strict=True)))


SHAPES = {
    "128x256b": _shape(128, 32, [range(128)]),
    "128x128b": _shape(128, 16, [range(128)]),
    "64x128b.warpx2::02_13": _shape(64, 16, [range(64), range(64, 128)]),
    "64x128b.warpx2::01_23": CopyShape(
        64, 16, tuple((lane, lane + 32) for lane in (*range(32), *range(64, 96)))
    ),
    "32x128b.warpx4": _shape(32, 16, [range(start, start + 32) for start in (0, 32, 64, 96)]),
}


def copy_to_tensor_memory(
    shape_name: str,
    shared: SharedArray,
    memory: TensorMemory,
    cta: NDArray[Any],
    address: NDArray[Any],
    descriptors: NDArray[Any],
) -> None:
    """S times `tcgen05.cp` of `shape_name` (with its multicast qualifier) in each CTA of `cta` [G].

    `address` uint32 [G, S] in tensor memory, `descriptors` uint64 [G, S] of shared memory uint8 [C, bytes].
    """
    if shape_name not in SHAPES:
        raise SimulationError(f"tcgen05.cp .{shape_name} is not simulated")
    shape = SHAPES[shape_name]
    if lane_of(address).any():
        raise SimulationError(f"tcgen05.cp to lane {lane_of(address).max()}, not 0")
    (chunks,) = by_descriptors(descriptors, partial(_all_chunks, shape))
    data = gather_chunks(shared, cta, chunks)
    words = data.reshape(len(cta), -1, shape.rows, shape.row_bytes).view(np.uint32)
    lanes, rows = _targets(shape)
    columns, width = column_of(address), words.shape[3]
    if are_adjacent(columns, width):
        side_by_side = words[:, :, rows].swapaxes(1, 2).reshape(len(cta), len(lanes), -1)
        memory.write(cta, lanes, columns[:, 0], side_by_side)
        return
    for step in range(words.shape[1]):
        memory.write(cta, lanes, columns[:, step], words[:, step][:, rows])


@cache
def _targets(shape: CopyShape) -> tuple[IndexArray, IndexArray]:
    """The lanes that a copy writes, ascending, and the row that goes to each."""
    pairs = sorted((lane, row) for row, lanes in enumerate(shape.lanes) for lane in lanes)
    lanes, rows = np.array(pairs, np.intp).T
    return lanes, rows


def _all_chunks(shape: CopyShape, descriptors: tuple[int, ...]) -> tuple[IndexArray]:
    """The chunks [1, S * rows, chunks of a row] of S copies."""
    return (np.concatenate([chunk_indices(shape, one) for one in descriptors])[None],)


def chunk_indices(shape: CopyShape, descriptor: int) -> IndexArray:
    """16-byte chunks of shared memory that the copy reads: [rows, chunks of a row]."""
    return chunks_k_major(descriptor, Generation.TCGEN05, shape.rows, shape.row_bytes // CHUNK)

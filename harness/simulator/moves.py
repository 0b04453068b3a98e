"""The loops of `moves.c` on numpy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from harness.simulator import c_library
from harness.simulator.c_arrays import address, indices

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Boxes:
    """Boxes cut into units of `unit_bytes`, in the order in which they lie in shared memory.

    Unit u of issue i's comes from `offsets[box[i], u]` bytes behind the box's beginning; where
    `copied[mask[i], u]` is false it is 0 instead, unless `mask[i]` is -1. All arrays are contiguous.
    """

    unit_bytes: int
    box: Int64s
    offsets: Int64s
    mask: Int64s
    copied: npt.NDArray[np.bool_]


@cache
def load_moves() -> ctypes.CDLL:
    """The library; raises `ToolchainError` when it cannot be built or loaded."""
    library = c_library.load("moves")
    number, array = ctypes.c_int64, ctypes.c_void_p
    library.widen_bf16.argtypes = (array, number, number, array, array, number, number, array)
    library.load_tiles.argtypes = (
        number, array, array, array, number, number, array, array, array, array
    )  # fmt: skip
    library.widen_bf16.restype = library.load_tiles.restype = None
    return library


def bf16_reader(
    shared: npt.NDArray[np.uint8], rows: Int64s, chunks: Int64s
) -> Callable[[slice], npt.NDArray[np.float32]]:
    """What gives, for some of CTAs `rows` [G], the bf16 in their 16-byte chunks `chunks` [1 or G, r, c].

    As float32 [n, r, 8 c], which the next call overwrites. `shared` [CTAs, bytes] is contiguous, and all
    chunks are known to lie within a CTA's bytes.
    """
    rows, chunks = indices(rows), indices(chunks)
    widen = load_moves().widen_bf16
    count = chunks[0].size
    out = np.empty((0, chunks.shape[1], 8 * chunks.shape[2]), np.float32)

    def read(some: slice) -> npt.NDArray[np.float32]:
        nonlocal out
        mine, theirs, step = rows[some], chunks, 0
        if len(chunks) > 1:
            theirs, step = chunks[some], count
        if len(out) < len(mine):
            out = np.empty((len(mine), *out.shape[1:]), np.float32)
        widen(
            address(shared), shared.shape[1], len(mine), address(mine), address(theirs), step, count,
            address(out)
        )  # fmt: skip
        return out[: len(mine)]

    return read


def load_tiles(issues: Int64s, to: Int64s, sources: Int64s, boxes: Boxes) -> None:
    """Write tiles to the host addresses `to` [n], each that of its issue `issues` [n].

    The box of issue i begins at the host address `sources[i]`.
    """
    issues, to, sources = indices(issues), indices(to), indices(sources)
    units = boxes.offsets.shape[1]
    load_moves().load_tiles(
        len(issues), address(issues), address(to), address(sources), boxes.unit_bytes, units,
        address(boxes.box), address(boxes.offsets), address(boxes.mask), address(boxes.copied)
    )  # fmt: skip

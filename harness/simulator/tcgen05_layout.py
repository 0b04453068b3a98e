"""Where a `tcgen05.mma` finds A, D and the scale factors in tensor memory.

Every array here is one CTA's part. Lanes form four quadrants of 32; the data path of a quadrant computes the
part of D that it stores, from the A and the scale factors of the same quadrant.

Sources: PTX ISA "Data Path Layout Organization" (layouts A, B, D, F), "Scale Factor A ID" and "B ID";
the tensor-memory fragments of CUTLASS's mma_traits_sm100_frag.hpp, which state the same as formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.number_formats import FloatArray, decode
from harness.simulator.tcgen05_instruction import BlockScale, Mma
from harness.simulator.tensor_memory import (
    LANES,
    QUADRANT,
    LaneArray,
    TensorMemory,
    WordArray,
    are_adjacent,
    column_of,
    lane_of,
)


class DataPath(Enum):
    """How rows and columns of D are spread over the lanes of a CTA."""

    FULL = "layouts A and D: 128 rows, row r in lane r"
    HALF = "layout F: 64 rows, 16 in each quadrant"
    TWO_BY_TWO = (
        "layout B: 64 rows in lanes 0 to 63, and again in 64 to 127 for the second half of the columns"
    )


@dataclass(frozen=True)
class LaneLayout:
    """How one CTA's part of D, or of A, lies in tensor memory: `rows` rows on the lanes of `path`."""

    path: DataPath
    rows: int

    @staticmethod
    def of(mma: Mma) -> LaneLayout:
        rows = mma.m // mma.cta_group
        if rows == LANES:
            return LaneLayout(DataPath.FULL, rows)
        return LaneLayout(DataPath.HALF if mma.cta_group == 1 else DataPath.TWO_BY_TWO, rows)

    def lanes(self, address: NDArray[Any]) -> LaneArray:
        """The lanes in use, [G, L], for D's or A's addresses [G]; their lane must be 0 (16 too with HALF)."""
        base = lane_of(address)
        allowed = (0, 16) if self.path is DataPath.HALF else (0,)
        if not np.isin(base, allowed).all():
            raise SimulationError(
                f"lane {base[~np.isin(base, allowed)][0]} of a matrix is not one of {allowed}"
            )
        lane = np.arange(LANES)
        if self.path is DataPath.HALF:
            lane = lane[lane % QUADRANT < 16]
        return base[:, None] + lane

    def columns(self, n: int) -> int:
        """Tensor-memory columns of n columns of D."""
        return n // 2 if self.path is DataPath.TWO_BY_TWO else n

    def to_rows(self, words: WordArray) -> WordArray:
        """[G, rows, n] of D as stored, [G, L, columns]."""
        if self.path is not DataPath.TWO_BY_TWO:
            return words
        halves = words.reshape(len(words), 2, self.rows, -1)
        return halves.swapaxes(1, 2).reshape(len(words), self.rows, -1)

    def to_lanes(self, words: WordArray) -> WordArray:
        """[G, L, columns] of D, [G, rows, n]; the inverse of `to_rows`."""
        if self.path is not DataPath.TWO_BY_TWO:
            return words
        halves = words.reshape(len(words), self.rows, 2, -1)
        return halves.swapaxes(1, 2).reshape(len(words), LANES, -1)

    def read_a(self, memory: TensorMemory, cta: NDArray[Any], address: NDArray[Any]) -> WordArray:
        """Words [G, rows, 8] of A: 32 bytes along K, elements packed.

        The two-by-two data path reads A in both halves of the lanes, which must hold the same.
        """
        words = memory.read(cta, self.lanes(address), column_of(address), 8)
        if self.path is DataPath.TWO_BY_TWO:
            if not np.array_equal(words[:, : self.rows], words[:, self.rows :]):
                raise SimulationError("A in lanes 0 to 63 differs from its copy in lanes 64 to 127")
            words = words[:, : self.rows]
        return words


def read_scales(
    memory: TensorMemory,
    cta: NDArray[Any],
    address: NDArray[Any],
    rows: int,
    first_byte: int,
    scale: BlockScale,
    split: bool,
) -> FloatArray:
    """Scale factors, float32 [G, rows, S * scale.along_k], at addresses [G, S] of `cta` [G].

    Row r's factors are bytes `first_byte` on of the word in lane r % 32, column r // 32. Every quadrant holds
    a copy for its data path; with `split` (B's factors of layout B) quadrants 0 and 1 hold those of the first
    half of the rows, 2 and 3 those of the second. Copies that differ are an error. The top two bits of an
    address may repeat the byte and are not part of it.
    """
    address = address.astype(np.int64) & 0x3FFFFFFF
    if lane_of(address).any():
        raise SimulationError(f"scale factors at lane {lane_of(address).max()}, not 0")
    parts = 2 if split else 1
    part_rows = rows // parts
    columns = -(-part_rows // QUADRANT)
    words = _read_steps(memory, cta, _scale_lanes(part_rows), column_of(address), columns)
    quadrants = words.reshape(len(cta), parts, 4 // parts, -1, *words.shape[2:])
    if (quadrants != quadrants[:, :, :1]).any():
        raise SimulationError("copies of the scale factors differ between quadrants of lanes")
    # [G, parts, lane, S, column] to [G, parts, row, S]
    by_row = quadrants[:, :, 0].transpose(0, 1, 4, 2, 3).reshape(len(cta), parts, -1, words.shape[2])
    codes = np.ascontiguousarray(by_row[:, :, :part_rows]).view(np.uint8).reshape(len(cta), rows, -1, 4)
    used = codes[..., first_byte : first_byte + scale.along_k]
    return decode(used.reshape(len(cta), rows, -1), scale.number_format)


def _read_steps(
    memory: TensorMemory, cta: NDArray[Any], lanes: LaneArray, first: NDArray[Any], columns: int
) -> WordArray:
    """Words [G, L, S, columns] of `lanes` [L]: `columns` columns from each of `first` [G, S] on."""
    steps = first.shape[1]
    if are_adjacent(first, columns):
        return memory.read(cta, lanes, first[:, 0], steps * columns).reshape(len(cta), -1, steps, columns)
    return np.stack([memory.read(cta, lanes, one, columns) for one in first.T], axis=2)


def _scale_lanes(rows: int) -> LaneArray:
    """The lanes that hold `rows` scale factors: all, or the first ones of each quadrant."""
    lane = np.arange(LANES)
    return lane[lane % QUADRANT < min(rows, QUADRANT)]

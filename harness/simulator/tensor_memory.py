"""Tensor memory: 128 lanes of 512 columns of 32 bits a CTA, with a shadow of what has been written.

An address has the lane in its upper and the column in its lower 16 bits (PTX ISA "Tensor Memory Addressing").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.number_formats import FloatArray

LANES = 128
COLUMNS = 512
QUADRANT = 32  # lanes that one warp of a warpgroup reaches
HALF_QUADRANT = QUADRANT // 2

WordArray = NDArray[np.uint32]
LaneArray = NDArray[np.intp]


@dataclass(frozen=True)
class TensorMemory:
    """The tensor memories of all C resident CTAs: `data` uint32 and `written` bool, both [C, 128, 512]."""

    data: WordArray
    written: NDArray[np.bool_]

    @staticmethod
    def empty(ctas: int) -> TensorMemory:
        shape = (ctas, LANES, COLUMNS)
        return TensorMemory(np.zeros(shape, np.uint32), np.zeros(shape, np.bool_))

    def read(self, cta: NDArray[Any], lanes: LaneArray, columns: NDArray[Any], count: int) -> WordArray:
        """Words [G, L, count]: columns from `columns` [G] on, of `lanes` [L] or [G, L] of `cta` [G]."""
        lanes = np.broadcast_to(lanes, (len(cta), lanes.shape[-1]))
        out = np.empty((*lanes.shape, count), np.uint32)
        for chosen, column in _equal_columns(columns, count):
            where = _places(cta[chosen], lanes[chosen])
            self._check_written(where, cta[chosen], lanes[chosen], column, count)
            out[chosen] = self.data[*where, column : column + count]
        return out

    def write(self, cta: NDArray[Any], lanes: LaneArray, columns: NDArray[Any], words: WordArray) -> None:
        """Store `words` [G, L, count] at `columns` [G] of `lanes` [L] or [G, L]; the inverse of `read`."""
        count = words.shape[2]
        lanes = np.broadcast_to(lanes, (len(cta), lanes.shape[-1]))
        for chosen, column in _equal_columns(columns, count):
            where = _places(cta[chosen], lanes[chosen])
            self.data[*where, column : column + count] = words[chosen]
            self.written[*where, column : column + count] = True

    def add(self, cta: NDArray[Any], lanes: LaneArray, columns: NDArray[Any], values: FloatArray) -> None:
        """Add float32 `values` [G, L, count] to what `write` has stored there."""
        count = values.shape[2]
        floats = self.data.view(np.float32)
        for chosen, column in _equal_columns(columns, count):
            where = _places(cta[chosen], lanes[chosen])
            self._check_written(where, cta[chosen], lanes[chosen], column, count)
            floats[*where, column : column + count] += values[chosen]

    def _check_written(
        self, where: tuple[Any, Any], cta: NDArray[Any], lanes: LaneArray, column: int, count: int
    ) -> None:
        written = self.written[*where, column : column + count]
        if written.all():
            return
        group, lane, offset = (int(i) for i in np.argwhere(~written)[0])
        raise SimulationError(
            f"nobody wrote tensor memory of CTA {cta[group]}, lane {lanes[group, lane]}, "
            f"column {column + offset}"
        )


def _places(cta: NDArray[Any], lanes: LaneArray) -> tuple[Any, Any]:
    """Indices of `lanes` [G, L] of `cta` [G]; slices, several times faster, where these are all lanes."""
    if lanes.shape[1] < LANES or not (lanes == np.arange(LANES)).all():
        return cta[:, None], lanes
    first = int(cta[0])
    alike = len(cta) == 1 or (np.diff(cta) == 1).all()
    return (slice(first, first + len(cta)) if alike else cta), slice(None)


def lane_of(address: NDArray[Any]) -> NDArray[np.int64]:
    """Lane of tensor-memory addresses."""
    return address.astype(np.int64) >> 16


def column_of(address: NDArray[Any]) -> NDArray[np.int64]:
    """Column of tensor-memory addresses."""
    return address.astype(np.int64) & 0xFFFF


def are_adjacent(columns: NDArray[Any], width: int) -> bool:
    """Whether accesses of `width` columns, each at `columns` [G, S], lie side by side in every group."""
    return bool((columns == columns[:, :1] + width * np.arange(columns.shape[1])).all())


def _equal_columns(columns: NDArray[Any], count: int) -> list[tuple[Any, int]]:
    """(groups, first column) pairs, so that each access is a slice; usually one for all groups."""
    if len(columns) == 0:
        return []
    if int(columns.max()) + count > COLUMNS:
        raise SimulationError(f"columns {columns.max()} to {columns.max() + count - 1} of {COLUMNS}")
    if (columns == columns[0]).all():
        return [(slice(None), int(columns[0]))]
    return [(np.flatnonzero(columns == column), int(column)) for column in np.unique(columns)]

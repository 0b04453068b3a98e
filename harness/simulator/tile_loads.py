"""Tile loads, moved from global to shared memory for all issues of an instruction at once.

The turns of a K loop load boxes that differ in where dimension 0 begins and in nothing else. What their other
coordinates say (`_Plan`) is found once: which tensor each issue reads, from where, which of its units lie in
the tensor, and how far dimension 0 may move within the tensor and its memory. A turn is then one loop over
units. What no plan covers, and what breaks a rule, goes the way of `tma_copy.load`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator import moves, tma_copy
from harness.simulator.c_arrays import address
from harness.simulator.machine_constants import PARAM_BASE
from harness.simulator.shared import SharedMemory
from harness.simulator.tensor_map import DataType
from harness.simulator.tensors_used import Tensor, each
from harness.simulator.tma_box import check_supported, shared_bytes, swizzle_phase

Array = npt.NDArray[Any]
SWIZZLE_BYTES = 1024  # what a swizzle depends on are a shared address's bits below this
LARGEST_UNIT = 16
# A K loop needs one for each load. Where each turn loads other rows, as in attention, none comes back.
MOST_PLANS = 64


@dataclass(frozen=True)
class _Plan:
    """The boxes of n issues, if dimension 0 began at its byte 0.

    Attributes:
        sources: the host address of each issue's box [n].
        lowest, highest: how many bytes further dimension 0 may begin, for each issue [n].
    """

    sources: Array
    lowest: Array
    highest: Array
    boxes: moves.Boxes


@dataclass
class TileLoads:
    """The plans of one machine; None for what has none."""

    _plans: dict[tuple[Tensor, int, bytes, bytes], _Plan | None] = field(default_factory=dict)

    def load(
        self,
        tensors: list[Tensor],
        corner: Array,
        offsets: Array,
        shared: SharedMemory,
        issue: Array,
        rows: Array,
    ) -> None:
        """Write the boxes at `corner` [n, rank] to the shared addresses `offsets` [n].

        `tensors`, with boxes alike, give the issues' order (`each`). Tile t goes to the CTA `rows[t]` and is
        that of issue `issue[t]`. The addresses are known to be the CTAs' own.
        """
        start_bits = corner[:, 0] * tensors[0].map.data_type.global_bits
        plan = self._plan(tensors, start_bits, corner, offsets)
        if plan is not None:
            start = start_bits // 8
            if (start >= plan.lowest).all() and (start <= plan.highest).all():
                to = address(shared.bytes) + rows * shared.size + offsets[issue]
                moves.load_tiles(issue, to, plan.sources + start, plan.boxes)
                return
        parts = [
            tma_copy.load(tensor.map, tensor.memory, corner[mine], offsets[mine])
            for tensor, mine in each(tensors)
        ]
        data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        shared.write_tiles(rows, offsets[issue], data[issue])

    def _plan(self, tensors: list[Tensor], start_bits: Array, corner: Array, offsets: Array) -> _Plan | None:
        if tensors[0].address < PARAM_BASE:  # a map in memory may change
            return None
        cuts = int(np.bitwise_or.reduce(start_bits)) & 8 * LARGEST_UNIT - 1
        key = tensors[0], cuts, corner[:, 1:].tobytes(), (offsets % SWIZZLE_BYTES).tobytes()
        if key not in self._plans:
            if len(self._plans) == MOST_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = _planned(tensors, cuts, corner, offsets)
        return self._plans[key]


def _planned(tensors: list[Tensor], cuts: int, corner: Array, offsets: Array) -> _Plan | None:
    """The plan of issues whose first coordinates are, in bits, multiples of the lowest bit of `cuts`."""
    kind = tensors[0].map.data_type
    maps = [tensor.map for tensor in tensors]
    if cuts % 8 or kind.padded or kind is DataType.TFLOAT32:
        return None
    if any(m.data_type is not kind or m.nan_fill for m in maps):
        return None
    edges = cuts // 8 | LARGEST_UNIT
    for m in maps:
        check_supported(m)
        edges |= m.extents[0] * kind.global_bits // 8
    unit = edges & -edges
    sources, lowest, highest, box = (np.zeros(len(corner), np.int64) for _ in range(4))
    mask = np.full(len(corner), -1)
    boxes: dict[bytes, int] = {}
    copied = [np.ones((1, shared_bytes(maps[0]) // unit), np.bool_)]
    for tensor, mine in each(tensors):
        phases = swizzle_phase(offsets[mine], tensor.map.swizzle)
        outer = corner[mine, 1:].tobytes()
        for part in tma_copy.cut_rows(tensor.map, unit, outer, phases.tobytes()):
            issues = mine.start + part.issues
            reach = part.box.offset * unit
            sources[issues] = tensor.map.address + part.origins * unit
            box[issues] = boxes.setdefault(reach.tobytes(), len(boxes))
            if part.valid is not None:
                mask[issues] = sum(map(len, copied)) + np.arange(len(issues))
                copied.append(part.valid)
            lowest[issues], highest[issues] = _room(tensor, sources[issues], reach, part.valid, unit)
    reaches = np.stack([np.frombuffer(one, np.int64) for one in boxes])
    return _Plan(sources, lowest, highest, moves.Boxes(unit, box, reaches, mask, np.concatenate(copied)))


def _room(
    tensor: Tensor, sources: Array, reach: Array, valid: Array | None, unit: int
) -> tuple[Array, Array]:
    """The least and the most bytes that boxes at `sources` [g] may be moved along dimension 0, within the
    tensor and within its memory, of which they touch the units at `reach` [u] where `valid` [g, u]."""
    m = tensor.map
    lowest = np.zeros(len(sources), np.int64)
    highest = np.full_like(lowest, (m.extents[0] - m.box[0]) * m.data_type.global_bits // 8)
    used = np.broadcast_to(True if valid is None else valid, (len(sources), len(reach)))
    some = used.any(1)
    if some.any():
        memory = tensor.memory.find(m.address, 1)
        first = sources + np.where(used, reach, reach.max()).min(1)
        last = sources + np.where(used, reach, reach.min()).max(1)
        lowest = np.where(some, np.maximum(lowest, memory.base - first), lowest)
        highest = np.where(some, np.minimum(highest, memory.end - unit - last), highest)
    return lowest, highest

"""Plain loads and stores in global memory: what an SM passes, and what the L2 takes from all SMs.

A warp's instruction touches lines of 128 bytes and sectors of 32. On an H200 an SM passes a sector of a store
in one cycle, needs one more for each line with a sector that is not written whole, and passes no line in less
than 1.4: 128 neighbouring bytes take 4, a sector in each of eight lines takes 11, 16 bytes in each of 32
lines take 64, and 32 tokens' results, stored one by one 24 bytes apart, take 30. When all SMs store, the
slowest needs 2.1 times as long, whatever the pattern: the L2 has room for the stores of 63 SMs. A load takes
a cycle for each line, and half a cycle for each sector; what the L1 does not hold comes from the L2, which
sends at least half a line. With these numbers the model is within 20 % of what was measured on one SM for
every pattern (results/published/2026-11-29-h200-microbench-patterns), and within 2 % for stores with gaps
(results/published/2026-11-29-h200-microbench-gaps).

Nothing here is a load's latency, which its block has.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.bandwidth import Bandwidth
from harness.simulator.cluster_port import LINE_BYTES, SECTOR_BYTES, Port
from harness.simulator.memory_path import Wave
from harness.simulator.target import Target

Array = npt.NDArray[Any]
LEAST_OF_A_LINE = LINE_BYTES // 2
PLACE_BITS = 47  # of an address, relative to the first of its warp: a process has no more


@dataclass(frozen=True)
class Touched:
    """What one instruction of W warps touches: `sectors`, `lines`, and of these the `masked` ones, which have
    a sector that it does not touch as a whole, each [W].

    Sectors are those of memory. Lines are counted from the first sector that a warp touches: tensors begin
    with one on the host, and with a line on a GPU. `lines_at` [n] are all lines by the warps' order, by which
    the same one is known again.
    """

    lines: Array
    sectors: Array
    masked: Array
    lines_at: Array

    @classmethod
    def by(cls, addresses: Array, lane_bytes: int, active: Array | None) -> Touched:
        """By active lanes at `addresses` [W, 32] or [W, 1], multiples of `lane_bytes`, a power of two."""
        warps = len(addresses)
        chosen = np.ones(addresses.shape, np.bool_) if active is None else active
        chosen = np.broadcast_to(chosen, addresses.shape)
        places = addresses.astype(np.int64)
        first = np.where(chosen, places, np.iinfo(np.int64).max).min(1) // SECTOR_BYTES * SECTOR_BYTES
        of_warp = places - first[:, None] + (np.arange(warps)[:, None] << PLACE_BITS)
        pieces = np.unique(of_warp[chosen] // lane_bytes)
        sectors, filled = np.unique(pieces * lane_bytes // SECTOR_BYTES, return_counts=True)
        lines = np.unique(_line(sectors))
        masked = np.unique(_line(sectors[filled < SECTOR_BYTES // lane_bytes]))

        def each(found: Array, size: int) -> Array:
            return np.bincount(found * size >> PLACE_BITS, minlength=warps)

        places = lines * LINE_BYTES
        warp, place = places >> PLACE_BITS, places & (1 << PLACE_BITS) - 1
        return cls(
            each(lines, LINE_BYTES),
            each(sectors, SECTOR_BYTES),
            each(masked, LINE_BYTES),
            (first[warp] + place) // LINE_BYTES,
        )


def _line(sectors: Array) -> Array:
    """The line that each sector is in."""
    return sectors * SECTOR_BYTES // LINE_BYTES


class MemoryPort:
    """The ways of `sms` SMs to and from memory, each with a clock of its own, and what they share."""

    def __init__(self, target: Target, wave: Wave, l2: Bandwidth, sms: int) -> None:
        self._chip = target.chip
        self._stores, self._loads = Port(sms), Port(sms)
        self._l2 = l2
        self._l2_stores = Bandwidth(target.chip["l2_store_sms"] * wave.share)
        # Lines that each SM's L1 has had: all of them, as if it were large.
        self._held: defaultdict[int, set[int]] = defaultdict(set)

    def store(self, sms: Array, touched: Touched, times: Array) -> Array:
        """When stores that warps of `sms` issue at `times`, all [W], have passed."""
        cycles = self.store_cycles(touched)
        passed = self._stores.take(sms, cycles, times)
        asked, needed = times.tolist(), cycles.tolist()
        for index in np.argsort(times, kind="stable").tolist():
            if needed[index]:
                passed[index] = max(passed[index], self._l2_stores.take(asked[index], needed[index]))
        return passed

    def store_cycles(self, touched: Touched) -> Array:
        """Cycles [W] of an SM."""
        chip = self._chip
        sectors = chip["store_sector_cycles"] * touched.sectors + chip["store_mask_cycles"] * touched.masked
        cycles: Array = np.maximum(sectors, chip["store_line_cycles"] * touched.lines)
        return cycles

    def load(self, sms: Array, touched: Touched, times: Array) -> Array:
        """When what loads ask for has passed: those that warps of `sms` issue at `times`, all [W]."""
        cycles = self.load_cycles(touched)
        passed = self._loads.take(sms, cycles, times)
        ends = np.cumsum(touched.lines).tolist()
        asked, ports, sectors = times.tolist(), sms.tolist(), touched.sectors.tolist()
        counts, all_lines = touched.lines.tolist(), touched.lines_at.tolist()
        for index in np.argsort(times, kind="stable").tolist():
            lines = all_lines[ends[index] - counts[index] : ends[index]]
            held = self._held[ports[index]]
            new = len(lines) - len(held.intersection(lines))
            if new:
                held.update(lines)
                sent = max(LEAST_OF_A_LINE, SECTOR_BYTES * sectors[index] / len(lines)) * new
                passed[index] = max(passed[index], self._l2.take(asked[index], sent))
        return passed

    def load_cycles(self, touched: Touched) -> Array:
        """Cycles [W] of an SM."""
        chip = self._chip
        lines, sectors = (
            chip["load_line_cycles"] * touched.lines,
            chip["load_sector_cycles"] * touched.sectors,
        )
        cycles: Array = np.maximum(lines, sectors)
        return cycles

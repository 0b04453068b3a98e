"""What matrix products in flight still read: shared memory that nothing may write until they are waited for.

A `wgmma` reads its operands at any time between its issue and the `wgmma.wait_group` that retires its group
(PTX ISA, "Asynchronous warpgroup level matrix instructions"). A stage handed back too early is therefore a
race, also where the copies happen to come later. Pages of 256 bytes are what is remembered.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError
from harness.simulator.pages import any_in_flight, note_reads
from harness.simulator.shared import PAGE_BYTES

Array = npt.NDArray[Any]
WARPS = 4


class OperandReads:
    """For each warpgroup of `rows` CTAs, the number of the last group that reads each page."""

    def __init__(self, rows: int, warps_per_cta: int, shared_bytes: int) -> None:
        self.groups_per_row = -(-warps_per_cta // WARPS)
        count = rows * self.groups_per_row
        self.committed = np.zeros(count, np.int64)
        self.retired = np.zeros(count, np.int64)
        self._pages = shared_bytes // PAGE_BYTES
        # Warpgroups that never multiply need no pages: the array is made by the first that does.
        self._last = np.zeros((0, 0), np.int32)

    def note(self, warpgroups: Array, pages: Array) -> None:
        """The open group of `warpgroups` [G] reads `pages` [1 or G, p]."""
        if not self._last.size:
            self._last = np.zeros((len(self.committed), self._pages), np.int32)
        note_reads(self._last, warpgroups, pages, self.committed)

    def commit(self, warpgroups: Array) -> None:
        """The open group ends."""
        self.committed[warpgroups] += 1

    def retire(self, warpgroups: Array, allowed: int) -> None:
        """All but the latest `allowed` groups have been waited for."""
        done = self.committed[warpgroups] - allowed
        self.retired[warpgroups] = np.maximum(self.retired[warpgroups], done)

    def check_write(self, rows: Array, offsets: Array, size: int, who: str) -> None:
        """Raise where `size` bytes at `offsets` [n] of CTAs `rows` [n] are still being read."""
        if not self._last.size or not any_in_flight(
            self._last, self.retired, self.groups_per_row, rows, offsets, size
        ):
            return
        first, last = offsets // PAGE_BYTES, (offsets + size - 1) // PAGE_BYTES
        pages = np.minimum(first[:, None] + np.arange((last - first).max() + 1), last[:, None])
        for number in range(self.groups_per_row):
            group = rows * self.groups_per_row + number
            reading = (self._last[group[:, None], pages] > self.retired[group, None]).any(1)
            if reading.any():
                place = int(offsets[reading][0])
                raise SimulationError(
                    f"{who} of {size} bytes to shared memory at {place:#x}, which a wgmma of warpgroup "
                    f"{number} still reads: its wgmma.wait_group has to come first",
                    reading,
                )

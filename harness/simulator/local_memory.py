"""Local memory: the variables that every thread has for itself (PTX ISA, "Local State Space").

Its addresses begin at `LOCAL_BASE` in every thread, so that a generic address tells them from the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError
from harness.simulator.machine_constants import LOCAL_BASE

Array = npt.NDArray[Any]


class LocalMemory:
    """`size` bytes of each of 32 lanes of `warps` warps, and which of them have been written."""

    def __init__(self, warps: int, size: int) -> None:
        self.size = size
        self.bytes = np.zeros((warps, 32, size), np.uint8)
        self.written = np.zeros((warps, 32, size), np.bool_)

    def load(self, warps: Array, active: Array, addresses: Array, size: int) -> Array:
        """Unsigned integers of `size` bytes [W, 32] of the active lanes of `warps` [W]; 0 elsewhere."""
        place = self._place(warps, active, addresses, size)
        unwritten = active.copy()
        unwritten[active] = ~self.written[place].all(-1)
        if unwritten.any():
            address = int(addresses[unwritten].flat[0]) - LOCAL_BASE
            raise SimulationError(f"read of local memory nobody wrote, at {address:#x}", unwritten)
        out = np.zeros(active.shape, np.dtype(f"u{size}"))
        out[active] = self.bytes[place].view(out.dtype)[:, 0]
        return out

    def store(self, warps: Array, active: Array, addresses: Array, values: Array, size: int) -> None:
        """Write `values` [W, 32] of `size` bytes in the active lanes."""
        place = self._place(warps, active, addresses, size)
        chosen = np.ascontiguousarray(values[active])
        self.bytes[place] = chosen.view(np.uint8).reshape(-1, size)
        self.written[place] = True

    def _place(self, warps: Array, active: Array, addresses: Array, size: int) -> tuple[Array, Array, Array]:
        """Indices [n, size] of every byte that the active lanes access."""
        offsets = addresses.astype(np.int64) - LOCAL_BASE
        wrong = active & ((offsets < 0) | (offsets + size > self.size) | (offsets % size != 0))
        if wrong.any():
            offset = int(offsets[wrong].flat[0])
            what = "misaligned" if offset % size else f"outside the thread's {self.size} bytes"
            raise SimulationError(f"local address {offset:#x}, {size} bytes: {what}", wrong)
        warp, lane = np.nonzero(active)
        return warps[warp][:, None], lane[:, None], offsets[active][:, None] + np.arange(size)

"""Global memory: the host memory of registered tensors, under its own addresses.

An access outside every registered range, or misaligned, is an error. Ranges are exactly the tensors': a
kernel that writes one element past an output is caught at the access.
"""

from __future__ import annotations

import bisect
import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Allocation:
    """`bytes` is the memory itself, as uint8, at address `base`."""

    name: str
    base: int
    bytes: npt.NDArray[np.uint8]

    @property
    def end(self) -> int:
        return self.base + len(self.bytes)


class GlobalMemory:
    """The ranges a launch may touch."""

    def __init__(self) -> None:
        self._allocations: list[Allocation] = []
        self._bases: list[int] = []

    def register(self, name: str, base: int, size: int) -> None:
        """Make `size` bytes at `base` accessible; the caller keeps them alive."""
        if size == 0:
            return
        view: npt.NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(base))
        self._allocations.append(Allocation(name, base, view))
        self._allocations.sort(key=lambda allocation: allocation.base)
        self._bases = [allocation.base for allocation in self._allocations]

    def find(self, address: int, size: int) -> Allocation:
        """The allocation that holds `size` bytes at `address`; raises `SimulationError` if there is none."""
        place = bisect.bisect_right(self._bases, address) - 1
        if place >= 0 and address + size <= self._allocations[place].end:
            return self._allocations[place]
        raise SimulationError(f"global address {address:#x}, {size} bytes: {self._nearest(address)}")

    def array(self, address: int, size: int) -> npt.NDArray[np.uint8]:
        """The bytes at `address`."""
        allocation = self.find(address, size)
        start = address - allocation.base
        return allocation.bytes[start : start + size]

    def load(self, addresses: Array, size: int) -> Array:
        """Unsigned integers of `size` bytes at uint64 `addresses` (any shape)."""
        out = np.empty(addresses.shape, np.dtype(f"u{size}"))
        for allocation, where in self._split(addresses, size):
            words = allocation.bytes[: len(allocation.bytes) // size * size].view(out.dtype)
            out[where] = words[self._index(allocation, addresses[where], size)]
        return out

    def store(self, addresses: Array, values: Array, size: int) -> None:
        """Write `values` of `size` bytes at `addresses`, both flat; the last of equal addresses wins."""
        for allocation, where in self._split(addresses, size):
            words = allocation.bytes[: len(allocation.bytes) // size * size].view(np.dtype(f"u{size}"))
            words[self._index(allocation, addresses[where], size)] = values[where]

    def _split(self, addresses: Array, size: int) -> list[tuple[Allocation, Any]]:
        if addresses.size == 0:
            return []
        if (addresses % np.uint64(size)).any():
            wrong = (addresses % np.uint64(size)) != 0
            bad = int(addresses[wrong].flat[0])
            raise SimulationError(f"global address {bad:#x} is not aligned to {size} bytes", wrong)
        low, high = int(addresses.min()), int(addresses.max())
        allocation = self._find_for(addresses, low, size)
        if high + size <= allocation.end:
            return [(allocation, ...)]
        parts = []
        rest = np.ones(addresses.shape, np.bool_)
        while rest.any():
            allocation = self._find_for(addresses, int(addresses[rest].min()), size)
            inside = rest & (addresses >= allocation.base) & (addresses <= np.uint64(allocation.end - size))
            parts.append((allocation, inside))
            rest &= ~inside
        return parts

    def _find_for(self, addresses: Array, address: int, size: int) -> Allocation:
        """`find` for one of `addresses`, whose places an error then marks."""
        try:
            return self.find(address, size)
        except SimulationError as error:
            raise SimulationError(str(error), addresses == np.uint64(address)) from None

    @staticmethod
    def _index(allocation: Allocation, addresses: Array, size: int) -> Array:
        return ((addresses - np.uint64(allocation.base)) // np.uint64(size)).astype(np.int64)

    def _nearest(self, address: int) -> str:
        if not self._allocations:
            return "no global memory is registered"
        away = [(max(a.base - address, address - a.end + 1, 0), a.name) for a in self._allocations]
        distance, name = min(away)
        return f"outside every tensor, the nearest is {name!r}, {distance} bytes away"

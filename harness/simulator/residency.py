"""Which tiles lie in the L2: those that were used since as many bytes as it holds have come from memory.

The least recently used line leaves first. A tile's distance is what came from memory after its last use, so a
kernel that walks its tokens once for each expert tile finds them in the L2 as long as the tokens of all
resident CTAs fit, and reads all of them from memory again as soon as they do not.
"""

from __future__ import annotations

from collections.abc import Hashable


class Residency:
    """`capacity` bytes of L2 for the tiles that are simulated."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self._volume = 0.0  # bytes that have come
        self._used: dict[Hashable, float] = {}  # volume at the last use
        self._present: dict[Hashable, float] = {}  # cycle from which the tile is there

    def is_new(self, tile: Hashable) -> bool:
        """Whether nobody has asked for the tile before."""
        return tile not in self._used

    def touch(self, tile: Hashable) -> float | None:
        """Use a tile: the cycle from which it lies in the L2; None when it does not."""
        used = self._used.get(tile)
        if used is None or self._volume - used > self.capacity:
            return None
        self._used[tile] = self._volume
        return self._present[tile]

    def fill(self, tile: Hashable, present: float, size: float) -> None:
        """A tile of `size` bytes comes, or is said to have come: it is there from the cycle `present` on."""
        self._volume += size
        self._used[tile], self._present[tile] = self._volume, present

"""A bandwidth that many share: what is asked of it later may still use what was free earlier.

The machine runs cohorts ahead of each other, so requests do not come in the order of their times. A queue
with one clock would make a request wait for others that were asked for later; here time is divided into slots
with a capacity each, and a request fills what its own slots have left.
"""

from __future__ import annotations

SLOT_CYCLES = 128


class Bandwidth:
    """`rate` bytes a cycle."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._capacity = rate * SLOT_CYCLES
        self._used: dict[int, float] = {}
        # From a full slot on, a slot that may have room: followed and shortened like a union-find's parents.
        self._next: dict[int, int] = {}

    def take(self, time: float, amount: float) -> float:
        """When `amount` bytes asked for at `time` (cycles) have passed."""
        slot = self._with_room(int(time // SLOT_CYCLES))
        left = amount
        while True:
            used = self._used.get(slot, 0.0)
            # What passes in the slot of `time` passes after it.
            room = self._capacity - used
            if left < room:
                self._used[slot] = used + left
                done = (slot + (used + left) / self._capacity) * SLOT_CYCLES
                return max(done, time + amount * SLOT_CYCLES / self._capacity)
            left -= room
            self._used[slot] = self._capacity
            self._next[slot] = slot + 1
            slot = self._with_room(slot + 1)

    def _with_room(self, slot: int) -> int:
        last = slot
        while (following := self._next.get(last)) is not None:
            last = following
        while slot != last:
            self._next[slot], slot = last, self._next[slot]
        return last

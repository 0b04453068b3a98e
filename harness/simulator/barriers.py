"""mbarriers, named barriers and cluster barriers of all resident CTAs, with the time of every completion.

PTX ISA, "Parallel synchronization and communication instructions: mbarrier", "bar{.cta}", "barrier.cluster".
Times are clocks in cycles; a barrier's phase completes at the latest of what completes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError

Array = npt.NDArray[Any]
BARRIER_BYTES = 8
MAX_COUNT = 2**20 - 1  # PTX ISA, "Valid range of the contents of the mbarrier object"
NAMED = 16


class MBarriers:
    """Every mbarrier object, found by its CTA's row and its offset in shared memory."""

    def __init__(
        self,
        rows: int,
        shared_bytes: int,
        cta_name: Callable[[int], str] = str,
        alive: Array | None = None,
    ) -> None:
        self.rows, self._cta_name = rows, cta_name
        # By row, kept by whoever knows of exits (`SharedMemory`).
        self._alive = np.ones(rows, np.bool_) if alive is None else alive
        self._slot_of = np.full(shared_bytes // BARRIER_BYTES + 1, -1, np.int64)
        self.offsets: list[int] = []
        self.count, self.pending, self.bytes, self.phase = (np.zeros(0, np.int64) for _ in range(4))
        self.latest, self.completed_at = np.zeros(0), np.zeros(0)
        self.valid = np.zeros(0, np.bool_)
        # The warp and the PTX line of the last expect-tx; line 0: there was none.
        self.expected_by, self.expected_at = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def keys(self, rows: Array, offsets: Array) -> Array:
        """Positions of the mbarriers at these places; raises for what is none."""
        slots = self._slot_of[offsets // BARRIER_BYTES]
        keys: Array = slots * self.rows + rows
        if (slots < 0).any() or not self.valid[keys].all() or (offsets % BARRIER_BYTES).any():
            wrong = (slots < 0) | ~self.valid[np.maximum(keys, 0)] if self.offsets else slots < 0
            wrong = wrong | (offsets % BARRIER_BYTES != 0)
            bad = np.broadcast_to(offsets, np.shape(wrong))[wrong].flat[0]
            raise SimulationError(f"no mbarrier was initialized at shared address {int(bad):#x}", wrong)
        if not self._alive[rows].all():
            gone = ~self._alive[rows]
            name = self.name(int(np.broadcast_to(keys, gone.shape)[gone].flat[0]))
            raise SimulationError(f"access to {name}, which has exited", gone)
        return keys

    def initialize(self, rows: Array, offsets: Array, counts: Array) -> None:
        if (offsets % BARRIER_BYTES).any():
            raise SimulationError(f"mbarrier at {int(offsets.max()):#x} is not aligned to 8 bytes")
        if (counts < 1).any() or (counts > MAX_COUNT).any():
            wrong = (counts < 1) | (counts > MAX_COUNT)
            raise SimulationError(f"mbarrier count {int(counts[wrong][0])}: from 1 to {MAX_COUNT}", wrong)
        for offset in np.unique(offsets):
            if self._slot_of[offset // BARRIER_BYTES] < 0:
                self._slot_of[offset // BARRIER_BYTES] = len(self.offsets)
                self.offsets.append(int(offset))
                self._grow()
        keys = self._slot_of[offsets // BARRIER_BYTES] * self.rows + rows
        if self.valid[keys].any():
            raise SimulationError(
                f"{self.name(int(keys[self.valid[keys]][0]))} is initialized again without an mbarrier.inval",
                self.valid[keys],
            )
        self.count[keys] = self.pending[keys] = counts
        self.bytes[keys] = self.phase[keys] = self.expected_at[keys] = 0
        self.latest[keys] = self.completed_at[keys] = 0.0
        self.valid[keys] = True

    def _grow(self) -> None:
        for name in (
            "count",
            "pending",
            "bytes",
            "phase",
            "latest",
            "completed_at",
            "valid",
            "expected_by",
            "expected_at",
        ):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros(self.rows, old.dtype)]))

    def invalidate(self, rows: Array, offsets: Array) -> None:
        self.valid[self.keys(rows, offsets)] = False

    def holds(self, rows: Array, offsets: Array, size: int) -> Array:
        """Whether a store of `size` bytes at these places hits a valid mbarrier."""
        hit = np.zeros(np.shape(offsets), np.bool_)
        # Mostly all mbarriers lie before or behind what is stored to.
        if not self.offsets or not hit.size:
            return hit
        if offsets.min() > max(self.offsets) + BARRIER_BYTES or offsets.max() + size < min(self.offsets):
            return hit
        for first in range(0, max(size, BARRIER_BYTES), BARRIER_BYTES):
            slots = self._slot_of[(offsets + first) // BARRIER_BYTES]
            known = slots >= 0
            if known.any():
                hit |= known & self.valid[np.where(known, slots * self.rows + rows, 0)]
        return hit

    def expect(self, keys: Array, transaction_bytes: Array, warps: Array | int = 0, line: int = 0) -> None:
        """More bytes that the phase under way waits for (PTX ISA, "expect-tx operation").

        `warps` say so, at this PTX line.
        """
        np.add.at(self.bytes, keys, transaction_bytes)
        self.expected_by[keys], self.expected_at[keys] = warps, line
        self._check_range(keys)

    def _check_range(self, keys: Array) -> None:
        wrong = np.abs(self.bytes[keys]) > MAX_COUNT
        if wrong.any():
            key = int(keys[wrong][0])
            raise SimulationError(f"transaction count of {self.describe(key)}: at most {MAX_COUNT}", wrong)

    def arrive(self, keys: Array, counts: Array | int, times: Array) -> None:
        """`counts` arrivals at each of `keys` (which may repeat)."""
        np.subtract.at(self.pending, keys, counts)
        np.maximum.at(self.latest, keys, times)
        over = self.pending[keys] < 0
        if over.any():
            key = int(keys[over][0])
            raise SimulationError(
                f"more arrivals on {self.name(key)} than the {self.count[key]} that its phase expects", over
            )
        self._complete(keys)

    def complete_bytes(self, keys: Array, transaction_bytes: Array | int, times: Array) -> None:
        """Asynchronous copies of these sizes end at `times`."""
        np.subtract.at(self.bytes, keys, transaction_bytes)
        np.maximum.at(self.latest, keys, times)
        self._complete(keys)

    def _complete(self, keys: Array) -> None:
        done = keys[(self.pending[keys] == 0) & (self.bytes[keys] == 0)]
        if done.size:
            self.pending[done] = self.count[done]
            self.phase[done] += 1
            self.completed_at[done] = np.maximum(self.latest[done], self.completed_at[done])
            self.latest[done] = 0.0

    def passed(self, keys: Array, phase: Array, by_parity: bool = True) -> Array:
        """Whether the phase of this parity, or of this number, is over (PTX ISA, mbarrier.test_wait)."""
        over: Array = (self.phase[keys] & 1) != phase & 1 if by_parity else self.phase[keys] > phase
        return over

    def name(self, key: int) -> str:
        return f"the mbarrier at {self.offsets[key // self.rows]:#x} of CTA {self._cta_name(key % self.rows)}"

    def describe(self, key: int) -> str:
        """An mbarrier's state, for a person."""
        bytes_ = int(self.bytes[key])
        transactions = (
            f"{-bytes_} bytes arrived that were not expected" if bytes_ < 0 else f"{bytes_} transaction bytes"
        )
        return (
            f"{self.name(key)} (phase {self.phase[key]}, outstanding: {self.pending[key]} of "
            f"{self.count[key]} arrivals, {transactions})"
        )

    def check_drained(
        self, rows: Array, said: Callable[[int, int], str] = "warp {} at PTX line {}".format
    ) -> None:
        """At the end of CTAs `rows`: bytes left over mean that a transaction count was wrong.

        `said` are words for a warp and a PTX line.
        """
        for slot in range(len(self.offsets)):
            keys = slot * self.rows + rows
            wrong = self.valid[keys] & (self.bytes[keys] != 0)
            if wrong.any():
                key = int(keys[wrong][0])
                line = int(self.expected_at[key])
                last = f"; the last to expect bytes: {said(int(self.expected_by[key]), line)}" if line else ""
                raise SimulationError(
                    f"wrong transaction count: {self.describe(key)} when its CTA exits{last}"
                )


class NamedBarriers:
    """Barriers 0 to 15 of each CTA: threads arrived, generation, and when the last generation completed."""

    def __init__(self, rows: int) -> None:
        self.arrived = np.zeros((rows, NAMED), np.int64)
        self.threads = np.zeros((rows, NAMED), np.int64)
        self.generation = np.zeros((rows, NAMED), np.int64)
        self.latest = np.zeros((rows, NAMED))
        self.completed_at = np.zeros((rows, NAMED))
        self.of_all = np.zeros((rows, NAMED), np.bool_)  # the last arrival named no number of threads

    def arrive(
        self, rows: Array, ids: Array, threads: Array, arriving: Array, times: Array, of_all: bool = False
    ) -> Array:
        """`arriving` threads of one warp each; the generation that each waits for the end of.

        `of_all`: `threads` are all that the CTA has left, since the instruction names no number.
        """
        if (threads % 32).any() or (threads <= 0).any():
            wrong = (threads % 32 != 0) | (threads <= 0)
            raise SimulationError(
                f"a named barrier for {int(threads[wrong][0])} threads: want a multiple of 32", wrong
            )
        different = (self.arrived[rows, ids] > 0) & (self.threads[rows, ids] != threads)
        if different.any():
            first = int(np.flatnonzero(different)[0])
            raise SimulationError(
                f"named barrier {int(ids[first])} for {int(threads[first])} threads, when others wait there "
                f"for {int(self.threads[rows[first], ids[first]])}",
                different,
            )
        self.threads[rows, ids], self.of_all[rows, ids] = threads, of_all
        generation: Array = self.generation[rows, ids].copy()
        np.add.at(self.arrived, (rows, ids), arriving)
        np.maximum.at(self.latest, (rows, ids), times)
        over = self.arrived[rows, ids] > threads
        if over.any():
            raise SimulationError(
                f"{int(self.arrived[rows, ids][over][0])} threads arrive at named barrier "
                f"{int(ids[over][0])}, which expects {int(threads[over][0])}",
                over,
            )
        done = np.flatnonzero(self.arrived[rows, ids] == threads)
        self._complete(rows[done], ids[done])
        return generation

    def leave(self, rows: Array, threads: Array) -> None:
        """Warps of CTAs `rows`, all different, have exited, which leaves `threads` of each to wait for."""
        which, ids = np.nonzero(self.of_all[rows] & (self.arrived[rows] > 0))
        rows, threads = rows[which], threads[which]
        self.threads[rows, ids] = threads
        done = self.arrived[rows, ids] >= threads
        self._complete(rows[done], ids[done])

    def _complete(self, rows: Array, ids: Array) -> None:
        self.arrived[rows, ids] = 0
        self.generation[rows, ids] += 1
        self.completed_at[rows, ids] = self.latest[rows, ids]
        self.latest[rows, ids] = 0.0


class ClusterBarriers:
    """barrier.cluster: one for each cluster, with the generation that each warp has arrived for."""

    def __init__(self, clusters: int, warps: int, warps_per_cluster: int) -> None:
        self.arrived = np.zeros(clusters, np.int64)
        self.expected = np.full(clusters, warps_per_cluster, np.int64)
        self.generation = np.zeros(clusters, np.int64)
        self.latest = np.zeros(clusters)
        self.completed_at = np.zeros(clusters)
        self.arrived_for = np.full(warps, -1, np.int64)  # by warp; -1: has not arrived since it last waited

    def arrive(self, warps: Array, clusters: Array, times: Array) -> None:
        if (self.arrived_for[warps] >= 0).any():
            twice = self.arrived_for[warps] >= 0
            raise SimulationError("barrier.cluster.arrive twice without a wait in between", twice)
        self.arrived_for[warps] = self.generation[clusters]
        np.add.at(self.arrived, clusters, 1)
        np.maximum.at(self.latest, clusters, times)
        self.settle(clusters)

    def leave(self, clusters: Array) -> None:
        """Warps that exit no longer count."""
        np.subtract.at(self.expected, clusters, 1)
        self.settle(clusters)

    def settle(self, clusters: Array) -> None:
        done = np.unique(
            clusters[(self.arrived[clusters] >= self.expected[clusters]) & (self.arrived[clusters] > 0)]
        )
        self.arrived[done] = 0
        self.generation[done] += 1
        self.completed_at[done] = self.latest[done]
        self.latest[done] = 0.0

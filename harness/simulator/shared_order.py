"""What is ordered before what in shared memory: races between warps, of one CTA or of a cluster.

The machine runs warps in an order of its own, so a read that waits for nobody would find what it wants more
often than on a GPU. Here a warp may read a word that another warp wrote, or write one that another has read,
only if a chain of barriers from that access to this one exists (PTX ISA, "Memory Consistency Model",
causality order). And a CTA may leave only if the reads of its shared memory by others lie before (CUDA C++
programming guide, "Distributed Shared Memory").

An arrival counts for all that its warp did before, whatever its scope or semantics, and only the last reader
of a word is remembered: nothing correct is refused, not every race is seen. What the asynchronous proxy reads
and writes is the business of `shared` and `operand_reads`. In a machine where a CTA has stored in another's
shared memory writers are not known, and reads go unchecked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError
from harness.simulator.ordering import Knowledge

Array = npt.NDArray[Any]
LANES = 32
STEP_BITS = 16


class SharedOrder(Knowledge):
    """Clocks of steps: `seen[w, a]` is the last step of agent a whose accesses warp w knows to be over."""

    def __init__(self, rows: int, warps_per_cta: int, cluster_size: int, words: int) -> None:
        per_cluster = warps_per_cta * cluster_size
        super().__init__(rows * warps_per_cta, per_cluster, per_cluster)
        self.warps_per_cta, self.cluster_size, self.words = warps_per_cta, cluster_size, words
        self.writers_known = True
        self._readers = np.zeros(rows * words, np.uint64)  # step << 16 | agent of a word's last read
        self._read_by = np.zeros((rows, per_cluster), np.int32)  # step of the last read by an agent elsewhere

    def arrive(self, kind: str, warps: Array, keys: Array, phases: Array, step: int) -> None:
        """Warps arrive on the barriers `keys` of a kind, which are in `phases`; both may repeat."""
        self.seen[warps, self.agent[warps]] = step
        self.deliver(kind, self.seen[warps], keys, phases)

    def read(self, warps: Array, words: Array, stamps: Array, active: Array | None, step: int) -> None:
        """Warps [W] read words [W, 32 or 1], whose last ordinary writes are `stamps` (`shared`)."""
        rows = words // self.words
        self._check_writers(warps, rows, words, stamps, active)
        here = np.ones(words.shape, np.bool_) if active is None else np.broadcast_to(active, words.shape)
        agents = np.broadcast_to(self.agent[warps][:, None], words.shape)
        self._readers[words[here]] = np.uint64(step << STEP_BITS) | agents[here].astype(np.uint64)
        if self.cluster_size > 1:
            away = here & (rows != (warps // self.warps_per_cta)[:, None])
            self._read_by[rows[away], agents[away]] = step

    def _check_writers(
        self, warps: Array, rows: Array, words: Array, stamps: Array, active: Array | None
    ) -> None:
        if not self.writers_known:
            return
        threads = (stamps & np.uint64(0xFFFF)).astype(np.int64)
        written = (stamps >> np.uint64(STEP_BITS)).astype(np.int64)
        ordinary = (written > 0) & (threads != 0xFFFF)
        writer = np.where(ordinary, rows % self.cluster_size * self.warps_per_cta + threads // LANES, 0)
        late = ordinary & (self.seen[warps[:, None], writer] < written)
        late &= writer != self.agent[warps][:, None]
        if active is not None:
            late = late & active
        if late.any():
            agent = int(writer[late].flat[0])
            raise SimulationError(
                f"read of shared memory at {self._offset(words, late):#x} that {self._name(agent)} wrote, "
                "and no barrier orders the two",
                late,
            )

    def write(self, warps: Array, words: Array, rows: Array) -> None:
        """Warps [n] write words [n], of CTAs `rows` [n]."""
        if self.writers_known and self.cluster_size > 1:
            self.writers_known = bool((rows == warps // self.warps_per_cta).all())
        stamps = self._readers[words]
        if not stamps.any():
            return
        reader = (stamps & np.uint64(0xFFFF)).astype(np.int64)
        read = (stamps >> np.uint64(STEP_BITS)).astype(np.int64)
        late = (self.seen[warps, reader] < read) & (reader != self.agent[warps])
        if late.any():
            raise SimulationError(
                f"store to shared memory at {self._offset(words, late):#x} that "
                f"{self._name(int(reader[late][0]))} has read, and no barrier orders the two",
                late,
            )

    def leave(self, rows: Array) -> None:
        """CTAs exit: others' reads of their shared memory have to be over."""
        if self.cluster_size == 1 or not rows.size:
            return
        warps = rows[:, None] * self.warps_per_cta + np.arange(self.warps_per_cta)
        late = self._read_by[rows] > self.seen[warps].max(1)
        if late.any():
            place, agent = np.argwhere(late)[0]
            raise SimulationError(
                f"CTA {int(rows[place]) % self.cluster_size} of a cluster exits, {self._name(int(agent))} "
                "has read its shared memory, and no barrier orders the two"
            )

    def _offset(self, words: Array, wrong: Array) -> int:
        return int(4 * (words[wrong].flat[0] % self.words))

    def _name(self, agent: int) -> str:
        warp = agent % self.warps_per_cta
        return f"warp {warp} of the cluster's CTA {agent // self.warps_per_cta}"

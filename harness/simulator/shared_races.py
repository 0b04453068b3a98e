"""Races in shared memory: accesses to one word, one of them a write, that no barrier orders.

An optional mode. It finds a missing or misplaced barrier whatever the order of execution happened to be. Who
has learned of what is `ThreadOrder`'s business; here is, for each word, the last write (its agent and epoch)
and every agent's last read. A warp counts as one: lanes of one warp are taken to be in order.

Tile loads write as the copy agent of the warp that issued them, so whoever reads must have waited for their
mbarrier, and whoever loads must have learned that the readers are done. `wgmma` and tile stores count as
reads by the warps that issue them. Atomics are exempt, and so is what goes through flags in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError
from harness.simulator.thread_order import ThreadOrder

Array = npt.NDArray[Any]


class SharedRaces:
    """The last accesses to each of `words` words of every CTA (`rows`)."""

    def __init__(self, order: ThreadOrder, rows: int, words: int) -> None:
        self.order, self.words = order, words
        self.writer = np.zeros(rows * words, np.int32)  # agent of the last write, + 1; 0: none yet
        self.written = np.zeros(rows * words, np.int32)  # its epoch
        self.reads = np.zeros((rows * words, order.agents), np.int32)  # epoch of each agent's last read

    def read(self, words: Array, warps: Array) -> None:
        """Warps `warps` [n] read flat word positions `words` [n]."""
        agent = self.order.agent[warps]
        self._check_writer(words, warps, agent, "reads")
        np.maximum.at(self.reads, (words, agent), self.order.epoch[warps])

    def write(self, words: Array, warps: Array, copies: Array | None = None) -> None:
        """Warps `warps` [n] write `words` [n]; with `copies` [n], by copies of these epochs."""
        agent = self.order.agent[warps]
        self._check_writer(words, warps, agent, "writes")
        known = self.order.seen[warps]
        late = self.reads[words] > known
        late[np.arange(len(words)), agent] = False
        if late.any():
            which, reader = (int(i) for i in np.argwhere(late)[0])
            raise self._race(int(words[which]), "writes", reader, "read", np.any(late, 1))
        self.writer[words] = agent + 1 if copies is None else agent + 1 + self.order.per_cluster
        self.written[words] = self.order.epoch[warps] if copies is None else copies

    def _check_writer(self, words: Array, warps: Array, agent: Array, what: str) -> None:
        writer = self.writer[words] - 1
        known = np.take_along_axis(self.order.seen[warps], np.maximum(writer, 0)[:, None], 1)[:, 0]
        late = (writer >= 0) & (writer != agent) & (self.written[words] > known)
        if late.any():
            which = int(np.flatnonzero(late)[0])
            raise self._race(int(words[which]), what, int(writer[which]), "wrote", late)

    def _race(self, word: int, what: str, other: int, did: str, late: Any) -> SimulationError:
        per_cluster, per_row = self.order.per_cluster, self.order.per_row
        warp = other % per_cluster
        who = f"warp {warp % per_row} of the CTA of rank {warp // per_row}"
        if other >= per_cluster:
            who = f"a copy issued by {who}"
        return SimulationError(
            f"race: it {what} shared memory at {word % self.words * 4:#x}, which {who} {did}, and no barrier "
            "orders the two",
            late,
        )

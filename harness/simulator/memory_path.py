"""The way of a tile from memory through the L2 into an SM, with what the chip's clusters share on it.

A tile load queues at its SM, at the L2 and, if the L2 does not hold the tile, at the memory. SMs of a GPC
that ask for the same tile at about the same time are served by one transfer from the L2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.bandwidth import Bandwidth
from harness.simulator.residency import Residency
from harness.simulator.target import Target

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Wave:
    """What runs at once, and what of it is simulated.

    Of `clusters` that run at once, `simulated` are in the machine: they get that share of the L2 and the
    memory. `warm`: every input lies in the L2. `shared`: addresses (first, end) of what all columns of the
    grid read, the weight; `shared_in_l2`: it lies there already. `columns` of the grid run at once. `turns`:
    of each simulated CTA, the turn in which it runs; what an earlier turn read has left the L2.
    """

    clusters: int = 1
    simulated: int = 1
    warm: bool = False
    shared_in_l2: bool = False
    shared: tuple[tuple[int, int], ...] = ()
    columns: int = 1
    turns: Array | None = None

    @property
    def share(self) -> float:
        return self.simulated / max(self.clusters, self.simulated)


class MemoryPath:
    """Clocks, in SM cycles, and contents of what lies between the memory and `sms` SMs.

    `l2_bytes` and `memory_bytes` count what has been asked of the L2 and what of it came from memory.
    """

    def __init__(self, target: Target, wave: Wave, sms: int) -> None:
        chip = self._chip = target.chip
        self.wave = wave
        # A GPC takes in no more than so much: few clusters reach few GPCs.
        gpcs = min(chip["gpcs"], max(wave.clusters, wave.simulated))
        self.l2 = Bandwidth(min(chip["l2_bytes"], chip["gpc_bytes"] * gpcs) * wave.share)
        self.dram = Bandwidth(chip["dram_bytes"] * wave.share)
        alone = min(1.0, chip["gpcs"] / max(1, wave.columns))
        self._shared_traffic = 1.0 - chip["l2_coalesced"] * (1.0 - alone)
        self._sm_free = [0.0] * sms
        self._residency = Residency(chip["l2_capacity_bytes"] * wave.share)
        self._asked: dict[Any, float] = {}
        self.cluster_size = 1
        self.l2_bytes = self.memory_bytes = 0.0

    def load(
        self, sms: Array, sizes: Array, traffic: Array, times: Array, tiles: list[Any], shared: bool
    ) -> Array:
        """When tile loads issued at `times` into `sms` have arrived.

        `sizes`: bytes of each box; `traffic`: those of them that lie in the tensor; `tiles`: what identifies
        each tile, so that it comes from memory once; `shared`: all columns of the grid read these tiles.
        """
        chip = self._chip
        done = np.empty(len(times))
        self.l2_bytes += float(traffic.sum())
        # Of Python's own numbers: numpy's take three times as long, one by one.
        into, asked = sms.tolist(), times.tolist()
        transfers, in_tensor = (sizes / chip["sm_bytes"]).tolist(), traffic.tolist()
        for index in np.argsort(times, kind="stable").tolist():
            sm, tile, transfer, size = into[index], tiles[index], transfers[index], in_tensor[index]
            start = max(asked[index], self._sm_free[sm])
            self._sm_free[sm] = start + max(transfer, chip["tma_issue_cycles"])
            moved = size * self._moved(sm, tile, start, shared)
            arrived = self.l2.take(start, moved) + chip["l2_latency"]
            if not shared and self.wave.turns is not None:
                tile = (tile, int(self.wave.turns[sm]))
            done[index] = max(arrived, self._present(tile, start, size, shared)) + transfer
        return done

    def _moved(self, sm: int, tile: Any, time: float, shared: bool) -> float:
        """The part of a tile that the L2 sends for this request, in proportion."""
        if shared:
            return self._shared_traffic
        # A cluster's SMs are of one GPC. Whoever asks while the first still waits gets the same transfer.
        key = (tile, sm // self.cluster_size)
        asked = self._asked.get(key)
        self._asked[key] = time
        together = asked is not None and abs(time - asked) < self._chip["l2_latency"]
        return 1.0 - self._chip["l2_coalesced"] * together

    def _present(self, tile: Any, time: float, size: float, shared: bool) -> float:
        """The cycle from which a tile lies in the L2."""
        present = self._residency.touch(tile)
        if present is not None:
            return present
        if self._residency.is_new(tile) and (self.wave.warm or (shared and self.wave.shared_in_l2)):
            size, present = 0.0, 0.0
        else:
            # A tile that all columns read comes once for all of them.
            size *= self.wave.share if shared else 1.0
            present = self.dram.take(time, size) + self._chip["dram_latency"]
        self.memory_bytes += size
        self._residency.fill(tile, present, size)
        return present

"""What is ordered before what, as far as accesses to tensor memory are concerned: vector clocks.

An *agent* is a warp, or the tensor core working for a warp. Accesses of an agent carry its *epoch*; a vector
clock says up to which epoch of every agent of the cluster one knows that accesses are over. Clocks travel
through barriers. PTX ISA, "Memory Consistency Model for 5th generation of TensorCore operations":

- what a warp loads and stores itself is over behind `tcgen05.wait::ld` (`::st`), and others learn of it when
  a `tcgen05.fence::before_thread_sync` lies between it and the arrival;
- what tensor cores do for a warp is over when a `tcgen05.commit` arrives, which needs no such fence;
- what a warp learns at a barrier counts for its own accesses behind a `tcgen05.fence::after_thread_sync`.

These fences are asked for unless `implied`. NVIDIA's own kernels leave them out: of barriers that release and
acquire, as they do unless spelled .relaxed, and of loads whose registers are used before the arrival
("Register dependency, same thread"; NVIDIA/cutlass issues 2974 and 2525). With `implied` every barrier orders
as if both fences stood at it, and a load is over at the warp's next arrival; stores still want their
`tcgen05.wait::st`.

Stricter than the ISA in one point: a copy or product may follow one of another thread's only behind a commit,
though "pipelined instructions, different thread" would let fences do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator import order_loops

Array = npt.NDArray[Any]


@dataclass
class BarrierClocks:
    """Of every barrier, what its arrivals know: `open` with those of this phase, `closed` without."""

    agents: int
    open: Array = field(init=False)
    closed: Array = field(init=False)
    phase: Array = field(init=False)

    def __post_init__(self) -> None:
        self.open = np.zeros((0, self.agents), np.int32)
        self.closed = np.zeros((0, self.agents), np.int32)
        self.phase = np.zeros(0, np.int64)

    def turn(self, keys: Array, phases: Array) -> None:
        """The barriers `keys` are in `phases` now: whoever waited knows what arrived in earlier ones."""
        more = int(keys.max(initial=-1)) + 1 - len(self.phase)
        if more > 0:
            zeros = np.zeros((more, self.agents), np.int32)
            self.open, self.closed = np.concatenate([self.open, zeros]), np.concatenate([self.closed, zeros])
            self.phase = np.concatenate([self.phase, np.zeros(more, np.int64)])
        order_loops.turn(self.open, self.closed, self.phase, keys, phases)

    def end(self, keys: Array, agents: Array, epochs: Array) -> None:
        """What agents [n] did in `epochs` [n] is over when these phases of `keys` [n] are."""
        np.maximum.at(self.open.reshape(-1), keys * self.agents + agents, epochs)


def run_starts(*arrays: Array) -> Array:
    """Positions where any of `arrays`, of equal length, differs from the position before; 0 is one."""
    changes = np.zeros(len(arrays[0]), np.bool_)
    changes[:1] = True
    for array in arrays:
        changes[1:] |= array[1:] != array[:-1]
    return np.flatnonzero(changes)


def take_in(known: Array, warps: Array, clocks: Array, keys: Array) -> None:
    """Raise rows `warps` [n] of `known` to rows `keys` [n] of `clocks`."""
    order_loops.raise_rows(known, warps, clocks, keys)


def learn(known: Array, keys: Array, clocks: Array) -> None:
    """Raise rows `keys` [n], which may repeat, of `known` to `clocks` [n, agents]: a fast `maximum.at`."""
    order_loops.raise_rows(known, keys, np.ascontiguousarray(clocks), np.arange(len(keys)))


class Ordering:
    """The clocks of all warps of a machine, whose clusters have `per_cluster` warps each.

    In a cluster, warp w is agent w, and the tensor core working for it agent `per_cluster` + w.
    """

    def __init__(self, warps: int, per_cluster: int, implied: bool = False) -> None:
        agents = 2 * per_cluster
        self.implied = implied
        self.per_cluster = per_cluster
        self.agent = np.arange(warps) % per_cluster
        self.seen = np.zeros((warps, agents), np.int32)  # learned at barriers
        self.held = np.zeros((warps, agents), np.int32)  # of that, what counts for the warp's own accesses
        self.epoch = np.ones(warps, np.int32)
        self.core_epoch = np.ones(warps, np.int32)
        self.fenced = np.zeros(warps, np.int32)  # a warp's own epochs that others learn of
        # The epoch of the first load and of the first store that no tcgen05.wait has followed; 0: none.
        self.unfinished = {"ld": np.zeros(warps, np.int32), "st": np.zeros(warps, np.int32)}
        self.clocks: dict[str, BarrierClocks] = {}
        self._agents = agents

    def started(self, warps: Array, kind: str) -> None:
        """Warps issue a `tcgen05.ld` or `.st`."""
        if self.implied and kind == "ld":
            return
        first = self.unfinished[kind]
        first[warps] = np.where(first[warps] == 0, self.epoch[warps], first[warps])

    def finished(self, warps: Array, kind: str) -> None:
        """`tcgen05.wait::ld` or `::st`."""
        self.unfinished[kind][warps] = 0

    def fence_before(self, warps: Array) -> None:
        """`tcgen05.fence::before_thread_sync`."""
        over = self.epoch[warps]
        for first in self.unfinished.values():
            over = np.where(first[warps] > 0, np.minimum(over, first[warps] - 1), over)
        self.fenced[warps] = np.maximum(self.fenced[warps], over)
        self.epoch[warps] += 1

    def fence_after(self, warps: Array) -> None:
        """`tcgen05.fence::after_thread_sync`."""
        self.held[warps] = self.seen[warps]

    def committed(self, warps: Array) -> Array:
        """`tcgen05.commit`: the clocks [G, agents] that arrive when all its warps' products are complete."""
        self.fence_before(warps)
        clocks = self._published(warps)
        clocks[np.arange(len(warps)), self.per_cluster + self.agent[warps]] = self.core_epoch[warps]
        self.core_epoch[warps] += 1
        return clocks

    def arrive(self, kind: str, warps: Array, keys: Array, phases: Array) -> None:
        """Warps arrive on the barriers `keys` of a kind, which are in `phases`; both may repeat."""
        if self.implied:
            self.fence_before(np.unique(warps))
        barriers = self._barriers(kind)
        barriers.turn(keys, phases)
        order_loops.publish(barriers.open, keys, self.seen, warps, self.agent, self.fenced)

    def deliver(self, kind: str, clocks: Array, keys: Array, phases: Array) -> None:
        """Clocks arrive on barriers."""
        barriers = self._barriers(kind)
        barriers.turn(keys, phases)
        learn(barriers.open, keys, clocks)

    def passed(self, kind: str, warps: Array, keys: Array, phases: Array) -> None:
        """Each of `warps`, all different, has seen the phase before `phases` complete."""
        barriers = self._barriers(kind)
        barriers.turn(keys, phases)
        take_in(self.seen, warps, barriers.closed, keys)
        if self.implied:
            self.fence_after(warps)

    def _published(self, warps: Array) -> Array:
        clocks: Array = self.seen[warps].copy()
        clocks[np.arange(len(warps)), self.agent[warps]] = self.fenced[warps]
        return clocks

    def _barriers(self, kind: str) -> BarrierClocks:
        if kind not in self.clocks:
            self.clocks[kind] = BarrierClocks(self._agents)
        return self.clocks[kind]

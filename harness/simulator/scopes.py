"""What a warp may rely on in the shared memory of other CTAs, of all that it knows to be over.

A barrier orders the accesses of one CTA's threads. Between CTAs it does so only if both of its ends are of
cluster scope or wider (PTX ISA, "Memory Consistency Model": morally strong operations, release and acquire
patterns): the arrival, as `.release.cluster` or behind a fence of that scope, and the wait, as
`.acquire.cluster` or before such a fence. The cluster's own barrier releases and acquires unless it says
`.relaxed`. What is behind such an order may be passed on within a CTA by any barrier.

A fence whose effect is restricted to shared memory (`.sync_restrict`) counts as a whole one. Arrivals of
asynchronous copies and of `tcgen05.commit` count as released.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator import order_loops
from harness.simulator.ordering import BarrierClocks, learn, take_in

Array = npt.NDArray[Any]


class Scopes:
    """Clocks of `warps` warps [warps, agents], as `ThreadOrder` has them; warp w is the agent `agent[w]`."""

    def __init__(self, agent: Array, agents: int) -> None:
        self.agent, self._agents = agent, agents
        self.known, self.waiting, self.released = (np.zeros((len(agent), agents), np.int32) for _ in range(3))
        # By kind, what came from the barrier's own CTA, and what came from others.
        self._near: dict[str, BarrierClocks] = {}
        self._far: dict[str, BarrierClocks] = {}

    def fence(self, warps: Array, epochs: Array, release: bool, acquire: bool) -> None:
        """A fence of cluster scope or wider by `warps`, all different, in their `epochs`."""
        if acquire:
            self.known[warps] = np.maximum(self.known[warps], self.waiting[warps])
        if release:
            self.released[warps] = self.known[warps]
            self.released[warps, self.agent[warps]] = epochs

    def arrive(
        self, kind: str, warps: Array, epoch: Array, keys: Array, phases: Array, away: Array, release: bool
    ) -> None:
        """Warps arrive on barriers, `away` [n] on another CTA's; `release`: at cluster scope.

        `epoch` is that of every warp. A warp and a barrier of its may be named several times.
        """
        near, far = self._turned(kind, keys, phases)
        here = ~away
        order_loops.publish(near.open, keys[here], self.known, warps[here], self.agent, epoch)
        if not away.any():
            return
        if release:
            order_loops.publish(far.open, keys[away], self.known, warps[away], self.agent, epoch)
        else:
            order_loops.raise_rows(far.open, keys[away], self.released, warps[away])

    def complete(self, agents: Array, epochs: Array, keys: Array, phases: Array) -> None:
        """Copies end, which are what `agents` [n] did in `epochs` [n]."""
        near, _ = self._turned("mbarrier", keys, phases)
        near.end(keys, agents, epochs)

    def deliver(self, kind: str, clocks: Array, keys: Array, phases: Array) -> None:
        """Clocks of commits arrive on barriers."""
        near, _ = self._turned(kind, keys, phases)
        learn(near.open, keys, clocks)

    def passed(self, kind: str, warps: Array, keys: Array, phases: Array, acquire: bool) -> None:
        """Each of `warps`, all different, has seen the phase before `phases` complete."""
        near, far = self._turned(kind, keys, phases)
        take_in(self.known, warps, near.closed, keys)
        take_in(self.known if acquire else self.waiting, warps, far.closed, keys)

    def _turned(self, kind: str, keys: Array, phases: Array) -> tuple[BarrierClocks, BarrierClocks]:
        both = tuple(side.setdefault(kind, BarrierClocks(self._agents)) for side in (self._near, self._far))
        for clocks in both:
            clocks.turn(keys, phases)
        return both[0], both[1]

"""What each warp knows to be over: vector clocks of the warps of a cluster and of their copies.

One entry for each *agent*: a warp, or the asynchronous copies that a warp issues (agent `per_cluster` +
warp), which are over when their mbarrier's phase completes. A clock says up to which *epoch* of every agent
accesses to shared memory are known to be over; clocks travel through cluster barriers, mbarriers and named
barriers.

With them, a CTA's exit is checked: everything that others do in its shared memory has to be over, and known
to be. "Access to the shared memory of a CTA that has exited is undefined" (CUDA C++ Programming Guide,
"Distributed Shared Memory"); whether it happens depends on who is faster, so what is checked is the order.
`SharedRaces` asks the same of single words, and of those in other CTAs that the order has their scope.

Order that goes through flags in memory is not seen: a kernel that relies on it would be refused. The copies
of one warp count as done in the order of their issue, and its `tcgen05.commit`s among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator import order_loops
from harness.simulator.barrier_inits import BarrierInits
from harness.simulator.errors import SimulationError
from harness.simulator.ordering import BarrierClocks, learn, take_in
from harness.simulator.scopes import Scopes

Array = npt.NDArray[Any]


class ThreadOrder:
    """Clocks of `warps` warps of a machine, `per_cluster` of each cluster and `per_row` of each CTA.

    With `scoped`, also of what orders accesses between CTAs by the letter of the memory model. With
    `within`, mbarriers must be known to be initialized by threads of their own CTA too.
    """

    def __init__(
        self,
        warps: int,
        per_cluster: int,
        per_row: int,
        mbarrier_name: Callable[[int], str],
        scoped: bool = False,
        within: bool = False,
    ) -> None:
        self.per_cluster, self.per_row = per_cluster, per_row
        self.agents = 2 * per_cluster
        self.agent = np.arange(warps) % per_cluster
        self.seen = np.zeros((warps, self.agents), np.int32)
        self.epoch = np.ones(warps, np.int32)
        self.copy_epoch = np.ones(warps, np.int32)
        # Of each CTA, the epoch of every agent's last access from another CTA; 0: none.
        self.last = np.zeros((warps // per_row, self.agents), np.int32)
        self.block = 0  # of the program, that which is executed now
        self._block_of_last = np.zeros_like(self.last)
        self.inits = BarrierInits(self.seen, self.epoch, per_cluster, per_row, within, mbarrier_name)
        self.clocks: dict[str, BarrierClocks] = {}
        self.scopes = Scopes(self.agent, self.agents) if scoped else None

    def access(self, warps: Array, rows: Array) -> None:
        """`warps` [n] access the shared memory of other CTAs, `rows` [n]."""
        self.last[rows, self.agent[warps]] = self.epoch[warps]
        self._block_of_last[rows, self.agent[warps]] = self.block

    def copy(self, warps: Array, issue: Array, rows: Array, keys: Array) -> Array:
        """`warps` [n] issue copies; the epochs of their ends [n].

        Copy `issue[i]` writes to CTA `rows[i]` and signals the mbarrier `keys[i]`.
        """
        epochs = self._issue(warps, issue, rows)
        self.inits.copied(warps[issue], epochs[issue], keys)
        return epochs

    def commit(self, warps: Array, issue: Array, rows: Array) -> Array:
        """As `copy`, for a `tcgen05.commit`: the clocks of the ends [n, agents], with what its warps know."""
        epochs = self._issue(warps, issue, rows)
        clocks = self._published(warps)
        clocks[np.arange(len(warps)), self.per_cluster + self.agent[warps]] = epochs
        self.epoch[warps] += 1
        return clocks

    def _issue(self, warps: Array, issue: Array, rows: Array) -> Array:
        np.add.at(self.copy_epoch, warps, 1)
        epochs: Array = self.copy_epoch[warps]
        agents = self.per_cluster + self.agent[warps]
        np.maximum.at(self.last, (rows, agents[issue]), epochs[issue])
        self._block_of_last[rows, agents[issue]] = self.block
        return epochs

    def arrive(self, kind: str, warps: Array, keys: Array, phases: Array, away: Array, release: bool) -> None:
        """Warps arrive on the barriers `keys` of a kind, which are in `phases`; both may repeat.

        `away` [n]: the barrier is another CTA's. `release`: the arrival itself releases at cluster scope.
        """
        if self.scopes is not None:
            self.scopes.arrive(kind, warps, self.epoch, keys, phases, away, release)
        if release:
            self.inits.released(warps)
        barriers = self._barriers(kind, keys, phases)
        order_loops.publish(barriers.open, keys, self.seen, warps, self.agent, self.epoch)
        self.epoch[warps] += 1  # once, however often a warp is named

    def _published(self, warps: Array) -> Array:
        """What these warps know when they arrive somewhere, their own accesses included [n, agents].

        With the arrival, their epoch ends.
        """
        clocks: Array = self.seen.take(warps, 0)
        clocks[np.arange(len(warps)), self.agent[warps]] = self.epoch[warps]
        return clocks

    def complete(self, warps: Array, epochs: Array, keys: Array, phases: Array) -> None:
        """Copies that `warps` [n] have issued, known by the epochs of their ends [n], signal mbarriers."""
        self.inits.check_copies(warps, epochs, keys)
        agents = self.per_cluster + self.agent[warps]
        if self.scopes is not None:
            self.scopes.complete(agents, epochs, keys, phases)
        self._barriers("mbarrier", keys, phases).end(keys, agents, epochs)

    def deliver(self, kind: str, clocks: Array, keys: Array, phases: Array) -> None:
        """Clocks of commits arrive on mbarriers."""
        if self.scopes is not None:
            self.scopes.deliver(kind, clocks, keys, phases)
        learn(self._barriers(kind, keys, phases).open, keys, clocks)

    def passed(self, kind: str, warps: Array, keys: Array, phases: Array, acquire: bool) -> None:
        """Each of `warps`, all different, has seen the phase before `phases` complete.

        `acquire`: the wait itself acquires at cluster scope.
        """
        if self.scopes is not None:
            self.scopes.passed(kind, warps, keys, phases, acquire)
        take_in(self.seen, warps, self._barriers(kind, keys, phases).closed, keys)

    def fence(self, warps: Array, release: bool, acquire: bool) -> None:
        """A fence of cluster scope or wider by `warps`, all different, one-way or both ways."""
        if release:
            self.inits.released(warps)
        if self.scopes is not None:
            self.scopes.fence(warps, self.epoch[warps], release, acquire)
            self.epoch[warps] += 1

    def _barriers(self, kind: str, keys: Array, phases: Array) -> BarrierClocks:
        barriers = self.clocks.setdefault(kind, BarrierClocks(self.agents))
        barriers.turn(keys, phases)
        return barriers

    def check_exit(self, rows: Array, said: Callable[[int, int, bool], str]) -> None:
        """CTAs `rows` exit: raise unless each knows that nobody is in its shared memory any more.

        `said` are words for a warp, a block where it accessed the memory of a CTA, and whether by a copy.
        """
        known = self.seen.reshape(-1, self.per_row, self.agents)[rows].max(1)
        late = self.last[rows] > known
        if not late.any():
            return
        which, agent = (int(i) for i in np.argwhere(late)[0])
        by_copy = agent >= self.per_cluster
        cluster = int(rows[which]) * self.per_row // self.per_cluster
        warp = cluster * self.per_cluster + agent % self.per_cluster
        who = said(warp, int(self._block_of_last[rows[which], agent]), by_copy)
        what = "a copy or commit issued by" if by_copy else "an access by"
        raise SimulationError(
            f"it exits, and nothing orders before that {what} {who} in its shared memory",
            np.arange(len(rows)) == which,
        )

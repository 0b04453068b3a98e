"""Who may use an mbarrier: whoever knows, through a barrier, that it is initialized.

For other CTAs a barrier is not enough, if all that its arrivals say is `.relaxed` or of CTA scope: between
`mbarrier.init` and the arrival the initializing thread wants a `fence.mbarrier_init.release.cluster` (PTX
ISA, "membar / fence": it orders the prior mbarrier.init of its own thread), or the arrival or a fence, of a
thread that knows of the init, releases at cluster scope. That holds for arrivals from other CTAs and for
what is asynchronous and signals in other CTAs (multicast, `tcgen05.commit`) alike. Threads of the same CTA
need any barrier; this is asked for only `within` CTAs, in the search for races.

Almost always a warp is known to know all mbarriers of its cluster, and nothing more is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError

Array = npt.NDArray[Any]
NEVER = np.iinfo(np.int32).max
# How often it is asked whether warps know all mbarriers of their cluster, which takes many times as long as
# asking for those in use: where CTAs meet early it is soon the last question, where they meet late not.
PATIENCE = 64


class BarrierInits:
    """`seen` and `epoch` are those of a `ThreadOrder`; an mbarrier's key is slot * CTAs + CTA (`MBarriers`).

    `name` is that of an mbarrier in errors.
    """

    def __init__(
        self,
        seen: Array,
        epoch: Array,
        per_cluster: int,
        per_row: int,
        within: bool,
        name: Callable[[int], str],
    ) -> None:
        self._seen, self._epoch, self._within, self._name = seen, epoch, within, name
        self._per_cluster, self._per_row, self._ctas = per_cluster, per_row, per_cluster // per_row
        self._rows = len(epoch) // per_row
        self._by = np.zeros((0, self._rows), np.int64)  # [slots, rows] the initializing warp; -1: none
        self._at = np.zeros((0, self._rows), np.int32)  # its epoch
        # [slots, rows, warps of the CTA] the epoch of each warp's first release of what it knows of the init.
        self._released = np.zeros((0, self._rows, per_row), np.int32)
        # Inits so far: of each CTA and its cluster, and how many of them each warp has released, or knows.
        self._of_row = np.zeros(self._rows, np.int64)
        self._of_cluster = np.zeros(len(epoch) // per_cluster, np.int64)
        self._all_released, self._all_known = np.zeros(len(epoch), np.int64), np.zeros(len(epoch), np.int64)
        # Copies under way, as (warp, epoch, key), that signal mbarriers which their issuers do not know.
        self._unaware_copies: set[tuple[int, int, int]] = set()
        self._patience = PATIENCE

    def initialized(self, warps: Array, keys: Array) -> None:
        """`warps` [n] initialize mbarriers of their CTAs."""
        slots, rows = np.divmod(keys, self._rows)
        more = int(slots.max(initial=-1)) + 1 - len(self._by)
        if more > 0:
            shape = (more, self._rows)
            self._by = np.concatenate([self._by, np.full(shape, -1)])
            self._at = np.concatenate([self._at, np.zeros(shape, np.int32)])
            never = np.full((*shape, self._per_row), NEVER, np.int32)
            self._released = np.concatenate([self._released, never])
        self._by[slots, rows], self._at[slots, rows] = warps, self._epoch[warps]
        self._released[slots, rows] = NEVER
        np.add.at(self._of_row, rows, 1)
        np.add.at(self._of_cluster, rows // self._ctas, 1)

    def released(self, warps: Array, own: bool = False) -> None:
        """`warps` [n] release at cluster scope what they know; `own`: only their own inits, by a fence."""
        warps = warps[self._all_released[warps] < self._of_row[warps // self._per_row]]
        if not warps.size:
            return
        rows = warps // self._per_row
        by = self._by[:, rows]
        knows = by == warps if own else self._knows(warps, by, self._at[:, rows])
        slots, which = np.nonzero(knows & (by >= 0))
        place = slots, rows[which], warps[which] % self._per_row
        self._released[place] = np.minimum(self._released[place], self._epoch[warps[which]])
        every = (knows | (by < 0)).all(0)
        self._all_released[warps[every]] = self._of_row[rows[every]]

    def check(self, warps: Array, keys: Array) -> None:
        """Raise unless `warps` [n] know that the mbarriers `keys` [n], which they use, are initialized."""
        self._refuse(self._unaware(warps, keys), keys)

    def copied(self, warps: Array, epochs: Array, keys: Array) -> None:
        """`warps` [n] issue copies of `epochs` [n] that signal `keys` [n], which `check_copies` will see."""
        unaware = self._unaware(warps, keys)
        if unaware.any():
            issued = warps[unaware].tolist(), epochs[unaware].tolist(), keys[unaware].tolist()
            self._unaware_copies.update(zip(*issued, strict=True))

    def check_copies(self, warps: Array, epochs: Array, keys: Array) -> None:
        """As `check`, when the copies of `copied` signal `keys` [n]: of their issue."""
        if not self._unaware_copies:
            return
        issued = list(zip(warps.tolist(), epochs.tolist(), keys.tolist(), strict=True))
        missing = np.array([copy in self._unaware_copies for copy in issued], np.bool_)
        self._unaware_copies.difference_update(issued)
        self._refuse(missing, keys)

    def _refuse(self, wrong: Array, keys: Array) -> None:
        if wrong.any():
            raise SimulationError(
                f"nothing orders the mbarrier.init of {self._name(int(keys[wrong][0]))} before this: want a "
                "barrier in between, for another CTA one that releases at cluster scope or that comes behind "
                "a fence.mbarrier_init",
                wrong,
            )

    def _unaware(self, warps: Array, keys: Array) -> Array:
        """Which of `warps` [n] do not know that the mbarriers `keys` [n], which they use, are initialized."""
        nobody = np.zeros(len(warps), np.bool_)
        if self._know_all(warps):
            return nobody
        slots, rows = np.divmod(keys, self._rows)
        # Where CTAs meet late, almost every use is of an own mbarrier: a third of a launch went into asking.
        if not self._within and (rows == warps // self._per_row).all():
            return nobody
        if self._patience > 0:
            self._patience -= 1
            if not self._unknown(np.unique(warps)).any():
                return nobody
        return ~self._may_use(warps, slots, rows)

    def _know_all(self, warps: Array) -> bool:
        """Whether `warps` are known to know of all inits in their clusters, by now."""
        return bool((self._all_known[warps] == self._of_cluster[warps // self._per_cluster]).all())

    def _unknown(self, warps: Array) -> Array:
        """Which mbarriers of their clusters `warps` [n] may not use [CTAs, slots, n]; notes who may all."""
        clusters, slots = warps // self._per_cluster, np.arange(len(self._by))[:, None]
        of_cta = [~self._may_use(warps, slots, clusters * self._ctas + rank) for rank in range(self._ctas)]
        unknown = np.stack(of_cta)
        every = ~unknown.any((0, 1))
        self._all_known[warps[every]] = self._of_cluster[clusters[every]]
        return unknown

    def _may_use(self, warps: Array, slots: Array, rows: Array) -> Array:
        """Whether `warps` [n] may use the mbarriers in `slots` ([n] or [s, 1]) of CTAs `rows` [n]."""
        by = self._by[slots, rows]
        own = rows == warps // self._per_row
        near = self._knows(warps, by, self._at[slots, rows]) if self._within else own
        first = rows % self._ctas * self._per_row
        told = self._seen[warps[:, None], first[:, None] + np.arange(self._per_row)]
        far = (self._released[slots, rows] <= told).any(-1)
        may: Array = np.where(own, near, far) | (by < 0)
        return may

    def _knows(self, warps: Array, by: Array, at: Array) -> Array:
        """Whether `warps` [n] know what warps `by` [..., n] of their clusters did in epochs `at` [..., n]."""
        knows: Array = (by == warps) | (self._seen[warps, by % self._per_cluster] >= at)
        return knows

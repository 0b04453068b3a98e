"""Distributed shared memory: what a warp's access to other CTAs of its cluster costs.

The SM sends such an access over the cluster's network as packets, one for each sector of 32 bytes that its
lanes touch in another CTA, and its port passes one packet after the other, whichever warp they come from. A
warp that reads 128 neighbouring bytes needs 4 packets; one that reads 16 rows of a tile needs 16; one whose
lanes each read a list in another CTA needs 32. Lanes that stay in their own CTA cost what local access costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# NVIDIA Hopper Tuning Guide, distributed shared memory: accesses coalesced and aligned to 32-byte segments.
SECTOR_BYTES = 32


def packets(home: Array, rows: Array, offsets: Array, active: Array | None) -> Array:
    """Packets of each warp [W]: distinct sectors that its active lanes touch in other CTAs than their own.

    `home` [W]: each warp's CTA; `rows`, `offsets` [W, 32] or [W, 1]: what each lane, or the warp, accesses.
    """
    rows, offsets = np.broadcast_arrays(rows, offsets)
    remote = rows != home[:, None]
    if active is not None:
        remote = remote & active
    sectors = np.where(remote, (rows.astype(np.int64) << 32) + offsets // SECTOR_BYTES, -1)
    sectors = np.sort(sectors, axis=1)
    distinct: Array = (sectors[:, :1] >= 0).sum(1) + (np.diff(sectors, axis=1) > 0).sum(1)
    return distinct


class ClusterPort:
    """Each SM's way out to its cluster, with a clock of its own."""

    def __init__(self, sms: int) -> None:
        self.free = np.zeros(sms)

    def take(self, sms: Array, cycles: Array, times: Array) -> Array:
        """When packets of `cycles` in all, sent from `sms` at `times` (all [W]), have passed."""
        done = times.astype(np.float64)
        for index in np.argsort(times, kind="stable"):
            if cycles[index]:
                start = max(times[index], self.free[sms[index]])
                done[index] = self.free[sms[index]] = start + cycles[index]
        return done

"""Distributed shared memory: what a warp's access to other CTAs of its cluster costs.

The SM sends such an access over the cluster's network as requests, one for each line of 128 bytes that its
lanes touch in another CTA, and for each sector of 32 bytes of them; its port passes one after the other,
whichever warp they come from. A warp that reads 128 neighbouring bytes needs one line and 4 sectors; one that
reads 16 rows of a tile needs 16 lines and as many sectors; one whose lanes each read a list in another CTA
needs 32. On an H100 the first takes 7.5 cycles, and a line with one sector 3.0, in clusters of 2, 4 and 8
alike; 3.5 in clusters of 16, and up to 3.5 where all clusters of the chip do so at once.

Lanes that stay in their own CTA cost what local access costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# NVIDIA Hopper Tuning Guide, distributed shared memory: accesses coalesced and aligned to 32-byte segments.
SECTOR_BYTES = 32
LINE_BYTES = 128


def requests(home: Array, rows: Array, offsets: Array, active: Array | None) -> tuple[Array, Array]:
    """Lines and sectors of each warp, [W] each: distinct ones that its active lanes touch in other CTAs.

    `home` [W]: each warp's CTA; `rows`, `offsets` [W, 32] or [W, 1]: what each lane, or the warp, accesses.
    """
    rows, offsets = np.broadcast_arrays(rows, offsets)
    remote = rows != home[:, None]
    if active is not None:
        remote = remote & active
    places = (rows.astype(np.int64) << 32) + offsets
    return _distinct(places // LINE_BYTES, remote), _distinct(places // SECTOR_BYTES, remote)


def _distinct(values: Array, chosen: Array) -> Array:
    """How many different non-negative `values` [W, n] each row has where `chosen`."""
    ordered = np.sort(np.where(chosen, values, -1), axis=1)
    counts: Array = (ordered[:, :1] >= 0).sum(1) + (np.diff(ordered, axis=1) > 0).sum(1)
    return counts


class Port:
    """What each SM has one of, with a clock of its own: a way out, to its cluster or to memory, or its tensor
    cores. One request passes after the other."""

    def __init__(self, sms: int) -> None:
        self.free = [0.0] * sms

    def take(self, sms: Array, cycles: Array, times: Array) -> Array:
        """When requests of `cycles` in all, sent from `sms` at `times` (all [W]), have passed."""
        # Of Python's own numbers: numpy's take three times as long, one by one.
        done, needed, ports = times.astype(np.float64).tolist(), cycles.tolist(), sms.tolist()
        for index in np.argsort(times, kind="stable").tolist():
            if needed[index]:
                port = ports[index]
                self.free[port] = done[index] = max(done[index], self.free[port]) + needed[index]
        return np.array(done)

"""Where asynchronous copies may write: what each asks before it sets out, and when it arrives.

PTX ISA, "Parallel synchronization and communication instructions: mbarrier": a live mbarrier object is for
mbarrier operations only, until an mbarrier.inval. The first KiB of shared memory is the system's, and that of
a CTA which has exited nobody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.barriers import BARRIER_BYTES
from harness.simulator.errors import SimulationError

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]
LARGEST_ALIGNMENT = 16  # that `index` has to ask for: tile loads look for their 128 bytes themselves


def check_target(machine: Machine, rows: Array, offsets: Array, size: int, who: str) -> None:
    """Raise where a copy of `size` bytes may not write to `offsets` [n] of CTAs `rows` [n]."""
    end = min(size, LARGEST_ALIGNMENT)
    machine.shared.index(rows, offsets, end, None)
    if size > end:
        machine.shared.index(rows, offsets + (size - end), end, None)
    # A tile is thousands of words and there are few mbarriers: these are looked for in it.
    places = np.array(machine.mbarriers.offsets, np.int64)
    ahead = places - offsets[:, None]
    within = (ahead > -BARRIER_BYTES) & (ahead < size)
    if within.any():
        copy, slot = np.nonzero(within)
        _check_mbarriers(machine, rows[copy], offsets[copy], places[slot], f"{who} of {size} bytes")
    machine.operand_reads.check_write(rows, offsets, size, who)


def _check_mbarriers(machine: Machine, rows: Array, offsets: Array, places: Array, who: str) -> None:
    """Raise where a live mbarrier lies at `places` [k] of CTAs `rows`, which copies to `offsets` cover."""
    held = machine.mbarriers.holds(rows, places, BARRIER_BYTES)
    if held.any():
        first = np.flatnonzero(held)[:1]
        key = int(machine.mbarriers.keys(rows[first], places[first])[0])
        raise SimulationError(
            f"{who} to shared address {int(offsets[first][0]):#x}, over {machine.mbarriers.name(key)}: "
            "mbarrier.inval comes first"
        )


def check_arrival(machine: Machine, rows: Array, keys: Array, who: str) -> None:
    """Raise where a copy to CTAs `rows`, which signals the mbarriers `keys`, comes after a CTA's exit."""
    if machine.shared.alive.all():
        return
    reached = np.concatenate([rows, keys % machine.rows])
    dead = ~machine.shared.alive[reached]
    if dead.any():
        name = machine.cta_name(int(reached[dead][0]))
        raise SimulationError(f"{who} reaches the shared memory of CTA {name}, which has exited")

"""Where warps wait for the rest of their warpgroup.

`wgmma` instructions are `.aligned` for a warpgroup: its four warps execute them together (PTX ISA,
"Asynchronous warpgroup level matrix instructions"). Warps that come to a block of such instructions one by
one, because one of them issued a copy or polled a barrier alone, stand here until all four do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.blame import warp_name
from harness.simulator.cohort import WARPGROUP, Cohort

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]


class Gathering:
    """The cohorts that wait, at most one for each block; none of them has a whole warpgroup."""

    def __init__(self) -> None:
        self.waiting: dict[int, Cohort] = {}

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def arrive(self, cohort: Cohort, live: list[int]) -> Cohort | None:
        """A cohort comes to its block, of which `live` registers matter: the warpgroups now whole, if any."""
        if other := self.waiting.pop(cohort.block, None):
            cohort = other.join(cohort, live)
        cohort = cohort.ordered(live)
        whole = _whole(cohort)
        if whole.all():
            return cohort
        self.waiting[cohort.block] = cohort.part(~whole, live) if whole.any() else cohort
        return cohort.part(whole, live) if whole.any() else None

    def describe(self, machine: Machine) -> list[str]:
        """What every cohort here waits for."""
        return [
            f"{warp_name(machine, cohort, 0)} at PTX line "
            f"{machine.kernel.program.blocks[block].instructions[0].line} waits for the rest of its warpgroup"
            for block, cohort in self.waiting.items()
        ]


def _whole(cohort: Cohort) -> Array:
    """bool [W]: the warps whose warpgroup is here with all its warps."""
    inside = cohort.machine.warp_in_cta[cohort.warps]
    groups = cohort.warps - inside % WARPGROUP
    _, place, count = np.unique(groups, return_inverse=True, return_counts=True)
    whole: Array = count[place] == WARPGROUP
    return whole

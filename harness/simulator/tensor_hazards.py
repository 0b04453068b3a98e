"""A shadow of tensor memory that catches accesses which nothing orders.

For each CTA, quarter of 32 lanes and column: the last write, the last reads of the warps that reach the
quarter, and the last read by a tensor core. In a kernel whose warps access 16 lanes at a time, each half of a
quarter is a place of its own: accumulators of 64 rows may share columns, one in each half.

Products and copies issued by one thread execute in order where the PTX ISA says so ("Pipelined tcgen05
instructions": mma after mma, mma after cp), and where every published kernel relies on it: a copy of scale
factors over those that products before it read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError
from harness.simulator.ordering import Ordering
from harness.simulator.ptx import Instruction
from harness.simulator.tensor_memory import COLUMNS, QUADRANT

Array = npt.NDArray[Any]
QUARTERS = 4

# For each role of an instruction, the roles of its thread's earlier ones that it may follow without waiting.
PIPELINED = {
    "accumulator": ("accumulator",),
    "source": ("copy",),
    "copy": ("copy", "source"),
}
# The same where order is `implied`: fused attention writes scores over probabilities just multiplied.
IN_ORDER = PIPELINED | {"accumulator": ("accumulator", "source")}


@dataclass(frozen=True)
class Cells:
    """Places `flat` int [G, n] that G warps access, one row each."""

    warps: Array
    flat: Array


@dataclass
class _Track:
    """The last access of a kind to each place: its agent (-1: none), its epoch, what it was."""

    agent: Array
    epoch: Array
    what: Array

    @staticmethod
    def empty(cells: int) -> _Track:
        return _Track(np.full(cells, -1, np.int32), np.zeros(cells, np.int32), np.zeros(cells, np.int32))

    def note(self, cells: Array, agent: Array, epoch: Array, what: int) -> None:
        self.agent[cells] = agent[:, None]
        self.epoch[cells] = epoch[:, None]
        self.what[cells] = what


class TensorShadow:
    """Of `rows` CTAs, with `warps_per_cta` warps each; `halves` of a quarter told apart: 2, or 1 for none.

    `cta_name`: a row's CTA, for messages.
    """

    def __init__(
        self,
        ordering: Ordering,
        rows: int,
        warps_per_cta: int,
        halves: int = 1,
        cta_name: Callable[[int], str] = str,
    ) -> None:
        self.ordering = ordering
        self.warps_per_cta = warps_per_cta
        self.halves = halves
        self._cta_name = cta_name
        cells = rows * QUARTERS * halves * COLUMNS
        self.writes = _Track.empty(cells)
        self.core_reads = _Track.empty(cells)
        self.warp_reads = [_Track.empty(cells) for _ in range(-(-warps_per_cta // QUARTERS))]
        self._follows = IN_ORDER if ordering.implied else PIPELINED
        self._told: dict[tuple[int, str], int] = {}
        self._names: list[tuple[str, str]] = []
        self._version = 0
        self._recent: dict[tuple[str, int, bytes, bytes], int] = {}

    def quarter(
        self,
        warps: Array,
        rows: Array,
        quarters: Array,
        first: Array,
        columns: int,
        half: Array | None = None,
    ) -> Cells:
        """`columns` columns from `first` [G] of one quarter of lanes [G] of the CTAs `rows` [G].

        `half` [G]: in that half of the quarter only.
        """
        base = self._halves((rows * QUARTERS + quarters)[:, None], half)
        flat = (base * COLUMNS + first[:, None])[..., None] + np.arange(columns)
        return Cells(warps, flat.reshape(len(warps), -1))

    def all_lanes(
        self, warps: Array, ctas: Array, first: Array, columns: int, half: Array | None = None
    ) -> Cells:
        """`columns` columns from `first` [G], in all lanes of the CTAs `ctas` [G, P] that a warp works on.

        `half` [G]: in that half of every quarter only.
        """
        quarters = (ctas[:, :, None] * QUARTERS + np.arange(QUARTERS)).reshape(len(warps), -1)
        flat = (self._halves(quarters, half) * COLUMNS + first[:, None])[..., None] + np.arange(columns)
        return Cells(warps, flat.reshape(len(warps), -1))

    def _halves(self, quarters: Array, half: Array | None) -> Array:
        """The halves [G, q * n] of quarters [G, q]: both, where they are told apart, or one of each."""
        if self.halves == 1:
            return quarters
        if half is not None:
            one: Array = quarters * self.halves + half[:, None]
            return one
        both: Array = quarters[..., None] * self.halves + np.arange(self.halves)
        return both.reshape(len(quarters), -1)

    def load(self, instruction: Instruction, cells: Cells) -> None:
        """A warp's `tcgen05.ld`."""
        self._check(self.writes, cells, "reads", "writes")
        slot = int(cells.warps[0] % self.warps_per_cta) // QUARTERS
        slots = cells.warps % self.warps_per_cta // QUARTERS
        epoch, agent = self.ordering.epoch[cells.warps], self.ordering.agent[cells.warps]
        what = self._what(instruction, "load")
        if (slots == slot).all():
            self.warp_reads[slot].note(cells.flat, agent, epoch, what)
        else:
            for slot in np.unique(slots):
                mine = slots == slot
                self.warp_reads[slot].note(cells.flat[mine], agent[mine], epoch[mine], what)
        self.ordering.started(cells.warps, "ld")
        self._version += 1

    def store(self, instruction: Instruction, cells: Cells) -> None:
        """A warp's `tcgen05.st`."""
        self._check_all(cells)
        epoch, agent = self.ordering.epoch[cells.warps], self.ordering.agent[cells.warps]
        self.writes.note(cells.flat, agent, epoch, self._what(instruction, "store"))
        self.ordering.started(cells.warps, "st")
        self._version += 1

    def free(self, cells: Cells) -> None:
        """A deallocation: everything has to be over."""
        self._check_all(cells, "frees")
        for track in (self.writes, self.core_reads, *self.warp_reads):
            track.agent[cells.flat] = -1

    def core(self, instruction: Instruction, role: str, cells: Cells) -> None:
        """An access by tensor cores: as "accumulator" (written), "source" (read) or "copy" (written)."""
        what = self._what(instruction, role)
        key = (role, cells.flat.shape[1], cells.warps.tobytes(), cells.flat[:, 0].tobytes())
        if role != "copy" and self._recent.get(key) == self._version:
            return
        ordering = self.ordering
        agent = ordering.per_cluster + ordering.agent[cells.warps]
        if role == "source":
            self._check(self.writes, cells, "reads", "writes", agent, role)
            self.core_reads.note(cells.flat, agent, ordering.core_epoch[cells.warps], what)
        else:
            self._check_all(cells, "writes", agent, role)
            self.writes.note(cells.flat, agent, ordering.core_epoch[cells.warps], what)
        if role == "copy":
            self._version += 1
        self._recent[key] = self._version

    def committed(self) -> None:
        """Epochs have moved on: what follows a commit is noted anew."""
        self._version += 1
        self._recent.clear()

    def _check_all(
        self, cells: Cells, does: str = "writes", core: Array | None = None, role: str = ""
    ) -> None:
        self._check(self.writes, cells, does, "writes", core, role)
        for track in (*self.warp_reads, self.core_reads):
            self._check(track, cells, does, "reads", core, role)

    def _check(
        self, track: _Track, cells: Cells, does: str, did: str, core: Array | None = None, role: str = ""
    ) -> None:
        """Raise unless what `track` holds is over, or in order with what `core` [G] does in `role`."""
        ordering, warps = self.ordering, cells.warps
        agent = track.agent[cells.flat]
        if (agent < 0).all():
            return
        follows = agent == core[:, None] if core is not None else None
        if follows is not None:
            allowed = np.array([name[1] in self._follows[role] for name in self._names])
            follows &= allowed[track.what[cells.flat]]
            if follows.all():
                return
        safe = np.maximum(agent, 0)
        epoch = track.epoch[cells.flat]
        late = (agent >= 0) & (epoch > np.take_along_axis(ordering.held[warps], safe, 1))
        own = agent == ordering.agent[warps][:, None]
        first = ordering.unfinished["ld" if did == "reads" else "st"][warps][:, None]
        late &= ~own | ((first > 0) & (epoch >= first))
        if follows is not None:
            late &= ~follows
        if late.any():
            group, place = np.argwhere(late)[0]
            seen = ordering.seen[warps[group], agent[group, place]] >= epoch[group, place]
            story = self._story(
                int(cells.flat[group, place]), track, does, did, bool(own[group, place]), bool(seen)
            )
            raise SimulationError(story, late.any(1))

    def _story(self, cell: int, track: _Track, does: str, did: str, own: bool, seen: bool) -> str:
        """What is unordered at `cell`, and what would order it."""
        place, column = cell // COLUMNS, cell % COLUMNS
        row, part = place // (QUARTERS * self.halves), place % (QUARTERS * self.halves)
        name, _ = self._names[int(track.what[cell])]
        agent = int(track.agent[cell])
        warp = agent % self.ordering.per_cluster % self.warps_per_cta
        kind = "ld" if did == "reads" else "st"
        if seen:
            want = "the barrier between them counts with a tcgen05.fence::after_thread_sync behind it"
        elif own:
            want = f"want a tcgen05.wait::{kind} between them"
        elif agent >= self.ordering.per_cluster:
            want = "want a wait for a tcgen05.commit behind it"
        else:
            want = f"want a tcgen05.wait::{kind}, a tcgen05.fence::before_thread_sync and a barrier behind it"
        return (
            f"{does} tensor memory of CTA {self._cta_name(row)}, "
            f"lanes {QUADRANT // self.halves * part} on, column {column}, "
            f"that {name} for warp {warp} {did}, and nothing orders the two: {want}"
        )

    def _what(self, instruction: Instruction, role: str) -> int:
        key = (instruction.line, role)
        if key not in self._told:
            self._told[key] = len(self._names)
            self._names.append((f"{instruction.opcode} (PTX line {instruction.line})", role))
        return self._told[key]

"""The tensor cores' queue: what `tcgen05.mma` and `tcgen05.cp` have issued and what of it is complete.

Products and copies of one thread execute in the order of issue, when the next commit behind them is due:
operands in shared memory are read then, as late as hardware might. Until then what they read is in flight,
and a copy that overwrites it is an error.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.blame import warp_at
from harness.simulator.errors import SimulationError
from harness.simulator.shared import PAGE_WORDS
from harness.simulator.tcgen05_copy import copy_to_tensor_memory
from harness.simulator.tcgen05_mma import Scales, TensorCore
from harness.simulator.tensor_allocation import Allocations
from harness.simulator.tensor_hazards import TensorShadow
from harness.simulator.tensor_issue import Issued, reads_of, runs_of, steps_of
from harness.simulator.tensor_memory import TensorMemory

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]


@dataclass
class TensorUnit:
    """The tensor memories of all resident CTAs, and the queue of the tensor cores."""

    machine: Machine
    memory: TensorMemory
    allocations: Allocations
    shadow: TensorShadow | None
    cta_group: int = 0
    queue: list[Issued] = field(default_factory=list)
    _order: int = 0

    def __post_init__(self) -> None:
        self.core = TensorCore(self.machine.shared.bytes, self.memory)
        self.done_at = np.zeros(len(self.machine.row_of_warp))  # by warp: when all it has issued is complete
        # By CTA and page: how many reads of it are queued.
        self.reading = np.zeros(self.machine.shared.state.shape, np.int16)

    def uses_group(self, group: int) -> None:
        """All tcgen05 instructions of a kernel name the same cta_group (PTX ISA, "Issue granularity")."""
        if self.cta_group not in (0, group):
            raise SimulationError(f"cta_group::{group} in a kernel that uses cta_group::{self.cta_group}")
        self.cta_group = group

    def ctas(self, rows: Array, group: int) -> Array:
        """The CTAs [G, group] that a CTA's instructions act on."""
        self.uses_group(group)
        if group == 1:
            return rows[:, None]
        if self.machine.cluster_size % 2:
            raise SimulationError(f"cta_group::2 in a cluster of {self.machine.cluster_size} CTAs")
        even = rows - self.machine.rank_of_row[rows] % 2
        return np.stack([even, even + 1], 1)

    def issue(self, one: Issued, cycles: float, times: Array) -> None:
        """Queue an instruction that takes `cycles` and was issued at `times` [G]."""
        machine = self.machine
        dead = ~machine.shared.alive[one.ctas].all(1)
        if dead.any():
            raise SimulationError("a CTA that the instruction works on has exited", dead)
        self._order += 1
        one = replace(one, order=self._order)
        if machine.functional:
            self._check_operands([one])
            self._count([one], 1)
        self.queue.append(one)
        ends = machine.units.occupy_tensor_cores(machine.sm_of_row[one.ctas], cycles, times)
        self.done_at[one.warps] = np.maximum(self.done_at[one.warps], ends)

    def commit(self, warps: Array, times: Array, arrive: Callable[[Array], None]) -> None:
        """Call `arrive` with the times [G] when all that `warps` have issued is complete."""
        limit = self._order
        done = np.maximum(self.done_at[warps], times) + self.machine.units.target.chip["mma_latency"]

        def complete() -> None:
            self._execute(warps, limit)
            arrive(done)

        self.machine.at(float(done.max()), complete)

    def check_overwrite(self, rows: Array, first_word: Array, last_word: Array) -> None:
        """A copy into words `first_word` to `last_word` of the CTAs `rows` (each [n]) begins."""
        pages = np.arange(int((last_word // PAGE_WORDS - first_word // PAGE_WORDS).max()) + 1)
        touched = np.minimum(first_word[:, None] // PAGE_WORDS + pages, last_word[:, None] // PAGE_WORDS)
        if not self.reading[rows[:, None], touched].any():
            return
        for one in self.queue:
            for ctas, words, _ in one.reads:
                near = (words[:, :1] <= last_word) & (words[:, -1:] >= first_word)
                for group, copy in np.argwhere((ctas[:, None] == rows) & near):
                    read = words[group % len(words)]
                    if ((read >= first_word[copy]) & (read <= last_word[copy])).any():
                        raise SimulationError(
                            "a copy overwrites shared memory of CTA "
                            f"{self.machine.cta_name(int(rows[copy]))} from "
                            f"{4 * int(first_word[copy]):#x} on, which {one.name} may still read"
                        )

    def check_exit(self, rows: Array) -> None:
        for one in self.queue:
            gone = np.asarray(np.isin(one.ctas, rows).any(1))
            if gone.any():
                raise SimulationError(f"{self._place(one, gone)}: a CTA exits before it is complete")
        self.allocations.check_exit(rows)

    def check_finished(self) -> None:
        """Every CTA has been checked when it exited."""

    def _execute(self, warps: Array, limit: int) -> None:
        """Execute what `warps` have issued up to number `limit`."""
        mine: list[Issued] = []
        rest: list[Issued] = []
        named = np.zeros(len(self.done_at), np.bool_)
        named[warps] = True
        for one in self.queue:
            chosen = named[one.warps] if one.order <= limit else np.zeros(len(one.warps), np.bool_)
            if chosen.all():
                mine.append(one)
            elif chosen.any():
                mine.append(one.of(chosen))
                rest.append(one.of(~chosen))
            else:
                rest.append(one)
        self.queue = rest
        if not self.machine.functional:
            return
        self._count(mine, -1)
        for run in runs_of(mine):
            try:
                self._perform(run)
            except SimulationError as error:
                raise error.located(self._place(run[0], error.wrong)) from error

    def _count(self, some: list[Issued], change: int) -> None:
        """Note that what `some` read is queued, or no longer."""
        for read in chain.from_iterable(one.reads for one in some):
            self.reading[read.ctas[:, None], read.pages] += change  # a page counts once, also named twice

    def _place(self, one: Issued, wrong: Array | None) -> str:
        """The first warp that `wrong` [G] marks (None: any), and the instruction it issued earlier."""
        warp = one.warps[0 if wrong is None else int(np.argmax(wrong))]
        return warp_at(self.machine, int(warp), one.instruction)

    def _check_operands(self, run: list[Issued]) -> None:
        """Raise unless what a run reads of shared memory has been written, and fenced where it must be.

        It has to be so when an instruction is issued, and still when it is executed.
        """
        for ctas, words, pages in run[0].reads if len(run) == 1 else reads_of(run):
            try:
                self.machine.shared.check_async_read(ctas, words, pages)
            except SimulationError as error:
                if error.wrong is not None:
                    error.wrong = error.wrong.reshape(run[0].ctas.shape).any(1)
                raise

    def _perform(self, run: list[Issued]) -> None:
        """Copies of one shape, or products of one accumulator."""
        first = run[0]
        shared = self.machine.shared
        self._check_operands(run)
        if first.mma is None:
            flat, group = first.ctas.reshape(-1), first.ctas.shape[1]
            copy_to_tensor_memory(
                first.shape,
                shared.bytes,
                self.memory,
                flat,
                steps_of(run, "d").repeat(group, 0),
                steps_of(run, "a").repeat(group, 0),
            )
            return

        scales = Scales(steps_of(run, "scale_a"), steps_of(run, "scale_b")) if first.mma.scale else None
        self.core.multiply(
            first.mma,
            first.ctas,
            first.d,
            steps_of(run, "a"),
            steps_of(run, "b"),
            accumulate=first.accumulate,
            scales=scales,
            a_in_tensor_memory=first.a_in_tensor_memory,
            scale_input=first.scale_input,
            disabled_lanes=first.disabled,
        )


def tensor_unit(machine: Machine) -> TensorUnit:
    """The machine's tensor unit, made at its first use."""
    unit = machine.unit_state.get("tensor")
    if unit is None:
        ordering = machine.ordering
        shadow = None
        if ordering is not None:
            halves = 2 if machine.kernel.halves_quarters else 1
            shadow = TensorShadow(ordering, machine.rows, machine.warps_per_cta, halves, machine.cta_name)
        memory = TensorMemory.empty(machine.rows)
        allocations = Allocations(machine.sm_of_row, machine.cta_name)
        unit = TensorUnit(weakref.proxy(machine), memory, allocations, shadow)
        machine.unit_state["tensor"] = unit
    assert isinstance(unit, TensorUnit)
    return unit

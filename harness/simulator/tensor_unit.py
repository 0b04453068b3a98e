"""The tensor cores' queue: what `tcgen05.mma` and `tcgen05.cp` have issued and what of it is complete.

Products and copies of one thread execute in the order of issue, when the next commit behind them is due: operands in
shared memory are read then, as late as hardware might. Products of one accumulator that follow each other are
executed as one. Until then what they read is in flight, and a copy that overwrites it is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError
from harness.simulator.ptx import Instruction
from harness.simulator.tcgen05_copy import SHAPES, chunk_indices, copy_to_tensor_memory
from harness.simulator.tcgen05_instruction import Mma
from harness.simulator.tcgen05_mma import Scales, TensorCore
from harness.simulator.tensor_allocation import Allocations
from harness.simulator.tensor_hazards import TensorShadow
from harness.simulator.tensor_memory import TensorMemory

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]
WORDS_PER_CHUNK = 4


@dataclass(frozen=True)
class Issued:
    """One instruction issued by G warps, each working on the CTAs `ctas` [G, P], even rank first.

    Of a product: `d` [G], `a` and `b` [G] (descriptors, or A's address), `accumulate` [G], scale factors' addresses
    [G]. Of a copy, named `shape`: `d` is the target and `a` the descriptor.
    """

    instruction: Instruction
    warps: Array
    ctas: Array
    d: Array
    a: Array
    b: Array
    accumulate: Array
    scale_a: Array
    scale_b: Array
    disabled: Array | None = None
    mma: Mma | None = None
    shape: str = ""
    a_in_tensor_memory: bool = False
    scale_input: int = 0
    order: int = 0

    @cached_property
    def reads(self) -> list[tuple[Array, Array]]:
        """What it reads of shared memory, operand by operand: CTAs [n] and words [1 or n, w], ascending."""
        return [(ctas, words) for ctas, words, _ in _reads([self])]

    def of(self, chosen: Array) -> Issued:
        """The same of some of its warps (bool [G])."""
        arrays = {name: value[chosen] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)

    def continues(self, earlier: Issued) -> bool:
        """Whether this product adds to the one before it and may be executed with it."""
        return (
            self.mma is not None
            and self.mma == earlier.mma
            and self.disabled is None
            and earlier.disabled is None
            and self.a_in_tensor_memory == earlier.a_in_tensor_memory
            and self.scale_input == 0
            and bool(self.accumulate.all())
            and np.array_equal(self.warps, earlier.warps)
            and np.array_equal(self.d, earlier.d)
        )


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
        if not machine.shared.alive[one.ctas].all():
            raise SimulationError("a CTA that the instruction works on has exited")
        self._order += 1
        self.queue.append(replace(one, order=self._order))
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
        for one in self.queue:
            for ctas, words in one.reads:
                near = (words[:, :1] <= last_word) & (words[:, -1:] >= first_word)
                for group, copy in np.argwhere((ctas[:, None] == rows) & near):
                    read = words[group % len(words)]
                    if ((read >= first_word[copy]) & (read <= last_word[copy])).any():
                        raise SimulationError(
                            f"a copy overwrites shared memory of CTA {rows[copy]} from {4 * int(first_word[copy]):#x} "
                            f"on, which {one.instruction.opcode} (PTX line {one.instruction.line}) may still read"
                        )

    def check_exit(self, rows: Array) -> None:
        for one in self.queue:
            if np.isin(one.ctas, rows).any():
                raise SimulationError(
                    f"a CTA exits before {one.instruction.opcode} (PTX line {one.instruction.line}) is complete"
                )
        self.allocations.check_exit(rows)

    def check_finished(self) -> None:
        """Every CTA has been checked when it exited."""

    def _execute(self, warps: Array, limit: int) -> None:
        """Execute what `warps` have issued up to number `limit`."""
        mine: list[Issued] = []
        rest: list[Issued] = []
        for one in self.queue:
            chosen = np.isin(one.warps, warps) if one.order <= limit else np.zeros(len(one.warps), np.bool_)
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
        for run in _runs(mine):
            try:
                self._perform(run)
            except SimulationError as error:
                first = run[0].instruction
                raise error.located(f"PTX line {first.line}: `{first.text}`") from error

    def _perform(self, run: list[Issued]) -> None:
        """One copy, or products of one accumulator."""
        first = run[0]
        shared = self.machine.shared
        for ctas, words, pages in _reads(run):
            shared.check_async_read(ctas, words, pages)
        if first.mma is None:
            flat, group = first.ctas.reshape(-1), first.ctas.shape[1]
            copy_to_tensor_memory(
                first.shape, shared.bytes, self.memory, flat, first.d.repeat(group), first.a.repeat(group)
            )
            return

        scales = Scales(_steps(run, "scale_a"), _steps(run, "scale_b")) if first.mma.scale else None
        self.core.multiply(
            first.mma,
            first.ctas,
            first.d,
            _steps(run, "a"),
            _steps(run, "b"),
            accumulate=first.accumulate,
            scales=scales,
            a_in_tensor_memory=first.a_in_tensor_memory,
            scale_input=first.scale_input,
            disabled_lanes=first.disabled,
        )


def _runs(issued: list[Issued]) -> Iterator[list[Issued]]:
    """Copies one by one, products in runs that accumulate into the same place."""
    run: list[Issued] = []
    for one in issued:
        if run and not one.continues(run[-1]):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def _reads(run: list[Issued]) -> Iterator[tuple[Array, Array, Array | None]]:
    """What a run reads of shared memory, operand by operand: CTAs [n], words [1 or n, w] and their pages."""
    first = run[0]
    flat, group = first.ctas.reshape(-1), first.ctas.shape[1]
    if first.mma is None:
        shape = SHAPES[first.shape]
        chunks = np.stack([chunk_indices(shape, int(d)).reshape(-1) for d in first.a])
        chunks.sort()
        words = (chunks[..., None] * WORDS_PER_CHUNK + np.arange(WORDS_PER_CHUNK)).reshape(len(chunks), -1)
        yield flat, words.repeat(group, 0), None
        return
    operands = [(first.mma.b, _steps(run, "b"))]
    if not first.a_in_tensor_memory:
        operands.append((first.mma.a, _steps(run, "a")))
    for operand, descriptors in operands:
        words, pages = operand.words(descriptors)
        if len(words) > 1:
            words, pages = words.repeat(group, 0), pages.repeat(group, 0)
        yield flat, words, pages


def _steps(run: list[Issued], name: str) -> Array:
    """An operand [G, S] of all instructions of a run."""
    return np.stack([getattr(one, name) for one in run], 1)


def tensor_unit(machine: Machine) -> TensorUnit:
    """The machine's tensor unit, made at its first use."""
    unit = machine.unit_state.get("tensor")
    if unit is None:
        ordering = machine.ordering
        shadow = TensorShadow(ordering, machine.rows, machine.warps_per_cta) if ordering is not None else None
        memory = TensorMemory.empty(machine.rows)
        unit = TensorUnit(machine, memory, Allocations(machine.sm_of_row), shadow)
        machine.unit_state["tensor"] = unit
    assert isinstance(unit, TensorUnit)
    return unit

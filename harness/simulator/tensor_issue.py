"""What `tcgen05.mma` and `tcgen05.cp` put into the tensor cores' queue, and what it reads of shared memory.

Products of one accumulator that follow each other are executed as one, a run; so are copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.simulator.operand import by_descriptors
from harness.simulator.ptx import Instruction
from harness.simulator.shared import PAGE_WORDS
from harness.simulator.tcgen05_copy import SHAPES, chunk_indices
from harness.simulator.tcgen05_instruction import Mma

Array = npt.NDArray[Any]
WORDS_PER_CHUNK = 4


class Read(NamedTuple):
    """Words [1 or n, w] of the CTAs [n], ascending, and the pages [1 or n, p] that they lie in."""

    ctas: Array
    words: Array
    pages: Array


@dataclass(frozen=True)
class Issued:
    """One instruction issued by G warps, each working on the CTAs `ctas` [G, P], even rank first.

    Of a product: `d` [G], `a` and `b` [G] (descriptors, or A's address), `accumulate` [G], scale factors'
    addresses [G]. Of a copy, named `shape`: `d` is the target and `a` the descriptor.
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

    @property
    def name(self) -> str:
        return f"{self.instruction.opcode} (PTX line {self.instruction.line})"

    @cached_property
    def reads(self) -> list[Read]:
        """What it reads of shared memory, operand by operand."""
        return list(reads_of([self]))

    def of(self, chosen: Array) -> Issued:
        """The same of some of its warps (bool [G])."""
        arrays: dict[str, Any] = {
            name: value[chosen] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return replace(self, **arrays)

    def continues(self, earlier: Issued) -> bool:
        """Whether it may be executed with the one before it: both copy, or this adds to its product."""
        if self.mma != earlier.mma or not np.array_equal(self.warps, earlier.warps):
            return False
        if self.mma is None:
            return self.shape == earlier.shape
        return (
            self.disabled is None
            and earlier.disabled is None
            and self.a_in_tensor_memory == earlier.a_in_tensor_memory
            and self.scale_input == 0
            and bool(self.accumulate.all())
            and np.array_equal(self.d, earlier.d)
        )


def runs_of(issued: list[Issued]) -> Iterator[list[Issued]]:
    """Copies of a shape that follow each other, and products that accumulate into the same place."""
    run: list[Issued] = []
    for one in issued:
        if run and not one.continues(run[-1]):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def reads_of(run: list[Issued]) -> Iterator[Read]:
    """What a run reads of shared memory, operand by operand."""
    first = run[0]
    flat, group = first.ctas.reshape(-1), first.ctas.shape[1]
    if first.mma is None:
        reads = [by_descriptors(steps_of(run, "a"), partial(_copied, first.shape))]
    else:
        reads = [first.mma.b.words(steps_of(run, "b"))]
        if not first.a_in_tensor_memory:
            reads.append(first.mma.a.words(steps_of(run, "a")))
    for words, pages in reads:
        if len(words) > 1:
            words, pages = words.repeat(group, 0), pages.repeat(group, 0)
        yield Read(flat, words, pages)


@lru_cache(maxsize=4096)
def _copied(shape: str, descriptors: tuple[int, ...]) -> tuple[Array, Array]:
    """The words [1, w] that `tcgen05.cp`s of these descriptors read, ascending, and their pages [1, p].

    A page may occur twice, so that all copies of a shape have equally many.
    """
    chunks = np.sort([chunk_indices(SHAPES[shape], one) for one in descriptors], axis=None)
    words = chunks[:, None] * WORDS_PER_CHUNK + np.arange(WORDS_PER_CHUNK)
    return words.reshape(1, -1), (words[:, 0] // PAGE_WORDS)[None]


def steps_of(run: list[Issued], name: str) -> Array:
    """An operand [G, S] of all instructions of a run."""
    return np.stack([getattr(one, name) for one in run], 1)

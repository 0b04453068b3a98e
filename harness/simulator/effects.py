"""The registry of instructions that act on more than registers, and of those that wait.

An *effect* is registered under the parts that its opcode begins with; the longest registered prefix wins. Its
factory gets the instruction (for modifiers and operand forms) and returns `run(c, m, *operands)`: `c` is the
cohort, `m` its mask of active lanes (None: all, else bool [W, 32] or what broadcasts to it), and the operands
are registers' raw bits, Python integers for literals, tuples for vectors, `(address, coordinates)` for TMA
operands. With `writes`, the first operand is the destination and `run` returns its bits (a tuple for a
vector).

A *wait* ends a block. `begin(c, m, *operands)` does what arriving does and returns arrays with one row for
each warp; `poll(c, token)` tells which warps may go on and the clock of each when it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from harness.simulator.errors import NotSimulatedError, SimulationError
from harness.simulator.packed import pack, unpack
from harness.simulator.ptx import Instruction
from harness.simulator.registry import TYPES

Array = npt.NDArray[Any]
Run = Callable[..., Any]


@dataclass(frozen=True)
class Effect:
    """`bind` makes the function for one instruction. `registers`: vector operands are register numbers."""

    bind: Callable[[Instruction], Run]
    writes: bool = False
    registers: bool = False


class Wait(Protocol):
    """An instruction that may have to wait."""

    def begin(self, c: Any, *operands: Any) -> tuple[Array, ...]:
        """Arrive; the arrays [W, ...] that `poll` needs."""

    def poll(self, c: Any, token: tuple[Array, ...]) -> tuple[Array, Array]:
        """(ready bool [W], clock float64 [W] with which a ready warp goes on)."""

    def describe(self, c: Any, token: tuple[Array, ...], warp: int) -> str:
        """What the cohort's warp number `warp` waits for."""


_EFFECTS: dict[tuple[str, ...], Effect] = {}
_WAITS: dict[tuple[str, ...], Callable[[Instruction], Wait]] = {}


def effect(
    *prefix: str, flags: str | None = None, writes: bool = False, registers: bool = False
) -> Callable[[Any], Any]:
    """Register a factory of effects for opcodes that begin with `prefix`.

    `flags`, separated by spaces, are the modifiers behind the prefix that it knows, beside one type (`L2::*`
    stands for all that begin so); any other is refused. None: the factory looks for itself.
    """

    def register(factory: Callable[[Instruction], Run]) -> Callable[[Instruction], Run]:
        _EFFECTS[prefix] = Effect(_checked(factory, len(prefix), flags), writes, registers)
        return factory

    return register


def wait(*prefix: str, flags: str | None = None) -> Callable[[Any], Any]:
    """Register a factory of waits for opcodes that begin with `prefix`; `flags` as for `effect`."""

    def register(factory: Callable[[Instruction], Wait]) -> Callable[[Instruction], Wait]:
        _WAITS[prefix] = _checked(factory, len(prefix), flags)
        return factory

    return register


def _checked(
    factory: Callable[[Instruction], Any], prefix: int, flags: str | None
) -> Callable[[Instruction], Any]:
    """`factory`, for opcodes whose parts behind the prefix are among `flags`, but for one type at most."""
    if flags is None:
        return factory
    known = set(flags.split())
    families = tuple(flag.removesuffix("*") for flag in known if flag.endswith("*"))

    def check(instruction: Instruction) -> Any:
        others = [part for part in instruction.parts[prefix:] if part not in known]
        types = [part for part in others if part in TYPES]
        if len(types) > 1:
            raise SimulationError(f"unknown modifier .{types[0]} in {instruction.opcode}: one type is enough")
        for part in others:
            if part not in types and not (families and part.startswith(families)):
                raise SimulationError(f"unknown modifier .{part} in {instruction.opcode}")
        return factory(instruction)

    return check


def effect_of(instruction: Instruction) -> Effect | None:
    """The effect registered for an instruction, or None: then it is one on registers only."""
    parts = instruction.parts
    for length in range(min(5, len(parts)), 0, -1):
        if found := _EFFECTS.get(parts[:length]):
            return found
    return None


def wait_of(instruction: Instruction) -> Wait:
    """The wait registered for an instruction; raises `SimulationError` for an unknown one."""
    parts = instruction.parts
    for length in range(min(5, len(parts)), 0, -1):
        if found := _WAITS.get(parts[:length]):
            return found(instruction)
    raise NotSimulatedError(f"{instruction.opcode} is not known")


def mover(sources: int, targets: int, width: Any) -> Run:
    """`mov` between a wide register and the vector of its parts."""
    bits = 8 * width().itemsize
    if targets == 1:
        return lambda *parts: pack(*parts)
    if sources == 1:
        return lambda whole: unpack(whole, targets)
    raise SimulationError(f"a move of {sources} registers to {targets}, {bits} bits")

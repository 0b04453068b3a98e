"""Where instruction semantics are registered, and what they see of an instruction's spelling.

A PTX opcode carries its variant in dot-separated modifiers, the operand type among them. Semantics are
registered for an opcode, the types they cover and the number of destinations; a factory receives the
parsed spelling and returns the function that the generated code calls with the operands' raw bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from harness.simulator.errors import SimulationError

# Raw bits of one register in all lanes of all warps of a cohort: uint8/16/32/64, or bool for predicates, as
# an array [W, 32] or [W, 1] or, the same everywhere, a numpy scalar. numpy's types have no name for both.
Bits: TypeAlias = Any
Execute: TypeAlias = Callable[..., Any]

_INTEGERS: dict[str, np.dtype[Any]] = {
    f"{kind}{8 * size}": np.dtype(f"{'i' if kind == 's' else 'u'}{size}")
    for kind in "sub"
    for size in (1, 2, 4, 8)
}
_FLOATS: dict[str, np.dtype[Any]] = {"f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8")}
# How numpy reads the bits of each scalar type that it knows.
DTYPES: dict[str, np.dtype[Any]] = {**_INTEGERS, **_FLOATS, "pred": np.dtype(bool)}

_PACKED = ("f16x2", "bf16x2", "f32x2", "u16x2", "s16x2", "e4m3x2", "e5m2x2", "e2m1x2", "e2m3x2", "e3m2x2")
TYPES = frozenset(DTYPES) | {"bf16", "tf32", "ue8m0x2", *_PACKED, "e4m3x4", "e5m2x4", "e2m1x4", "b128"}


@dataclass(frozen=True)
class Form:
    """One spelling of an instruction: `setp.lt.and.s32` is `("setp", ("lt", "and", "s32"))`."""

    opcode: str
    modifiers: tuple[str, ...]

    @property
    def types(self) -> tuple[str, ...]:
        """The type modifiers in order: destination before source where there are two."""
        return tuple(name for name in self.modifiers if name in TYPES)

    @property
    def type(self) -> str:
        """The last type modifier, that of the sources; "" where the instruction has none."""
        return self.types[-1] if self.types else ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """How numpy reads operands of `type`."""
        return DTYPES[self.type]

    def __contains__(self, modifier: str) -> bool:
        return modifier in self.modifiers

    def one_of(self, *choices: str, default: str = "") -> str:
        """The one of `choices` that is spelled out; an error where none is and there is no default."""
        found = [name for name in self.modifiers if name in choices]
        if len(found) > 1 or not (found or default):
            raise SimulationError(f"{self} needs exactly one of .{', .'.join(choices)}")
        return found[0] if found else default

    def __str__(self) -> str:
        return ".".join((self.opcode, *self.modifiers))


Factory: TypeAlias = Callable[[Form], Execute]


@dataclass(frozen=True)
class _Entry:
    factory: Factory
    flags: frozenset[str]
    results: frozenset[str]


_REGISTRY: dict[tuple[str, str, int], _Entry] = {}


def instruction(
    opcode: str, types: str = "", flags: str = "", destinations: int = 1, results: str = ""
) -> Callable[[Factory], Factory]:
    """Register a factory for `opcode` with a source type among `types`; both lists are separated by spaces.

    `flags` are the modifiers it understands beside types, and `results` the types that may stand before the
    source's, separated by spaces as well; any other is refused at `lookup`. `destinations` counts the results
    (`setp.lt.s32 %p1|%p2` has 2), which the function then returns as a tuple.
    """

    def register(factory: Factory) -> Factory:
        for type_ in types.split() or [""]:
            key = (opcode, type_, destinations)
            assert key not in _REGISTRY, f"two semantics for {key}"
            _REGISTRY[key] = _Entry(factory, frozenset(flags.split()), frozenset(results.split()))
        return factory

    return register


def find(form: Form, destinations: int) -> Execute:
    """The function that executes `form`; a `SimulationError` names what of its spelling is unknown."""
    entry = _REGISTRY.get((form.opcode, form.type, destinations))
    if entry is None:
        raise SimulationError(
            f"unknown instruction {form} with {destinations} destination(s): {_nearest(form)}"
        )
    unknown = [name for name in form.modifiers if name not in entry.flags and name not in TYPES]
    unknown += [name for name in form.types[:-1] if name not in entry.results and name not in entry.flags]
    if unknown:
        raise SimulationError(f"unknown modifier .{unknown[0]} in {form}")
    return entry.factory(form)


def registered() -> Iterator[tuple[str, str, int]]:
    """All (opcode, type, number of destinations) that have semantics."""
    return iter(_REGISTRY)


def _nearest(form: Form) -> str:
    known = sorted({type_ for opcode, type_, _ in _REGISTRY if opcode == form.opcode})
    return f"{form.opcode} is known for {', '.join(known)}" if known else f"no {form.opcode} is known"

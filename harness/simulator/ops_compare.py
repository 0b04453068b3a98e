"""Comparison and selection (PTX ISA 9.7.6 "Comparison and Selection Instructions", 9.3 "Comparisons")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.simulator.float_bits import READERS, flush
from harness.simulator.registry import DTYPES, Bits, Execute, Form, instruction
from harness.simulator.rounding import select

_UNTYPED = "b16 b32 b64"
_INTEGERS = "s16 u16 s32 u32 s64 u64"
_FLOATS = "f16 bf16 f32 f64"
_ORDERED: dict[str, Callable[..., Any]] = {
    "eq": np.equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
# Each unordered comparison is the negation of the opposite ordered one.
_OPPOSITE = {"ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt"}
FLOAT_COMPARISONS = (*_ORDERED, "ne", "equ", "neu", *_OPPOSITE, "num", "nan")
_COMPARISONS = " ".join((*FLOAT_COMPARISONS, *_UNSIGNED_NAMES))
COMBINATIONS: dict[str, Callable[..., Any]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}
_FLAGS = f"{_COMPARISONS} and or xor ftz"


def _different(a: Any, b: Any) -> Any:
    return (a < b) | (a > b)


def _float_comparison(name: str) -> Callable[..., Any]:
    if name in _ORDERED:
        return _ORDERED[name]
    if name in _OPPOSITE:
        opposite = _ORDERED[_OPPOSITE[name]]
        return lambda a, b: np.logical_not(opposite(a, b))
    unary: dict[str, Callable[..., Any]] = {
        "ne": _different,
        "neu": np.not_equal,
        "equ": lambda a, b: np.logical_not(_different(a, b)),
        "num": lambda a, b: (a == a) & (b == b),
        "nan": lambda a, b: (a != a) | (b != b),
    }
    return unary[name]


def _comparison(form: Form) -> Execute:
    """The comparison that `form` names, of the operands' bits, as bool."""
    source = form.type
    if source in READERS:
        compare, read = _float_comparison(form.one_of(*FLOAT_COMPARISONS)), READERS[source]
        if "ftz" in form and source == "f32":
            return lambda a, b: compare(read(flush(a)), read(flush(b)))
        return lambda a, b: compare(read(a), read(b))
    name = form.one_of(*_ORDERED, "ne", *(_UNSIGNED_NAMES if source[0] == "u" else ()))
    name = _UNSIGNED_NAMES.get(name, name)
    compare = np.not_equal if name == "ne" else _ORDERED[name]
    if source[0] != "s" or name in ("eq", "ne"):
        return compare
    dtype = DTYPES[source]
    return lambda a, b: compare(a.view(dtype), b.view(dtype))


@instruction("setp", f"{_UNTYPED} {_INTEGERS} {_FLOATS}", _FLAGS)
def setp(form: Form) -> Execute:
    """A comparison's predicate, combined with a third operand where `.and`, `.or` or `.xor` say so."""
    compare = _comparison(form)
    combine = COMBINATIONS.get(form.one_of(*COMBINATIONS, default="none"))
    if combine is None:
        return compare
    return lambda a, b, c: combine(compare(a, b), c)


@instruction("setp", f"{_UNTYPED} {_INTEGERS} {_FLOATS}", _FLAGS, destinations=2)
def setp_both(form: Form) -> Execute:
    """`setp` of p|q: q is made from the negated comparison (and combined with the same operand)."""
    compare = _comparison(form)
    combine = COMBINATIONS.get(form.one_of(*COMBINATIONS, default="none"))

    def execute(a: Bits, b: Bits, *c: Bits) -> tuple[Bits, Bits]:
        holds = compare(a, b)
        fails = np.logical_not(holds)
        return (combine(holds, *c), combine(fails, *c)) if combine else (holds, fails)

    return execute


@instruction("set", f"{_UNTYPED} {_INTEGERS} {_FLOATS}", _FLAGS, results="u32 s32 f32")
def set_(form: Form) -> Execute:
    """A comparison as all ones (integer destination) or 1.0 (f32 destination), else 0."""
    predicate = setp(form)
    true = np.uint32(0x3F800000 if form.types[0] == "f32" else 0xFFFFFFFF)
    return lambda *operands: select(predicate(*operands), true, np.uint32(0))


@instruction("selp", f"{_UNTYPED} {_INTEGERS} f32 f64")
def selp(form: Form) -> Execute:
    """a where the predicate is true, else b."""
    return lambda a, b, p: select(p, a, b)


@instruction("slct", "s32 f32", "ftz", results=f"{_UNTYPED} {_INTEGERS} f32 f64")
def slct(form: Form) -> Execute:
    """a where c is not negative (a NaN is; -0 is not), else b."""
    read = READERS["f32"] if form.type == "f32" else (lambda c: c.view(np.int32))
    return lambda a, b, c: select(read(c) >= 0, a, b)

"""Conversions between numbers of 8 to 64 bits (PTX ISA 9.7.9 "... : cvt" and "... : cvt.pack")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.simulator.errors import SimulationError
from harness.simulator.float_bits import READERS, bits_f32, bits_f64, flush, saturate
from harness.simulator.registry import DTYPES, Bits, Execute, Form, instruction
from harness.simulator.rounding import F32, F64, MODES, select, sum_f32, to_f32

_INTEGERS = "s8 u8 s16 u16 s32 u32 s64 u64"
_TO_INTEGER: dict[str, Callable[..., Any]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}
_FLAGS = " ".join((*MODES, *_TO_INTEGER, "ftz", "sat"))


def _integer(type_: str) -> Callable[[Bits], Any]:
    """Read the low bits of a register, which may be wider than the type, as integers."""
    dtype = DTYPES[type_]
    unsigned = np.dtype(f"u{dtype.itemsize}")
    return lambda a: a.astype(unsigned, copy=False).view(dtype)


def _as_register(values: Any) -> Bits:
    """Integers as bits; 8-bit ones extended to 16, the narrowest register they are kept in."""
    dtype: np.dtype[Any] = values.dtype
    if dtype.itemsize == 1:
        dtype = np.dtype(f"{dtype.kind}2")
        values = values.astype(dtype)
    return values.view(DTYPES[f"u{8 * dtype.itemsize}"])


@instruction("cvt", _INTEGERS, _FLAGS)
def from_integer(form: Form) -> Execute:
    """An integer as another integer (wrapped, or clamped with `.sat`) or as a float."""
    target, source = _two_types(form)
    if target in READERS:
        return _integer_to_float(form, target, source)
    read, dtype = _integer(source), DTYPES[target]
    if "sat" not in form:
        return lambda a: _as_register(read(a).astype(dtype))
    wide = np.iinfo(DTYPES[source])
    limits = np.iinfo(dtype)
    low = DTYPES[source].type(max(limits.min, wide.min))
    high = DTYPES[source].type(min(limits.max, wide.max))
    return lambda a: _as_register(np.minimum(np.maximum(read(a), low), high).astype(dtype))


def _integer_to_float(form: Form, target: str, source: str) -> Execute:
    read, mode = _integer(source), form.one_of(*MODES)
    if target == "f64":
        if mode != "rn" and source[1:] == "64":
            raise SimulationError(f"{form}: f64 rounds to nearest only")
        return lambda a: read(a).astype(F64).view(np.uint64)
    if target != "f32":
        raise SimulationError(f"unknown conversion {form}")
    if mode == "rn":
        return lambda a: read(a).astype(F32).view(np.uint32)
    if source[1:] != "64":
        return lambda a: to_f32(read(a).astype(F64), mode).view(np.uint32)
    word = 32

    def execute(a: Bits) -> Bits:
        value = read(a)
        high = (value >> word).astype(F64) * F64(2.0**word)
        return sum_f32(high, a.astype(np.uint32).astype(F64), mode).view(np.uint32)

    return execute


@instruction("cvt", "f32 f64", _FLAGS)
def from_float(form: Form) -> Execute:
    """A float as an integer (always clamped) or as another float."""
    target, source = _two_types(form)
    if target not in READERS:
        return _float_to_integer(form, target, source)
    whole = [_TO_INTEGER[name] for name in form.modifiers if name in _TO_INTEGER]
    read = READERS[source]
    limit = saturate if "sat" in form else (lambda x: x)
    before = flush if "ftz" in form and source == "f32" else (lambda a: a)
    after = flush if "ftz" in form and target == "f32" else (lambda a: a)
    if (target, source) == ("f32", "f64") and not whole:
        mode = form.one_of(*MODES)
        return lambda a: after(bits_f32(limit(to_f32(read(a), mode))))
    if target == source and len(whole) <= 1:
        change: Callable[..., Any] = whole[0] if whole else np.positive
        write = bits_f32 if target == "f32" else bits_f64
        return lambda a: write(limit(change(read(before(a)))))
    if (target, source) == ("f64", "f32") and not whole:
        return lambda a: limit(read(before(a)).astype(F64)).view(np.uint64)
    raise SimulationError(f"unknown conversion {form}")


def _float_to_integer(form: Form, target: str, source: str) -> Execute:
    change, read, dtype = _TO_INTEGER[form.one_of(*_TO_INTEGER)], READERS[source], DTYPES[target]
    before = flush if "ftz" in form and source == "f32" else (lambda a: a)
    limits = np.iinfo(dtype)
    bound = F64(limits.max + 1)  # a power of two, exact where the largest integer is not
    largest, smallest = dtype.type(limits.max), dtype.type(limits.min)

    def execute(a: Bits) -> Bits:
        value = change(read(before(a)).astype(F64))
        inside = (value < bound) & (value >= limits.min)
        result = select(inside, value, F64(0)).astype(dtype)
        if np.count_nonzero(inside) != inside.size:
            result = select(value >= bound, largest, result)
            result = select(value < limits.min, smallest, result)
        return _as_register(result)

    return execute


def _two_types(form: Form) -> tuple[str, str]:
    if len(form.types) != 2:
        raise SimulationError(f"{form} needs a destination and a source type")
    return form.types[0], form.types[1]

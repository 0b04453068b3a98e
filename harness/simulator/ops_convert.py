"""Conversions between integers and floats of 8 to 64 bits (PTX ISA 9.7.9 "... : cvt" and "... : cvt.pack").

Any source is exact in float64 but for integers of 64 bits, which are rounded to odd, so that rounding to the
target is right. Conversions to and from packed formats stand in `ops_convert_packed`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.simulator.errors import SimulationError
from harness.simulator.float_bits import READERS, WRITERS, bits_f32, flush, saturate
from harness.simulator.number_formats import FORMATS, Rounding, encode
from harness.simulator.ops_convert_packed import PACKED_TARGETS, from_two_floats
from harness.simulator.registry import DTYPES, Bits, Execute, Form, instruction
from harness.simulator.rounding import F64, MODES, Floats, integer_to_odd, select, to_f32

_INTEGERS = "s8 u8 s16 u16 s32 u32 s64 u64"
_TARGETS = f"{_INTEGERS} f16 bf16 f32 f64"
_TO_INTEGER: dict[str, Callable[..., Any]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}
# Conversions that only place bits, so that NaNs stay as they are (H100; the ISA says nothing of payloads).
_MOVES: dict[tuple[str, ...], Execute] = {
    ("f32", "bf16"): lambda a: READERS["bf16"](a).view(np.uint32),
    ("f32", "f32"): np.positive,
    ("f64", "f64"): np.positive,
}
_FLAGS = " ".join((*MODES, *_TO_INTEGER, "ftz", "sat", "satfinite", "relu", "pack"))


def _integer(type_: str) -> Callable[[Bits], Any]:
    """Read the low bits of a register, which may be wider than the type, as integers."""
    dtype = DTYPES[type_]
    unsigned = DTYPES[f"u{8 * dtype.itemsize}"]
    return lambda a: a.astype(unsigned, copy=False).view(dtype)


def _as_register(values: Any) -> Bits:
    """Integers as bits; 8-bit ones extended to 16, the narrowest register they are kept in."""
    if values.dtype.itemsize == 1:
        values = values.astype(f"{values.dtype.kind}2")
    return values.view(DTYPES[f"u{8 * values.dtype.itemsize}"])


@instruction("cvt", _INTEGERS, _FLAGS, results=_TARGETS)
def from_integer(form: Form) -> Execute:
    """An integer as another integer (wrapped, or clamped with `.sat`) or as a float."""
    if "pack" in form:
        return _packed_integers(form)
    target, source = _two_types(form)
    read = _integer(source)
    if target not in DTYPES or target in READERS:
        wide = integer_to_odd if source[1:] == "64" and target != "f64" else lambda x: x.astype(F64)
        write = _float_writer(form, target)
        return lambda a: write(wide(read(a)))
    dtype = DTYPES[target]
    if "sat" not in form:
        return lambda a: _as_register(read(a).astype(dtype))
    of_source, of_target = np.iinfo(DTYPES[source]), np.iinfo(dtype)
    low = DTYPES[source].type(max(of_target.min, of_source.min))
    high = DTYPES[source].type(min(of_target.max, of_source.max))
    return lambda a: _as_register(np.minimum(np.maximum(read(a), low), high).astype(dtype))


@instruction(
    "cvt", "f16 bf16 f32 f64", f"{_FLAGS} rna", results=f"{_TARGETS} tf32 {' '.join(PACKED_TARGETS)}"
)
def from_float(form: Form) -> Execute:
    """A float as an integer (always clamped) or as another float."""
    if form.types[0] in PACKED_TARGETS:
        return from_two_floats(form)
    target, source = _two_types(form)
    before: Execute = flush if "ftz" in form and source == "f32" else np.positive
    if target in DTYPES and target not in READERS:
        return _float_to_integer(form, target, source)
    if "rna" in form:
        return _to_nearest_away_tf32(form)
    if form.modifiers in _MOVES:
        return _MOVES[form.modifiers]
    read, write = READERS[source], _float_writer(form, target)
    whole = [_TO_INTEGER[name] for name in form.modifiers if name in _TO_INTEGER]
    if target == source and len(whole) <= 1:
        limit: Callable[..., Any] = saturate if "sat" in form else np.positive
        change: Callable[..., Any] = whole[0] if whole else np.positive
        exact = WRITERS[target]
        return lambda a: exact(limit(change(read(before(a)))))
    if whole:
        raise SimulationError(f"unknown conversion {form}")
    return lambda a: write(read(before(a)).astype(F64))


def _float_writer(form: Form, target: str) -> Callable[[Floats], Bits]:
    """Rounds float64 to the target format, once, with the form's modifiers."""
    mode = form.one_of(*MODES, default="rn")
    limit: Callable[..., Any] = saturate if "sat" in form else np.positive
    if target == "f64":
        if mode != "rn":
            raise SimulationError(f"{form}: f64 rounds to nearest only")
        return lambda x: WRITERS["f64"](limit(x))
    if target == "f32":
        after: Execute = flush if "ftz" in form else np.positive
        if (
            form.type == "f64"
        ):  # NaNs keep their sign and top payload bits, made quiet: the host's as an H100's
            return lambda x: after(to_f32(limit(x), mode).view(np.uint32))
        return lambda x: after(bits_f32(to_f32(limit(x), mode)))
    satfinite, relu = "satfinite" in form, "relu" in form
    if target == "tf32" and mode not in ("rn", "rz"):
        raise SimulationError(f"{form}: tf32 has .rn, .rz and .rna only")
    dtype = np.uint32 if target == "tf32" else np.uint16
    number_format, rounding = FORMATS[target], Rounding(mode)
    if form.type == "f64" and target == "f16":
        return lambda x: _nan_of_f64(
            limit(x), encode(limit(x), number_format, rounding, satfinite=satfinite, relu=relu).astype(dtype)
        )
    return lambda x: encode(limit(x), number_format, rounding, satfinite=satfinite, relu=relu).astype(dtype)[
        ()
    ]


def _to_nearest_away_tf32(form: Form) -> Execute:
    """f32 bits rounded to 10 mantissa bits, ties away from zero; the exponent takes a carry by itself.

    Infinities and NaNs are truncated, as on an H100, where a NaN of only low bits becomes an infinity.
    """
    if form.types != ("tf32", "f32"):
        raise SimulationError(f"{form}: .rna rounds f32 to tf32 only")
    exponent, satfinite = np.uint32(0x7F800000), "satfinite" in form
    half, unit = np.uint32(1 << 12), np.uint32(1 << 13)

    def execute(a: Bits) -> Bits:
        is_finite = (a & exponent) != exponent
        rounded = (a + select(is_finite, half, np.uint32(0))) & ~(unit - np.uint32(1))
        if satfinite:
            rounded = select((rounded & exponent) == exponent, rounded - unit, rounded)
        return rounded

    return execute


def _float_to_integer(form: Form, target: str, source: str) -> Execute:
    change, read, dtype = _TO_INTEGER[form.one_of(*_TO_INTEGER)], READERS[source], DTYPES[target]
    before: Execute = flush if "ftz" in form and source == "f32" else np.positive
    limits = np.iinfo(dtype)
    bound = F64(limits.max + 1)  # a power of two, exact where the largest integer is not
    largest, smallest = dtype.type(limits.max), dtype.type(limits.min)
    # ISA, `cvt`: NaN becomes 0; with an f64 source or a 64-bit target, the integer of only the top bit.
    of_nan = dtype.type(0)
    if source == "f64" or dtype.itemsize == 8:
        of_nan = np.array(1 << (8 * dtype.itemsize - 1), f"u{dtype.itemsize}").view(dtype)[()]

    def execute(a: Bits) -> Bits:
        value = change(read(before(a)).astype(F64))
        inside = (value < bound) & (value >= limits.min)
        result = select(inside, value, F64(0)).astype(dtype)
        if np.count_nonzero(inside) != inside.size:
            result = select(value >= bound, largest, result)
            result = select(value < limits.min, smallest, result)
            result = select(value != value, of_nan, result)
        return _as_register(result)

    return execute


@instruction("cvt", "b32", "pack sat s2 u2 s4 u4", results="s8 u8 s16 u16 s32")
def _packed_integers(form: Form) -> Execute:
    """`cvt.pack`: a above b, each clamped to the small type; the rest of the register are c's low bits."""
    small = next(name for name in form.modifiers if name not in ("pack", "sat"))
    width, is_signed = int(small[1:]), small[0] == "s"
    low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if is_signed else (0, (1 << width) - 1)
    shift, mask, above = np.uint32(width), np.uint32((1 << width) - 1), np.uint32(2 * width)

    def clamped(x: Bits) -> Bits:
        return np.clip(x.view(np.int32), low, high).view(np.uint32) & mask

    def execute(a: Bits, b: Bits, *c: Bits) -> Bits:
        both = (clamped(a) << shift) | clamped(b)
        return both | (c[0] << above) if c else both

    return execute


def _two_types(form: Form) -> tuple[str, str]:
    if len(form.types) != 2:
        raise SimulationError(f"{form} needs a destination and a source type")
    return form.types[0], form.types[1]


def _nan_of_f64(values: Floats, halves: Bits) -> Bits:
    """`halves` (f16) of f64 `values`: a NaN keeps its sign and top ten bits, made quiet (H100)."""
    bits = np.asarray(values, np.float64).view(np.uint64)
    sign, payload = bits >> np.uint64(48) & np.uint64(0x8000), bits >> np.uint64(42) & np.uint64(0x1FF)
    kept = sign | np.uint64(0x7E00) | payload
    return select(np.isnan(values), kept.astype(np.uint16), halves)

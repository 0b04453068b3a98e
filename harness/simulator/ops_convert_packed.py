"""Conversions to and from packed formats (PTX ISA 9.7.9 "... : cvt"), two numbers a register.

`cvt.rn.satfinite.e4m3x2.f32 d, a, b` puts a into the high byte. e2m1x2 fills one byte; e2m3 and e3m2 occupy
the low six bits of a byte each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.simulator.errors import SimulationError
from harness.simulator.float_bits import READERS, flush
from harness.simulator.number_formats import FORMATS, Rounding, decode, encode
from harness.simulator.packed import unpack
from harness.simulator.registry import Bits, Execute, Form, instruction
from harness.simulator.rounding import MODES, Floats

# The bits that one number of each packed format occupies, and how wide the register is.
_NARROW = {"e4m3": (8, np.uint16), "e5m2": (8, np.uint16), "e2m3": (8, np.uint16), "e3m2": (8, np.uint16),
           "e2m1": (4, np.uint8), "ue8m0": (8, np.uint16)}  # fmt: skip
_HALF = {"f16": (16, np.uint32), "bf16": (16, np.uint32)}
_PLACES = {**_NARROW, **_HALF}
PACKED_TARGETS = frozenset(f"{name}x2" for name in _PLACES)


def _encoder(form: Form) -> Callable[[Floats, Floats], Bits]:
    """Packs high and low float values in the destination's format."""
    name = form.types[0].removesuffix("x2")
    width, dtype = _PLACES[name]
    rounding = Rounding(form.one_of(*MODES))
    satfinite, relu = "satfinite" in form, "relu" in form
    if name in _NARROW and name != "ue8m0" and not satfinite:
        raise SimulationError(f"{form} needs .satfinite")

    def codes(values: Floats) -> Bits:
        return encode(values, FORMATS[name], rounding, satfinite=satfinite, relu=relu)

    return lambda high, low: ((codes(high) << width) | codes(low)).astype(dtype)[()]


def from_two_floats(form: Form) -> Execute:
    """Two f32 registers into one: `cvt.rn.bf16x2.f32 d, a, b`."""
    pack_codes, read = _encoder(form), READERS["f32"]
    if form.type != "f32":
        raise SimulationError(f"unknown conversion {form}")
    before: Execute = flush if "ftz" in form else np.positive
    return lambda a, b: pack_codes(read(before(a)), read(before(b)))


@instruction("cvt", "f16x2 bf16x2", "rn rz rp satfinite relu", results=" ".join(PACKED_TARGETS))
def from_halves(form: Form) -> Execute:
    """A packed register of halves into narrower formats."""
    pack_codes, read = _encoder(form), READERS[form.type.removesuffix("x2")]

    def execute(a: Bits) -> Bits:
        low, high = unpack(a, 2)
        return pack_codes(read(high), read(low))

    return execute


@instruction("cvt", " ".join(f"{name}x2" for name in _NARROW), "rn relu", results="f16x2 bf16x2")
def from_narrow(form: Form) -> Execute:
    """Two narrow numbers as halves, exactly."""
    name = form.type.removesuffix("x2")
    width, dtype = _NARROW[name]
    pack_codes, mask, shift = _encoder(form), dtype((1 << width) - 1), dtype(width)

    def execute(a: Bits) -> Bits:
        codes = a.astype(dtype, copy=False)
        high, low = (decode(x, FORMATS[name]) for x in ((codes >> shift) & mask, codes & mask))
        return pack_codes(high, low)

    return execute

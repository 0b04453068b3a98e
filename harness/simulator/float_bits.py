"""What surrounds every floating-point operation: reading registers, canonical NaNs, `.ftz`, `.sat` and
`.relu`.

Hardware gives the NaN 0x7fffffff (f32) or 0x7fff (f16, bf16) whatever NaN came in, and integer
comparisons of float bits can see that; a host processor propagates the payload, and makes negative ones.
f64 payloads are left alone. Some conversions keep payloads too: see `ops_convert`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.simulator.registry import Bits, Execute
from harness.simulator.rounding import Floats, select

NAN_F32 = np.uint32(0x7FFFFFFF)
NAN_16 = np.uint16(0x7FFF)
_SIGN_F32 = np.uint32(0x80000000)
_EXPONENT_F32 = np.uint32(0x7F800000)
_ZERO, _ONE = np.float32(0), np.float32(1)


def _read_bf16(a: Bits) -> Floats:
    return (a.astype(np.uint32) << np.uint32(16)).view(np.float32)


# How to read a register as floats that numpy can compare and compute with, exactly.
READERS: dict[str, Callable[[Bits], Floats]] = {
    "bf16": _read_bf16,
    "f16": lambda a: a.view(np.float16),
    "f32": lambda a: a.view(np.float32),
    "f64": lambda a: a.view(np.float64),
}


def bits_f32(result: Floats) -> Bits:
    """float32 results as bits, with canonical NaNs."""
    bits = result.view(np.uint32)
    is_nan = result != result
    return select(is_nan, NAN_F32, bits) if np.count_nonzero(is_nan) else bits


def bits_f64(result: Floats) -> Bits:
    """float64 results as bits."""
    return result.view(np.uint64)


def bits_16(result: Floats) -> Bits:
    """float16 values, or float32 values that are bf16 numbers, as bits with canonical NaNs."""
    bits = result.view(np.uint16) if result.dtype == np.float16 else _upper_half(result)
    is_nan = result != result
    return select(is_nan, NAN_16, bits) if np.count_nonzero(is_nan) else bits


def _upper_half(result: Floats) -> Bits:
    return (result.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


# The way back from READERS for results that need no rounding.
WRITERS: dict[str, Callable[[Floats], Bits]] = {
    "bf16": bits_16,
    "f16": bits_16,
    "f32": bits_f32,
    "f64": bits_f64,
}


def flush(a: Bits) -> Bits:
    """`.ftz` on f32 bits: subnormal numbers become zeros of the same sign."""
    tiny = (a & _EXPONENT_F32) == 0
    return select(tiny, a & _SIGN_F32, a) if np.count_nonzero(tiny) else a


def saturate(result: Floats) -> Floats:
    """`.sat`: limited to [+0, 1], NaN to +0 (also for float64)."""
    limited = np.minimum(np.maximum(result, _ZERO), _ONE)
    is_nan = limited != limited
    if np.count_nonzero(is_nan):
        limited = select(is_nan, _ZERO, limited)
    return limited + _ZERO  # no -0


def flush_f16(a: Bits) -> Bits:
    """`.ftz` on f16 bits."""
    return select((a & np.uint16(0x7C00)) == 0, a & np.uint16(0x8000), a)


def flushing(function: Execute, flush: Execute = flush) -> Execute:
    """`function` of f32 bits (or those `flush` is for) with subnormal operands and results flushed."""
    return lambda *operands: flush(function(*(flush(x) for x in operands)))

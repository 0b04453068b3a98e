"""What surrounds every floating-point operation: reading registers, canonical NaNs, `.ftz`, `.sat` and
`.relu`.

Hardware gives the NaN 0x7fffffff (f32) or 0x7fff (f16, bf16) whatever NaN came in, and integer
comparisons of float bits can see that; a host processor propagates the payload, and makes negative ones.
f64 payloads are left alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.simulator.registry import Bits, Execute
from harness.simulator.rounding import Floats, select

NAN_F32 = np.uint32(0x7FFFFFFF)
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


def flush(a: Bits) -> Bits:
    """`.ftz` on f32 bits: subnormal numbers become zeros of the same sign."""
    tiny = (a & _EXPONENT_F32) == 0
    return select(tiny, a & _SIGN_F32, a) if np.count_nonzero(tiny) else a


def saturate(result: Floats) -> Floats:
    """`.sat`: limited to [+0, 1], NaN to +0 (also for float64)."""
    return np.fmin(np.fmax(result, _ZERO), _ONE) + _ZERO


def flushing(function: Execute) -> Execute:
    """`function` of f32 bits with subnormal operands and results flushed."""
    return lambda *operands: flush(function(*(flush(x) for x in operands)))

"""Correct rounding to float32 in all four IEEE modes, by way of float64.

The product of two float32 is exact in float64; a sum is not. `odd_sum` rounds it to odd: of the two
float64 around an inexact sum it takes the one with an odd last bit. That is never a number of a format
with fewer bits, nor a midpoint between two of them, so rounding it again, in any mode, rounds the exact
sum (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding
to odd", IEEE TC 57(4), 2008).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

F32 = np.float32
F64 = np.float64
I64 = np.int64
Floats: TypeAlias = Any  # an array or a numpy scalar of floats

MODES = ("rn", "rz", "rm", "rp")

# A float64 that is a float32 or a midpoint between two of them has its low 28 bits clear.
_BELOW_MIDPOINTS = I64((1 << 28) - 1)
_ONE, _SIGN = I64(1), I64(63)


# np.where branches for every element, mostly wrong about conditions of its own: 1.6 ns, masking bits 0.3 ns.
_WORTH_MASKING = 2048


def select(condition: Any, yes: Any, no: Any) -> Any:
    """`np.where`, but for a scalar condition the chosen operand as it is."""
    if condition.ndim == 0:
        return yes if condition else no
    if condition.size < _WORTH_MASKING or yes.dtype.kind != "u" or yes.dtype != no.dtype:
        return np.where(condition, yes, no)
    chosen = (yes ^ no) * condition
    chosen ^= no
    return chosen


def _two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Knuth's TwoSum: the float64 nearest to a + b and the exact error of it."""
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)


def odd_sum(a: Floats, b: Floats) -> Floats:
    """The float64 sum of float64 `a` and `b` rounded to odd."""
    total, error = _two_sum(a, b)
    bits = total.view(I64)
    wrong = (np.abs(error) > 0) & ((bits & _ONE) == 0)
    if not np.count_nonzero(wrong):
        return total
    # The next float64 towards the exact sum: larger in magnitude where total and error have the same sign.
    step = ((bits ^ error.view(I64)) >> _SIGN) | _ONE
    return (bits + step * wrong).view(F64)


def integer_to_odd(value: Any) -> Floats:
    """Integers of 64 bits as float64 rounded to odd: the sum of their two words."""
    low = (value & 0xFFFFFFFF).astype(F64)
    return odd_sum((value >> 32).astype(F64) * F64(2.0**32), low)


def directed(nearest: Floats, error: Floats, mode: str) -> Floats:
    """`nearest`, a result rounded to nearest, moved to the neighbour that `mode` asks for.

    `error` is the exact result minus `nearest`, of which only the sign counts; a NaN moves nothing.
    """
    if mode == "rm":
        wrong, towards = error < 0, -np.inf
    elif mode == "rp":
        wrong, towards = error > 0, np.inf
    else:
        wrong, towards = ((error < 0) & (nearest > 0)) | ((error > 0) & (nearest < 0)), 0.0
    if not np.count_nonzero(wrong):
        return nearest
    return select(wrong, np.nextafter(nearest, nearest.dtype.type(towards)), nearest)


def to_f32(exact: Floats, mode: str) -> Floats:
    """float64 `exact` rounded once to float32."""
    nearest = exact.astype(F32)
    return nearest if mode == "rn" else directed(nearest, exact - nearest, mode)


def sum_f32(a: Floats, b: Floats, mode: str) -> Floats:
    """float64 `a` + `b` rounded once to float32. Opposite terms sum to -0 in mode `rm`, else to +0."""
    if mode == "rn":
        total = a + b
        # Only a sum next to a float32 or to a midpoint can be rounded differently for its error's sake.
        if np.count_nonzero((total.view(I64) & _BELOW_MIDPOINTS) == 0):
            total = odd_sum(a, b)
        return total.astype(F32)
    total, error = _two_sum(a, b)
    if mode == "rm":
        zero = total == 0
        if np.count_nonzero(zero):
            total = select(zero & (np.signbit(a) | np.signbit(b)), F64(-0.0), total)
    nearest = total.astype(F32)
    return directed(nearest, (total - nearest) + error, mode)

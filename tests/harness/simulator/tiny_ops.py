"""Single PTX instructions with what they compute: tables for a kernel that applies each to rows of operands.

A reference takes the operands' columns as numpy arrays (float32, or uint32 for integers).
Semantics: PTX ISA, sections "Integer Arithmetic", "Floating Point", "Logic and Shift", "Data Movement".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
U32, S32, U64, S64 = np.uint32, np.int32, np.uint64, np.int64


@dataclass(frozen=True)
class Op:
    """One instruction; in `ptx`, $d is its result and $a, $b, $c are operands, all in 32-bit registers.

    `rtol` and `atol` are the errors that PTX ISA allows an approximation; 0 is exact.
    """

    ptx: str
    reference: Callable[..., Array]
    rtol: float = 0.0
    atol: float = 0.0

    @property
    def arity(self) -> int:
        return 1 + max("abc".index(name) for name in "abc" if f"${name}" in self.ptx)

    @property
    def template(self) -> str:
        """The instruction as `cute.arch.inline_ptx` takes it."""
        text = self.ptx.replace("$d", "{$w0}")
        for index, name in enumerate("abc"):
            text = text.replace(f"${name}", f"{{$r{index}}}")
        return text


def signed(x: Array) -> Array:
    return x.view(S32)


def wide(x: Array) -> Array:
    return x.astype(U64)


def high(product: Array) -> Array:
    return (product.view(U64) >> U64(32)).astype(U32)


def exact_fma(a: Array, b: Array, c: Array) -> Array:
    """a * b + c rounded once, for operands whose exact sum fits the 64 bits of an extended double."""
    return (a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)).astype(np.float32)


def bit_field(a: Array, b: Array, c: Array) -> Array:
    """Bits [b, b + c) of a; positions and lengths are bytes, what lies past bit 31 is 0."""
    position, length = b & U32(255), np.minimum(c & U32(255), 32)
    shifted = np.where(position < 32, wide(a) >> wide(position), U64(0))
    return (shifted & ((U64(1) << wide(length)) - U64(1))).astype(U32)


def permute_bytes(a: Array, b: Array, c: Array) -> Array:
    """Byte i of the result is the byte of b:a that nibble i of c selects, or copies of its sign bit."""
    pool = (wide(b) << U64(32)) | wide(a)
    result = np.zeros_like(a)
    for i in range(4):
        selector = (c >> U32(4 * i)) & U32(15)
        byte = ((pool >> wide((selector & U32(7)) * U32(8))) & U64(255)).astype(U32)
        byte = np.where(selector & U32(8), np.where(byte & U32(128), U32(255), U32(0)), byte)
        result |= (byte << U32(8 * i)).astype(U32)
    return result


def reverse_bits(a: Array) -> Array:
    return np.array([int(f"{int(x):032b}"[::-1], 2) for x in a], dtype=U32)


def bit_length(a: Array) -> Array:
    return np.array([int(x).bit_length() for x in a], dtype=U32)


def clamped_shift(a: Array, b: Array) -> Array:
    return np.minimum(b, U32(32))


INTEGER_OPS: dict[str, Op] = {
    "add": Op("add.s32 $d, $a, $b;", lambda a, b: a + b),
    "sub": Op("sub.s32 $d, $a, $b;", lambda a, b: a - b),
    "mul_lo": Op("mul.lo.s32 $d, $a, $b;", lambda a, b: a * b),
    "mul_hi_u": Op("mul.hi.u32 $d, $a, $b;", lambda a, b: high(wide(a) * wide(b))),
    "mul_hi_s": Op(
        "mul.hi.s32 $d, $a, $b;", lambda a, b: high(signed(a).astype(S64) * signed(b).astype(S64))
    ),
    "mad_lo": Op("mad.lo.s32 $d, $a, $b, $c;", lambda a, b, c: a * b + c),
    "min_s": Op("min.s32 $d, $a, $b;", lambda a, b: np.minimum(signed(a), signed(b)).view(U32)),
    "max_u": Op("max.u32 $d, $a, $b;", np.maximum),
    "abs": Op("abs.s32 $d, $a;", lambda a: np.where(signed(a) < 0, U32(0) - a, a)),
    "and": Op("and.b32 $d, $a, $b;", lambda a, b: a & b),
    "not": Op("not.b32 $d, $a;", lambda a: ~a),
    "lop3_xor_majority": Op("lop3.b32 $d, $a, $b, $c, 0xE8;", lambda a, b, c: (a & b) | (a & c) | (b & c)),
    "shl": Op("shl.b32 $d, $a, $b;", lambda a, b: (wide(a) << wide(clamped_shift(a, b))).astype(U32)),
    "shr_u": Op("shr.u32 $d, $a, $b;", lambda a, b: (wide(a) >> wide(clamped_shift(a, b))).astype(U32)),
    "shr_s": Op(
        "shr.s32 $d, $a, $b;",
        lambda a, b: (signed(a).astype(S64) >> clamped_shift(a, b).astype(S64)).astype(S32).view(U32),
    ),
    "shf_l_wrap": Op(
        "shf.l.wrap.b32 $d, $a, $b, $c;",
        lambda a, b, c: high(((wide(b) << U64(32)) | wide(a)) << wide(c & U32(31))),
    ),
    "bfe_u": Op("bfe.u32 $d, $a, $b, $c;", bit_field),
    "prmt": Op("prmt.b32 $d, $a, $b, $c;", permute_bytes),
    "popc": Op("popc.b32 $d, $a;", lambda a: np.bitwise_count(a).astype(U32)),
    "clz": Op("clz.b32 $d, $a;", lambda a: U32(32) - bit_length(a)),
    "brev": Op("brev.b32 $d, $a;", reverse_bits),
    "bfind": Op("bfind.u32 $d, $a;", lambda a: bit_length(a) - U32(1)),
    "selp_lt": Op(
        "{.reg .pred p; setp.lt.s32 p, $a, $b; selp.b32 $d, $a, $c, p;}",
        lambda a, b, c: np.where(signed(a) < signed(b), a, c),
    ),
}

FLOAT_OPS: dict[str, Op] = {
    "add": Op("add.rn.f32 $d, $a, $b;", lambda a, b: a + b),
    "mul": Op("mul.rn.f32 $d, $a, $b;", lambda a, b: a * b),
    "fma": Op("fma.rn.f32 $d, $a, $b, $c;", exact_fma),
    "div": Op("div.rn.f32 $d, $a, $b;", lambda a, b: a / b),
    "sqrt": Op("sqrt.rn.f32 $d, $a;", np.sqrt),
    "rcp": Op("rcp.rn.f32 $d, $a;", lambda a: np.float32(1) / a),
    "min": Op("min.f32 $d, $a, $b;", np.fmin),
    "max": Op("max.f32 $d, $a, $b;", np.fmax),
    "max_nan": Op("max.NaN.f32 $d, $a, $b;", np.maximum),
    "abs": Op("abs.f32 $d, $a;", np.abs),
    "neg": Op("neg.f32 $d, $a;", np.negative),
    "floor": Op("cvt.rmi.f32.f32 $d, $a;", np.floor),
    "round": Op("cvt.rni.f32.f32 $d, $a;", np.rint),
    "ex2": Op(
        "ex2.approx.ftz.f32 $d, $a;", lambda a: flushed(np.exp2(flushed(a).astype(np.float64))), 2.0**-22
    ),
    "lg2": Op(
        "lg2.approx.ftz.f32 $d, $a;", lambda a: np.log2(flushed(a).astype(np.float64)), 2.0**-22, 2.0**-22
    ),
    "rcp_approx": Op(
        "rcp.approx.ftz.f32 $d, $a;", lambda a: flushed(1.0 / flushed(a).astype(np.float64)), 2.0**-23
    ),
    "rsqrt": Op(
        "rsqrt.approx.ftz.f32 $d, $a;", lambda a: 1.0 / np.sqrt(flushed(a).astype(np.float64)), 2.0**-22.4
    ),
    "sqrt_approx": Op(
        "sqrt.approx.ftz.f32 $d, $a;", lambda a: np.sqrt(flushed(a).astype(np.float64)), 2.0**-22
    ),
    "tanh": Op("tanh.approx.f32 $d, $a;", lambda a: np.tanh(a.astype(np.float64)), 2.0**-10.9),
    "sin_reduced": Op(
        "{.reg .f32 t; max.f32 t, $a, 0fC0490FDA; min.f32 t, t, 0f40490FDA; sin.approx.ftz.f32 $d, t;}",
        lambda a: np.sin(np.fmin(np.fmax(a, np.float32(-np.pi)), np.float32(np.pi)).astype(np.float64)),
        0.0,
        2.0**-20,
    ),
    "set_ltu": Op(
        "{.reg .pred p; setp.ltu.f32 p, $a, $b; selp.f32 $d, 0f3F800000, 0f00000000, p;}",
        lambda a, b: (~(a >= b)).astype(np.float32),
    ),
    "copysign": Op("copysign.f32 $d, $a, $b;", lambda a, b: np.copysign(b, a)),
}


def flushed(x: Array) -> Array:
    """Subnormal float32 numbers as zeros: what `.ftz` does to operands and results."""
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(0.0, x).astype(x.dtype), x)


def integer_operands(seed: int, rows: int) -> Array:
    """uint32 [rows, 3]: all magnitudes, small shift counts, and the corners."""
    random = np.random.default_rng(seed)
    values = random.integers(0, 2**32, (rows, 3), dtype=U64)
    values >>= random.integers(0, 32, (rows, 3), dtype=U64)
    corners = [0, 1, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    pairs = [(x, y, z) for x in corners for y in corners for z in (0, 7, 0x80000000)]
    values[: len(pairs)] = pairs
    return values.astype(U32)


def float_operands(seed: int, rows: int) -> Array:
    """float32 [rows, 3]: exponents from -8 to 8, and the corners: zeros, subnormals, infinities, NaN."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, 3)) * np.exp2(random.integers(-8, 9, (rows, 3)))
    corners = [0.0, -0.0, 1.0, -1.5, 2.5, 1e-40, np.inf, -np.inf, np.nan]
    pairs = [(x, y, 1.0) for x in corners for y in corners]
    values[: len(pairs)] = pairs
    return values.astype(np.float32)


def apply(ops: dict[str, Op], operands: Array) -> Array:
    """What the kernel of `ops` writes: [rows, len(ops)] of the operands' type."""
    columns = [np.ascontiguousarray(operands[:, i]) for i in range(3)]
    with np.errstate(all="ignore"):
        results = [op.reference(*columns[: op.arity]).astype(operands.dtype) for op in ops.values()]
    return np.stack(results, axis=1)

"""One spelling of every kind of instruction within a lane, and operands for them."""

from __future__ import annotations

import numpy as np

_ZEROS_AND_SUBNORMALS = (0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF)
_NORMAL = (0x00800000, 0x3F800000, 0xBF800000, 0x33800000, 0x4B800000, 0x7F7FFFFF, 0xFF7FFFFF)
SPECIAL_F32 = (*_ZEROS_AND_SUBNORMALS, *_NORMAL, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFF800001)

# Spellings of every kind by the widths of their sources; 1 is a predicate, 0 a truth table.
BY_WIDTHS = {
    (32, 32): """
        add.s32 add.sat.s32 mul.hi.s32 mul.wide.s32 div.s32 min.s32 mul24.hi.s32 setp.neu.f32
        set.gt.f32.u32 add.rz.f32 mul.sat.f32 div.rp.f32 div.approx.f32 max.f32 min.xorsign.abs.f32
        copysign.f32 max.bf16x2 add.u16x2 cvt.rn.bf16x2.f32 cvt.rn.satfinite.e4m3x2.f32
    """,
    (64, 64): """
        sub.u64 mul.hi.s64 rem.u64 add.f64
    """,
    (16, 16): """
        mul.lo.s16 add.ftz.f16
    """,
    (32, 32, 32): """
        mad.lo.s32 sad.s32 shf.l.clamp.b32 bfe.s32 prmt.b32 prmt.b32.rc16 slct.f32.s32 fma.rn.f32
        fma.rm.ftz.f32 max.NaN.f32 fma.rn.f16x2 cvt.pack.sat.u8.s32.b32
    """,
    (32, 32, 64): """
        mad.wide.u32
    """,
    (32,): """
        abs.s32 not.b32 cnot.b32 clz.b32 brev.b32 sqrt.rz.f32 rcp.approx.ftz.f32 neg.ftz.f32
        testp.normal.f32 ex2.approx.ftz.f32 lg2.approx.f32 cvt.u64.u32 cvt.sat.s8.s32
        cvt.rz.bf16.s32 cvt.rzi.s32.f32 cvt.sat.f32.f32 cvt.rna.tf32.f32
        cvt.rn.satfinite.e2m1x2.f16x2
    """,
    (64,): """
        neg.s64 bfind.shiftamt.s64 popc.b64 mov.b64 cvta.shared.u64 cvt.rn.f32.u64
    """,
    (1, 1): """
        and.pred
    """,
    (32, 32, 32, 0): """
        lop3.b32
    """,
    (64, 32): """
        shl.b64
    """,
    (16, 32): """
        shr.s16
    """,
    (64, 64, 32, 32): """
        bfi.b64
    """,
    (32, 32, 1): """
        setp.lt.and.s32 selp.b32
    """,
    (16, 16, 16): """
        fma.rn.bf16
    """,
    (64, 64, 64): """
        fma.rn.f32x2
    """,
    (16, 16, 32): """
        fma.rn.f32.bf16
    """,
    (8,): """
        cvt.rn.f16x2.e2m1x2
    """,
}
SPELLINGS = {spelling: widths for widths, names in BY_WIDTHS.items() for spelling in names.split()}


def operand(width: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A register of random bits; of 32, mostly floats of like size, small integers and special values."""
    if width == 0:
        return np.uint32(0xE8)
    if width == 1:
        return rng.integers(0, 2, (*shape, 1)).astype(bool)[..., 0][()]
    bits = rng.integers(0, (1 << width) - 1, (*shape, 1), dtype=np.uint64, endpoint=True)
    if width == 32:
        floats = (rng.standard_normal(bits.shape) * 3).astype(np.float32).view(np.uint32)
        small, special = rng.integers(0, 70, bits.shape), rng.choice(SPECIAL_F32, bits.shape)
        bits = np.choose(rng.choice(4, bits.shape, p=[0.6, 0.15, 0.15, 0.1]), [floats, small, special, bits])
    return bits.astype(f"u{width // 8}")[..., 0][()]

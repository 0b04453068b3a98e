"""What one `tcgen05.mma` computes: its qualifiers and its instruction descriptor, checked against the ISA.

Source: PTX ISA "Instruction descriptor" (tables for .kind::f16, tf32, f8f6f4 and for the block-scaled kinds),
"Matrix Shape", "Block Scaling" (valid scale vectors); field positions as in CUTLASS's mma_sm100_desc.hpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from harness.simulator.errors import SimulationError
from harness.simulator.matrix_descriptor import Generation
from harness.simulator.number_formats import (
    BF16,
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    F16,
    F32,
    TF32,
    UE4M3,
    UE8M0,
    NumberFormat,
)
from harness.simulator.operand import Operand, Packing


class Kind(Enum):
    """The `.kind::` qualifiers that are simulated; .kind::i8 is not."""

    F16 = "f16"
    TF32 = "tf32"
    F8F6F4 = "f8f6f4"
    MXF8F6F4 = "mxf8f6f4"
    MXF4 = "mxf4"
    MXF4NVF4 = "mxf4nvf4"

    @property
    def block_scaled(self) -> bool:
        return self in _SCALES


_EIGHT_BIT = {0: E4M3, 1: E5M2, 3: E2M3, 4: E3M2, 5: E2M1}
_FORMATS = {
    Kind.F16: {0: F16, 1: BF16},
    Kind.TF32: {2: TF32},
    Kind.F8F6F4: _EIGHT_BIT,
    Kind.MXF8F6F4: _EIGHT_BIT,
    Kind.MXF4: {1: E2M1},
    Kind.MXF4NVF4: {1: E2M1},
}

# (scale type, scales along K of an instruction) of each block-scaled kind.
_SCALES = {
    Kind.MXF8F6F4: {(UE8M0, 1)},
    Kind.MXF4: {(UE8M0, 2)},
    Kind.MXF4NVF4: {(UE8M0, 2), (UE8M0, 4), (UE4M3, 4)},
}

# What a `.scale_vectorsize` qualifier means as scales along K; "" where it may be left out.
_SCALE_VECTORS = {
    Kind.MXF8F6F4: {"": 1, "scale_vec::1X": 1, "block32": 1},
    Kind.MXF4: {"": 2, "scale_vec::2X": 2, "block32": 2},
    Kind.MXF4NVF4: {"scale_vec::2X": 2, "block32": 2, "scale_vec::4X": 4, "block16": 4},
}


@dataclass(frozen=True)
class BlockScale:
    """Scale factors of a block-scaled instruction: `along_k` of `number_format` for each row of A and of B.

    `a_byte` and `b_byte` are the bytes of a tensor-memory word where the factors start (SFA_ID, SFB_ID).
    """

    number_format: NumberFormat
    along_k: int
    a_byte: int
    b_byte: int


@dataclass(frozen=True)
class Mma:
    """A `tcgen05.mma` of shape m x n x k over `cta_group` CTAs; `scale` only for block-scaled kinds."""

    kind: Kind
    cta_group: int
    m: int
    n: int
    a_format: NumberFormat
    b_format: NumberFormat
    d_format: NumberFormat
    negate_a: bool
    negate_b: bool
    transpose_a: bool
    transpose_b: bool
    scale: BlockScale | None = None

    @property
    def k(self) -> int:
        """Elements along K: 32 bytes in shared memory, padding included."""
        return {Kind.F16: 16, Kind.TF32: 8, Kind.MXF4: 64, Kind.MXF4NVF4: 64}.get(self.kind, 32)

    @property
    def a(self) -> Operand:
        """One CTA's part of A in shared memory: m / cta_group rows."""
        return self._operand(self.m // self.cta_group, self.a_format, self.transpose_a)

    @property
    def b(self) -> Operand:
        """One CTA's part of B in shared memory: n / cta_group rows (columns of the product)."""
        return self._operand(self.n // self.cta_group, self.b_format, self.transpose_b)

    def _operand(self, rows: int, number_format: NumberFormat, transposed: bool) -> Operand:
        packing = Packing.NONE
        if self.kind in (Kind.MXF4, Kind.MXF4NVF4):
            packing = Packing.DENSE
        elif number_format.bits < 8:
            packing = Packing.PADDED
        return Operand(rows, self.k, number_format, transposed, Generation.TCGEN05, packing)


@lru_cache(maxsize=1024)
def decode_mma(descriptor: int, kind_name: str, cta_group: int, scale_vector: str = "") -> Mma:
    """The instruction of `tcgen05.mma.cta_group::G.kind::K{.block_scale{.V}}` and its 32-bit descriptor.

    `kind_name` and `scale_vector` are the qualifiers without their dots and `kind::`.
    """

    def field(low: int, bits: int) -> int:
        return descriptor >> low & ((1 << bits) - 1)

    def fail(reason: str) -> SimulationError:
        return SimulationError(f"instruction descriptor {descriptor:#010x} of .kind::{kind_name}: {reason}")

    if kind_name not in {kind.value for kind in Kind}:
        raise SimulationError(f".kind::{kind_name} is not simulated")
    kind = Kind(kind_name)
    if field(0, 3):
        raise fail("sparse matrices are not simulated")
    if field(3, 1) or field(6, 1):
        raise fail("bit 3 or 6 is set")
    formats = _FORMATS[kind]
    if field(7, 3) not in formats or field(10, 3) not in formats:
        raise fail(f"unknown type {field(7, 3)} of A or {field(10, 3)} of B")
    scale = None
    d_format = F32
    if kind.block_scaled:
        scale = _block_scale(descriptor, kind, scale_vector)
    else:
        if field(23, 1) or field(29, 3):
            raise fail("bits 23 or 29 to 31 are set")
        d_formats = {1: F32} if kind is Kind.TF32 else {0: F16, 1: F32}
        if field(4, 2) not in d_formats:
            raise fail(f"unknown type {field(4, 2)} of D")
        d_format = d_formats[field(4, 2)]
    mma = Mma(
        kind=kind,
        cta_group=cta_group,
        m=field(24, 5) * 16,
        n=field(17, 6) * 8,
        a_format=formats[field(7, 3)],
        b_format=formats[field(10, 3)],
        d_format=d_format,
        negate_a=bool(field(13, 1)),
        negate_b=bool(field(14, 1)),
        transpose_a=bool(field(15, 1)),
        transpose_b=bool(field(16, 1)),
        scale=scale,
    )
    reason = _illegal_reason(mma)
    if reason:
        raise fail(reason)
    return mma


def _block_scale(descriptor: int, kind: Kind, scale_vector: str) -> BlockScale:
    """The scale fields: bits 4-5 SFB_ID, 23 type, 29-30 SFA_ID, 31 K size."""
    vectors = _SCALE_VECTORS[kind]
    if scale_vector not in vectors:
        raise SimulationError(f".kind::{kind.value} has no scale vector {scale_vector or '(none)'}")
    if descriptor >> 31:
        raise SimulationError(f"instruction descriptor {descriptor:#010x}: K = 96 is not simulated")
    number_format = UE8M0 if descriptor >> 23 & 1 else UE4M3
    along_k = vectors[scale_vector]
    if (number_format, along_k) not in _SCALES[kind]:
        raise SimulationError(f".kind::{kind.value} has no {number_format.name} scales with {scale_vector}")
    scale = BlockScale(number_format, along_k, a_byte=descriptor >> 29 & 3, b_byte=descriptor >> 4 & 3)
    for byte in (scale.a_byte, scale.b_byte):
        if byte % along_k:
            raise SimulationError(f"scale factor id {byte} is not a multiple of the {along_k} scales along K")
    return scale


def _illegal_reason(mma: Mma) -> str:
    """Why the shape or a modifier does not exist for the kind, or an empty string."""
    if mma.cta_group == 1:
        rows = (128,) if mma.kind.block_scaled else (64, 128)
        step = 8 if mma.kind.block_scaled or mma.m == 64 else 16
    else:
        rows, step = (128, 256), 16
    if mma.m not in rows:
        return f"M = {mma.m} of cta_group::{mma.cta_group} is not one of {rows}"
    if mma.n % step or not step <= mma.n <= 256:
        return f"N = {mma.n} is not a multiple of {step} up to 256"
    for transposed, number_format in ((mma.transpose_a, mma.a_format), (mma.transpose_b, mma.b_format)):
        if transposed and number_format.bits < 8:
            return f"{number_format.name} cannot be transposed"
    if mma.kind is Kind.F16 and mma.d_format is F16 and BF16 in (mma.a_format, mma.b_format):
        return "a bf16 product has no f16 result"
    return ""

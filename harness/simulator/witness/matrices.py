"""Operands of the examples: bytes for the launch, numbers for the reference, tensors inside a kernel.

Every tensor is handed over as bytes [L, outer, inner bytes], in the order in which it lies in memory, so that
one launch signature serves formats that DLPack does not know. `inner` is K for a K-major operand, else its
rows.

Elements are small multiples of an eighth (of what 4 bits can say): a dropped, doubled or misplaced product
changes the sum by more than the bound allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.nvfp4 import decode_e2m1, pack_e2m1, swizzle_scales

TMA_ALIGNMENT = 16
BITS = {"e2m1": 4, "e4m3": 8, "e5m2": 8, "s8": 8, "f16": 16, "bf16": 16, "f32": 32, "s32": 32}
TORCH = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "s8": torch.int8,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "s32": torch.int32,
}
# Half a unit in the last place: what rounding to the format costs, relative to the number.
ROUNDING = {"e4m3": 2.0**-4, "e5m2": 2.0**-3, "f16": 2.0**-11, "bf16": 2.0**-8, "f32": 2.0**-24, "s32": 0.0}


@dataclass(frozen=True)
class Matrix:
    """`data`: uint8 [L, outer, inner bytes]; `values`: float64 [L, rows, columns] of what it represents."""

    data: Tensor
    values: Tensor


def random_matrix(format: str, shape: tuple[int, int, int], seed: int, row_major: bool = True) -> Matrix:
    """Seeded elements of an [L, rows, columns] operand; columns lie side by side when `row_major`."""
    batches, rows, columns = shape
    order = (batches, rows, columns) if row_major else (batches, columns, rows)
    random = torch.Generator().manual_seed(seed)
    if format == "e2m1":
        codes = torch.randint(0, 16, order, generator=random, dtype=torch.uint8)
        data, values = pack_e2m1(codes), decode_e2m1(codes, torch.float64)
    else:
        eighths = torch.randint(-15, 16, order, generator=random)
        stored = (eighths if format == "s8" else eighths.float() / 8).to(TORCH[format])
        data, values = stored.view(torch.uint8), stored.double()
    return Matrix(data, values if row_major else values.mT)


def empty_matrix(format: str, shape: tuple[int, int, int], row_major: bool = True) -> tuple[Tensor, Tensor]:
    """Bytes of an output [L, rows, columns], all ones (NaN in float formats), and a view of its elements."""
    batches, rows, columns = shape
    order = (batches, rows, columns) if row_major else (batches, columns, rows)
    data = torch.full((*order[:2], order[2] * BITS[format] // 8), 0xFF, dtype=torch.uint8)
    elements = data.view(TORCH[format])
    return data, elements if row_major else elements.mT


def random_scales(format: str, shape: tuple[int, int, int], block: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scale factors of an [L, rows, columns] operand: bytes as the tensor cores want them, and the factors.

    Bytes lie in atoms of 128 rows x 4 scales, batch after batch; factors are float64 [L, rows, columns].
    """
    batches, rows, columns = shape
    random = torch.Generator().manual_seed(seed)
    blocks = (batches, rows, -(-columns // block))
    if format == "e4m3":
        stored = (torch.randint(1, 16, blocks, generator=random).float() / 8).to(torch.float8_e4m3fn)
        codes, factors = stored.view(torch.uint8), stored.double()
    else:
        # ue8m0 is an exponent biased by 127 and nothing else (OCP Microscaling Formats, v1.0, 5.4.1).
        codes = torch.randint(125, 130, blocks, generator=random, dtype=torch.uint8)
        factors = torch.exp2(codes.double() - 127.0)
    data = torch.cat([swizzle_scales(batch).flatten() for batch in codes])
    return data, factors.repeat_interleave(block, dim=2)[..., :columns]


def product_bound(a: Tensor, b: Tensor, expected: Tensor, out: str, accumulator: str = "f32") -> Tensor:
    """How far a @ b^T may lie from `expected` (float64): accumulation in any order, one rounding to `out`.

    Higham, Accuracy and Stability of Numerical Algorithms, 3.1: |error| <= K u |a| |b|^T; a tensor core may
    truncate where IEEE rounds, which doubles u.
    """
    accumulation = 2 * a.shape[-1] * ROUNDING[accumulator] * (a.abs() @ b.abs().mT)
    return accumulation + ROUNDING[out] * (expected.abs() + accumulation)


def element_type(format: str) -> Any:
    """The DSL's name of a format."""
    import cutlass

    names = {
        "e2m1": "Float4E2M1FN",
        "e4m3": "Float8E4M3FN",
        "e5m2": "Float8E5M2",
        "ue8m0": "Float8E8M0FNU",
        "s8": "Int8",
        "f16": "Float16",
        "bf16": "BFloat16",
        "f32": "Float32",
        "s32": "Int32",
    }
    return getattr(cutlass, names[format])


def fake_bytes(dimensions: int) -> Any:
    """Bytes of any shape, for the compiler: TMA wants 16 of them at least."""
    import cutlass.cute as cute
    from cutlass import Uint8
    from cutlass.cute.runtime import make_fake_compact_tensor

    outer = [cute.sym_int32() for _ in range(dimensions - 1)]
    shape = (*outer, cute.sym_int32(divisibility=TMA_ALIGNMENT))
    order = tuple(reversed(range(dimensions)))
    return make_fake_compact_tensor(Uint8, shape, stride_order=order, assumed_align=2 * TMA_ALIGNMENT)


def elements(data: Any, format: str, row_major: bool = True) -> Any:
    """Inside a kernel's host function: the tensor (rows, columns, L) whose bytes were passed."""
    import cutlass.cute as cute

    inner = cute.assume(data.shape[2] * 8 // BITS[format], TMA_ALIGNMENT * 8 // BITS[format])
    batches, outer = data.shape[0], data.shape[1]
    pointer = cute.recast_ptr(data.iterator, dtype=element_type(format))
    shape, stride = ((outer, inner, batches), (inner, 1, outer * inner))
    if not row_major:
        shape, stride = ((inner, outer, batches), (1, inner, outer * inner))
    return cute.make_tensor(pointer, cute.make_layout(shape, stride=stride))

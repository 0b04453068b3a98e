"""Tiny kernels of arithmetic: single instructions, the DSL's math functions, conversions."""

from __future__ import annotations

from typing import Any

import cutlass.cute as cute
from cutlass import (
    BFloat16,
    Float4E2M1FN,
    Float8E4M3FN,
    Float8E5M2,
    Float16,
    Float32,
    Int32,
    Uint8,
    range_constexpr,
)

from tests.harness.simulator.tiny_dsl import compile_block
from tests.harness.simulator.tiny_ops import FLOAT_OPS, INTEGER_OPS, Op

THREADS = 128
NARROW: dict[str, Any] = {
    "bf16": BFloat16,
    "f16": Float16,
    "e4m3": Float8E4M3FN,
    "e5m2": Float8E5M2,
    "e2m1": Float4E2M1FN,
}
VECTOR = 8


def compile_integer_ops(rows: int) -> Any:
    return _compile_ops(INTEGER_OPS, Int32, rows)


def compile_float_ops(rows: int) -> Any:
    return _compile_ops(FLOAT_OPS, Float32, rows)


def _compile_ops(ops: dict[str, Op], dtype: Any, rows: int) -> Any:
    table = list(ops.values())

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        block, _, _ = cute.arch.block_idx()
        thread, _, _ = cute.arch.thread_idx()
        row = block * THREADS + thread
        operands = [x[row, 0], x[row, 1], x[row, 2]]
        for column in range_constexpr(len(table)):
            op = table[column]
            y[row, column] = cute.arch.inline_ptx(
                op.template, write_only_types=[dtype], read_only_args=operands[: op.arity]
            )

    grid = (rows // THREADS, 1, 1)
    return compile_block(
        kernel, (dtype, (rows, 3)), (dtype, (rows, len(table))), grid=grid, block=(THREADS, 1, 1)
    )


def compile_math(names: tuple[str, ...], fastmath: bool, rows: int) -> Any:
    """The DSL's `cute.math` functions of one argument, column by column."""

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        block, _, _ = cute.arch.block_idx()
        thread, _, _ = cute.arch.thread_idx()
        row = block * THREADS + thread
        for column in range_constexpr(len(names)):
            y[row, column] = getattr(cute.math, names[column])(x[row], fastmath=fastmath)

    grid = (rows // THREADS, 1, 1)
    return compile_block(
        kernel, (Float32, (rows,)), (Float32, (rows, len(names))), grid=grid, block=(THREADS, 1, 1)
    )


def compile_narrow(name: str, rows: int) -> Any:
    """fp32 [rows, 8] -> the narrow format's bytes [rows, 8 * bits / 8], one row a thread."""
    dtype = NARROW[name]

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        thread, _, _ = cute.arch.thread_idx()
        wide = cute.make_rmem_tensor((VECTOR,), Float32)
        narrow = cute.make_rmem_tensor((VECTOR,), dtype)
        cute.autovec_copy(x[thread, None], wide)
        narrow.store(wide.load().to(dtype))
        cute.autovec_copy(cute.recast_tensor(narrow, Uint8), y[thread, None])

    bytes_of_row = VECTOR * dtype.width // 8
    return compile_block(
        kernel, (Float32, (rows, VECTOR)), (Uint8, (rows, bytes_of_row)), grid=(1, 1, 1), block=(rows, 1, 1)
    )


def compile_widen(name: str, rows: int) -> Any:
    """The narrow format's bytes [rows, 8 * bits / 8] -> fp32 [rows, 8]."""
    dtype = NARROW[name]

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        thread, _, _ = cute.arch.thread_idx()
        narrow = cute.make_rmem_tensor((VECTOR,), dtype)
        wide = cute.make_rmem_tensor((VECTOR,), Float32)
        cute.autovec_copy(x[thread, None], cute.recast_tensor(narrow, Uint8))
        wide.store(narrow.load().to(Float32))
        cute.autovec_copy(wide, y[thread, None])

    bytes_of_row = VECTOR * dtype.width // 8
    return compile_block(
        kernel, (Uint8, (rows, bytes_of_row)), (Float32, (rows, VECTOR)), grid=(1, 1, 1), block=(rows, 1, 1)
    )


def compile_packed_float(rows: int) -> Any:
    """Float32 [rows, 6] -> [rows, 6] on Blackwell: fma, mul and add of pairs (a, b), (c, d), (e, f)."""

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        row, _, _ = cute.arch.thread_idx()
        a, b, c = [(x[row, i], x[row, i + 1]) for i in (0, 2, 4)]
        results = (
            cute.arch.fma_packed_f32x2(a, b, c),
            cute.arch.mul_packed_f32x2(a, b),
            cute.arch.add_packed_f32x2(a, b),
        )
        for pair in range_constexpr(3):
            y[row, 2 * pair] = results[pair][0]
            y[row, 2 * pair + 1] = results[pair][1]

    return compile_block(
        kernel, (Float32, (rows, 6)), (Float32, (rows, 6)), grid=(1, 1, 1), block=(rows, 1, 1)
    )

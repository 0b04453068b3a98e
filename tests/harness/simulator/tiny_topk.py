"""A tiny kernel of the running top k over subtiles that come in descending order."""

from __future__ import annotations

from typing import Any

import cutlass.cute as cute
from cutlass import Float32, Int32, range_constexpr

from kernels.device.topk import TopK, sort_key
from tests.harness.simulator.tiny_dsl import compile_block


def compile_reversed_top_k(rows: int, columns: int, subtile: int, k: int) -> Any:
    """fp32 keys [rows, columns] -> [rows, 2, k]: the k first columns by the total order, and their keys.

    The columns' first half is walked forward, the other half in reverse, as two tiles are that overlap.
    """
    half = columns // 2 // subtile
    walk = [*range(half), *reversed(range(half, 2 * half))]

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        row, _, _ = cute.arch.thread_idx()
        top = TopK.empty(k)
        for place in range_constexpr(len(walk)):
            first = walk[place] * subtile
            top.lower_from(Int32(first))
            for column in range_constexpr(first, first + subtile):
                key = sort_key(x[row, column])
                top.insert(key, Int32(column), key)
            top.raise_from(Int32(first + subtile))
        for p in range_constexpr(k):
            y[row, 0, p] = Float32(top.i[p])
            y[row, 1, p] = top.s[p]

    return compile_block(
        kernel, (Float32, (rows, columns)), (Float32, (rows, 2, k)), grid=(1, 1, 1), block=(rows, 1, 1)
    )

"""The kernel of `tiny_family`: elementwise, with the launch signature of `kernels.family`."""

from __future__ import annotations

from typing import Any

import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32, const_expr, range_constexpr
from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream


def compile_tiny(hidden: int, experts: int, top_k: int, offset: int, local_floats: int = 0) -> Any:
    """The compiled function; ids count up from `offset`, weights copy the first k activations of a row.

    With `local_floats`, an array of so many is indexed at run time, which puts it into local memory.
    """

    @cute.kernel
    def kernel(a: cute.Tensor, weights: cute.Tensor, ids: cute.Tensor) -> None:
        row, _, _ = cute.arch.block_idx()
        for i in range(top_k):
            weights[row, i] = Float32(a[row, i])
            ids[row, i] = i + offset
        if const_expr(local_floats > 0):
            array = cute.make_rmem_tensor((local_floats,), Float32)
            for i in range_constexpr(local_floats):
                array[i] = Float32(a[row, i % hidden]) + i
            weights[row, 0] = array[ids[row, 0]]

    @cute.jit
    def launch(
        a: cute.Tensor,
        b: cute.Tensor,
        bias: cute.Tensor,
        alpha: cute.Tensor,
        workspace: cute.Tensor,
        weights: cute.Tensor,
        ids: cute.Tensor,
        stream: Any,
    ) -> None:
        kernel(a, weights, ids).launch(grid=(weights.shape[0], 1, 1), block=(1, 1, 1), stream=stream)

    def tensor(dtype: Any, *shape: Any) -> Any:
        return make_fake_compact_tensor(dtype, shape, stride_order=tuple(reversed(range(len(shape)))))

    m = cute.sym_int32()
    return cute.compile(
        launch,
        tensor(BFloat16, m, hidden),
        tensor(BFloat16, experts, hidden),
        tensor(Float32, experts),
        tensor(Float32, 1),
        tensor(Float32, cute.sym_int32()),
        tensor(Float32, m, top_k),
        tensor(Int32, m, top_k),
        make_fake_stream(use_tvm_ffi_env_stream=True),
        options="--enable-tvm-ffi",
    )

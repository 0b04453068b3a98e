"""Compiling the Blackwell test GEMMs behind one launch signature, all sizes dynamic."""

from __future__ import annotations

from typing import Any

import cutlass.cute as cute
from cutlass import Float32, Uint8
from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

from tests.harness.simulator.gemm_params import GemmParams
from tests.harness.simulator.gemm_sm100 import ELEMENTS, SCALES, Sm100Gemm

TMA_ALIGNMENT = 16


def compile_gemm(params: GemmParams) -> Any:
    """The GEMM as a callable `launch(a, b, c)`, or `launch(a, b, scales_a, scales_b, c)` when block-scaled.

    The process must compile for a Blackwell target (`harness.compile.prepare_process`). Elements narrower
    than 16 bits and scales are passed as bytes: a and b as uint8 [M, K * bits / 8] and [N, K * bits / 8],
    scales as uint8 [bytes], laid out as `kernels.nvfp4.swizzle_scales` does.
    """
    gemm = Sm100Gemm(params)
    element, bits = ELEMENTS[params.format], params.operand.bits
    as_bytes = bits < 16
    m = cute.sym_int32()
    n = cute.sym_int32(divisibility=TMA_ALIGNMENT * 8 // Float32.width)
    k = cute.sym_int32(divisibility=TMA_ALIGNMENT if as_bytes else params.k_alignment)

    def matrix(dtype: Any, rows: Any, columns: Any) -> Any:
        return make_fake_compact_tensor(
            dtype, (rows, columns), stride_order=(1, 0), assumed_align=TMA_ALIGNMENT
        )

    def scales() -> Any:
        return make_fake_compact_tensor(Uint8, (cute.sym_int32(),), assumed_align=TMA_ALIGNMENT)

    def elements(packed: cute.Tensor) -> cute.Tensor:
        """The operand whose bytes were passed."""
        if not as_bytes:
            return packed
        k = packed.shape[1] * (8 // bits)
        layout = cute.make_layout((packed.shape[0], k), stride=(cute.assume(k, params.k_alignment), 1))
        return cute.make_tensor(cute.recast_ptr(packed.iterator, dtype=element), layout)

    def scale_factors(packed: cute.Tensor) -> cute.Tensor:
        pointer = cute.recast_ptr(packed.iterator, dtype=SCALES[params.format])
        return cute.make_tensor(pointer, packed.layout)

    operand = Uint8 if as_bytes else element
    operands = matrix(operand, m, k), matrix(operand, n, k)
    out = matrix(Float32, m, n)
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    if not params.scaled:

        @cute.jit
        def launch(a: cute.Tensor, b: cute.Tensor, c: cute.Tensor, stream: Any) -> None:
            gemm(elements(a), elements(b), None, None, c, stream)

        return cute.compile(launch, *operands, out, stream, options="--enable-tvm-ffi")

    @cute.jit
    def launch_scaled(
        a: cute.Tensor,
        b: cute.Tensor,
        scales_a: cute.Tensor,
        scales_b: cute.Tensor,
        c: cute.Tensor,
        stream: Any,
    ) -> None:
        gemm(elements(a), elements(b), scale_factors(scales_a), scale_factors(scales_b), c, stream)

    return cute.compile(launch_scaled, *operands, scales(), scales(), out, stream, options="--enable-tvm-ffi")

"""Compiling the Hopper kernels behind the one launch signature of `kernels.family`, with M dynamic.

The functions are compiled with TVM FFI, so that they take torch tensors directly, run on the caller's current
stream, and check dtypes, shapes, strides and alignment of what they are given before they launch.
"""

from __future__ import annotations

from typing import Any

import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32
from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

from kernels.device.gate import GateKernel
from kernels.problem import RouterProblem
from kernels.sm90.config import Sm90Config
from kernels.sm90.epilogue import LogitsEpilogue
from kernels.sm90.gemm import Sm90RouterGemm

TMA_ALIGNMENT = 16
PARTIALS_ALIGNMENT, LOGITS_ALIGNMENT = 4, 8  # of the workspace; logits are stored in pairs


def _compile(launch: Any, problem: RouterProblem, workspace_alignment: int = PARTIALS_ALIGNMENT) -> Any:
    m = cute.sym_int32()
    row_major = (1, 0)

    def tensor(dtype: Any, shape: tuple[Any, ...], align: int) -> Any:
        order = row_major if len(shape) == 2 else (0,)
        return make_fake_compact_tensor(dtype, shape, stride_order=order, assumed_align=align)

    return cute.compile(
        launch,
        tensor(BFloat16, (m, problem.hidden), TMA_ALIGNMENT),
        tensor(BFloat16, (problem.experts, problem.hidden), TMA_ALIGNMENT),
        tensor(Float32, (problem.experts,), 4),
        tensor(Float32, (1,), 4),
        tensor(Float32, (cute.sym_int32(),), workspace_alignment),
        tensor(Float32, (m, problem.top_k), 4),
        tensor(Int32, (m, problem.top_k), 4),
        make_fake_stream(use_tvm_ffi_env_stream=True),
        options="--enable-tvm-ffi",
    )


def compile_fused(problem: RouterProblem, config: Sm90Config) -> Any:
    """The fused router as a callable `launch(a, b, bias, alpha, workspace, weights, ids)`."""
    return compile_gemm(Sm90RouterGemm(problem, config), problem)


def compile_gemm(kernel: Sm90RouterGemm, problem: RouterProblem) -> Any:
    """One GEMM with its epilogue as a `launch`, whatever class it is of."""

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
        kernel(a, b, bias, alpha, workspace, weights, ids, stream)

    return _compile(launch, problem)


def compile_two_kernel(problem: RouterProblem, config: Sm90Config, gate_warps: int) -> Any:
    """The GEMM that writes fp32 logits [M, E] to the workspace, then the gate kernel, as one `launch`."""
    gemm = Sm90RouterGemm(problem, config, LogitsEpilogue)
    gate = GateKernel(problem, gate_warps)

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
        shape = (weights.shape[0], problem.experts)
        logits = cute.make_tensor(workspace.iterator, cute.make_layout(shape, stride=(problem.experts, 1)))
        gemm(a, b, bias, alpha, workspace, logits, ids, stream)
        gate(logits, bias, weights, ids, stream)

    return _compile(launch, problem, LOGITS_ALIGNMENT)

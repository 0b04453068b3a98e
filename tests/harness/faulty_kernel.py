"""The fused Hopper router with a fault behind it: a second kernel, or host code that crashes."""

from __future__ import annotations

from typing import Any

import cutlass.cute as cute
from cutlass import Float32, Int32, const_expr
from cutlass._mlir.dialects import llvm
from cutlass.cutlass_dsl import dsl_user_op

from kernels.problem import RouterProblem
from kernels.sm90.config import Sm90Config
from kernels.sm90.gemm import Sm90RouterGemm
from kernels.sm90.launch import compile_gemm


@dsl_user_op
def _assembly(text: str, constraints: str, *, loc: Any = None, ip: Any = None) -> None:
    llvm.inline_asm(
        None,
        [],
        text,
        constraints,
        has_side_effects=True,
        is_align_stack=False,
        asm_dialect=llvm.AsmDialect.AD_ATT,
        loc=loc,
        ip=ip,
    )


class FaultyRouter(Sm90RouterGemm):
    """The fused router, then `fault` (one of `tests.harness.faulty_family.FAULTS`)."""

    def __init__(self, problem: RouterProblem, config: Sm90Config, fault: str) -> None:
        super().__init__(problem, config)
        self.fault = fault

    def __call__(self, *arguments: Any) -> None:
        super().__call__(*arguments)
        weights, ids, stream = arguments[-3:]
        if self.fault == "segfault":
            _assembly("movq 0, %rax", "~{rax},~{memory}")
        if self.fault in ("out_of_bounds", "wrong_id", "endless"):
            self.misbehave(weights, ids).launch(grid=(1, 1, 1), block=(32, 1, 1), stream=stream)

    @cute.kernel
    def misbehave(self, weights: cute.Tensor, ids: cute.Tensor) -> None:
        thread, _, _ = cute.arch.thread_idx()
        rows, last = Int32(weights.shape[0]), self.problem.top_k - 1
        if const_expr(self.fault == "out_of_bounds"):
            behind = cute.make_tensor(weights.iterator + rows * self.problem.top_k, cute.make_layout(1))
            if thread == 0:
                behind[0] = Float32(1.0)
        if const_expr(self.fault == "wrong_id"):
            experts = self.problem.experts
            if thread == 0:
                ids[rows - 1, last] = (ids[rows - 1, last] + experts // 2) % experts
        if const_expr(self.fault == "endless"):
            _assembly("{ AGAIN: nanosleep.u32 1000; bra.uni AGAIN; }", "")


def compile_faulty(problem: RouterProblem, config: Sm90Config, fault: str) -> Any:
    """The router with its fault as a `launch`."""
    return compile_gemm(FaultyRouter(problem, config, fault), problem)

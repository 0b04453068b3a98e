"""The gate kernel of the two-kernel path: logits in memory -> ids and weights, one warp per token.

Lane l takes the experts l, l + 32, l + 64, ... (coalesced loads), keeps their running top k in registers, and
five rounds of shuffles merge the 32 lists. The GEMM has applied alpha to the logits.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.cutlass_dsl import select_

from kernels.device.score import activation
from kernels.device.topk import TopK, sort_key, write_row
from kernels.problem import RouterProblem, Score

WARP = 32


class GateKernel:
    """Top-k selection over logits [M, E] fp32 for one problem; `warps` tokens in a block."""

    def __init__(self, problem: RouterProblem, warps: int) -> None:
        self.problem = problem
        self.warps = warps

    @cute.jit
    def __call__(
        self, logits: cute.Tensor, bias: cute.Tensor, weights: cute.Tensor, ids: cute.Tensor, stream: Any
    ) -> None:
        self.kernel(logits, bias, weights, ids).launch(
            grid=(cute.ceil_div(weights.shape[0], self.warps), 1, 1),
            block=(WARP * self.warps, 1, 1),
            stream=stream,
        )

    @cute.kernel
    def kernel(self, logits: cute.Tensor, bias: cute.Tensor, weights: cute.Tensor, ids: cute.Tensor) -> None:
        problem = self.problem
        thread, _, _ = cute.arch.thread_idx()
        block, _, _ = cute.arch.block_idx()
        lane = thread % WARP
        token = block * self.warps + thread // WARP
        if token < weights.shape[0]:
            top = TopK.empty(problem.top_k)
            for step in cutlass.range_constexpr(-(-problem.experts // WARP)):
                expert = lane + step * WARP
                if expert < problem.experts:
                    score = activation(problem.score, logits[token, expert])
                    biased = score + bias[expert] if cutlass.const_expr(problem.bias) else score
                    top.insert(sort_key(biased), expert, score)
            top.merge_lanes(WARP)
            denominator = None
            if cutlass.const_expr(problem.score is Score.SOFTMAX and not problem.renorm):
                denominator = self.denominator(logits, token, lane, top.a[0])
            if lane == 0:
                write_row(top, problem, weights, ids, token, denominator)

    @cute.jit
    def denominator(self, logits: cute.Tensor, token: Int32, lane: Int32, largest: Float32) -> Float32:
        """Softmax's denominator relative to the largest logit; a NaN logit takes no part in it."""
        total = Float32(0.0)
        for step in cutlass.range_constexpr(-(-self.problem.experts // WARP)):
            expert = lane + step * WARP
            if expert < self.problem.experts:
                logit = logits[token, expert]
                total += select_(logit == logit, cute.math.exp(logit - largest), Float32(0.0))
        return cute.arch.warp_reduction_sum(total)

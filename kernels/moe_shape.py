"""The sizes of a decoder layer around one of the router presets, whole or scaled down for a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernels.nvfp4_layout import BLOCK
from kernels.problem import RouterProblem

HEAD_DIM = 128
SMALL_HEAD_DIM = 32  # of layers scaled down so far that heads of 128 would leave only a few
SMALL_HIDDEN = 1024
QUERIES_PER_KV_HEAD = (8, 4, 2)  # the first that divides the heads, which are even


@dataclass(frozen=True)
class LayerShape:
    """One decoder layer's sizes.

    The router's are the preset's. The presets' models differ in their attention (most compress the keys), so
    the attention here is a plain grouped-query one of the same width, and the experts have the proportion
    2048 : 7168 of DeepSeek-V3 (arXiv 2412.19437, section 4.2), rounded to NVFP4's block.

    Attributes:
        problem: the router; its `hidden` is the residual stream's width H and its `experts` their number E.
        heads: query heads.
        kv_heads: key and value heads, each shared by heads / kv_heads query heads.
        head_dim: the width of a head.
        expert_hidden: I, the width inside an expert; the shared expert has it too.
        eps: added to the mean square in RMSNorm.
        rope_theta: the base of the rotary frequencies.
    """

    problem: RouterProblem
    heads: int
    kv_heads: int
    head_dim: int
    expert_hidden: int
    eps: float = 1e-6
    rope_theta: float = 10000.0

    @property
    def hidden(self) -> int:
        return self.problem.hidden


def layer_shape(problem: RouterProblem, scale_down: int = 1) -> LayerShape:
    """The layer of `problem` with H and E divided by `scale_down`, k and the score as they are.

    At least 2 k experts remain, so that the router has a choice. Raises `ValueError` when too little remains.
    """
    if scale_down < 1:
        raise ValueError(f"scale_down = {scale_down}: must be at least 1")
    smallest = 2 * SMALL_HEAD_DIM
    hidden = problem.hidden // scale_down // smallest * smallest
    if hidden == 0:
        largest = problem.hidden // smallest
        raise ValueError(
            f"scale_down = {scale_down} leaves too little of {problem.name}'s hidden = {problem.hidden}: "
            f"must be at most {largest}"
        )
    experts = max(problem.experts // scale_down, min(2 * problem.top_k, problem.experts))
    head_dim = HEAD_DIM if hidden >= SMALL_HIDDEN and hidden % (2 * HEAD_DIM) == 0 else SMALL_HEAD_DIM
    heads = hidden // head_dim
    group = next(size for size in QUERIES_PER_KV_HEAD if heads % size == 0)
    return LayerShape(
        replace(problem, hidden=hidden, experts=experts),
        heads=heads,
        kv_heads=heads // group,
        head_dim=head_dim,
        expert_hidden=-(-hidden * 2048 // 7168 // BLOCK) * BLOCK,
    )

"""The router in float64: what every kernel on every target is compared with.

Selection is total and the same everywhere. The **key** of an expert is what the experts are ranked by: the
score plus the selection bias or, for softmax (which takes no bias and is monotone in the logit), the logit.
Keys descend; among equal keys the lowest expert id comes first; a NaN key counts as -inf, the lowest of all,
so a row of NaN yields the ids 0 to k-1.

A NaN logit spoils its own expert and no other. For softmax that is a choice: such an expert takes no part in
the denominator, and its own score is NaN. A selected NaN gives a NaN weight; where the weights are
renormalized, the sum carries it to the row's other weights.

    weight = score * (routed_scale / sum)      renormalized; a sum of exactly 0 gives weights of 0
    weight = score * routed_scale              otherwise
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.nvfp4 import Nvfp4Tensor, dequantize_nvfp4
from kernels.problem import RouterProblem, Score


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) as `max(x, 0) + log1p(exp(-|x|))`, which neither overflows nor rounds to 0 early."""
    return x.clamp(min=0.0) + torch.log1p(torch.exp(-x.abs()))


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension in which a NaN logit takes no part; its own score is NaN.

    A row whose largest logit is infinite is NaN throughout.
    """
    usable = torch.where(logits.isnan(), -torch.inf, logits)
    exponentials = torch.exp(logits - usable.amax(dim=-1, keepdim=True))
    return exponentials / exponentials.nansum(dim=-1, keepdim=True)


def score(logits: Tensor, kind: Score) -> Tensor:
    """The scores of `logits` [M, E], in their dtype."""
    if kind is Score.SQRT_SOFTPLUS:
        return torch.sqrt(softplus(logits))
    if kind is Score.SIGMOID:
        return torch.sigmoid(logits)
    return softmax(logits)


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores and ranking keys of every expert, float64 [M, E]. A NaN key has become -inf."""

    scores: Tensor
    keys: Tensor


def score_experts(logits: Tensor, problem: RouterProblem, bias: Tensor | None) -> Scored:
    """Score logits [M, E] in float64. `bias` is [E]; None stands for zeros and must do so for softmax."""
    if logits.ndim != 2 or logits.shape[1] != problem.experts:
        raise ValueError(f"logits have the shape {tuple(logits.shape)}: want [M, {problem.experts}]")
    logits = logits.double()
    scores = score(logits, problem.score)
    keys = logits if problem.score is Score.SOFTMAX else scores
    if bias is not None:
        keys = keys + bias.double()
    return Scored(scores, torch.where(keys.isnan(), -torch.inf, keys))


def select(keys: Tensor, top_k: int) -> Tensor:
    """The ids of the `top_k` highest keys, int64 [M, k], descending; ties: the lowest id first."""
    return torch.sort(keys, dim=1, descending=True, stable=True).indices[:, :top_k]


def routing_weights(scores: Tensor, ids: Tensor, problem: RouterProblem) -> Tensor:
    """The weights, float64 [M, k], of the experts `ids` [M, k] given all scores [M, E]."""
    selected = scores.gather(1, ids.long())
    if problem.renorm:
        total = selected.sum(dim=1, keepdim=True)
        selected = torch.where(total == 0.0, 0.0, selected / total)
    return selected * problem.routed_scale


def route(logits: Tensor, problem: RouterProblem, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Route logits [M, E] (alpha applied): weights fp32 [M, k] and ids int32 [M, k], computed in float64."""
    scored = score_experts(logits, problem, bias)
    ids = select(scored.keys, problem.top_k)
    return routing_weights(scored.scores, ids, problem).float(), ids.int()


def bf16_logits(a: Tensor, b: Tensor) -> Tensor:
    """The float64 product of a [M, K] and b [E, K] rounded to bf16: logits [M, E]."""
    return a.bfloat16().double() @ b.bfloat16().double().T


def bf16_reference(
    a: Tensor, b: Tensor, bias: Tensor | None, problem: RouterProblem
) -> tuple[Tensor, Tensor]:
    """Route unquantized activations [M, K] against a weight [E, K] in bf16: weights and ids as `route`'s."""
    return route(bf16_logits(a, b), problem, bias)


def nvfp4_gemm_reference(a: Nvfp4Tensor, b: Nvfp4Tensor) -> Tensor:
    """The float64 product [M, E] of what two quantized matrices represent, global scales divided out."""
    return dequantize_nvfp4(a, torch.float64) @ dequantize_nvfp4(b, torch.float64).T

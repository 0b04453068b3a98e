"""The steps of a decoder layer in float64, each with what a right implementation may differ by.

A step takes signals and gives a `Computed`: the value, a bound on the **error** of computing it in fp32, and
the **variance** of the quantization error that it carries. They are two different things:

- The error is of an implementation that is given exactly these inputs. It is a bound, not an estimate: a
  larger one is a defect. The rounding of the stored result comes on top (`harness.trace_reference`).
- The variance is of an NVFP4 implementation against the unquantized layer, element by element. It is an
  estimate to first order: errors are taken as independent, and each step passes them on by its derivatives.
  `harness.trace_noise` gives what a quantized product adds.

u = 2^-24 is fp32's unit roundoff. Elementary functions (exp, sin, cos, rsqrt) are taken to be good to 2^-21.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.check_bounds import ACCUMULATION_UNIT, COMBINING_STEPS, MMA_K, accumulate
from kernels.moe_shape import LayerShape
from kernels.problem import RouterProblem, Score
from kernels.reference import score

U = 2.0**-24
FUNCTION_UNIT = 2.0**-21
BF16_UNIT = 2.0**-8  # bf16's unit roundoff: 8 significant bits


@dataclass(frozen=True, eq=False)
class Signal:
    """An intermediate as the next step reads it: its stored value and its error variance, float64 [R, N]."""

    value: Tensor
    variance: Tensor


@dataclass(frozen=True, eq=False)
class Computed:
    """A step's result before it is stored, float64 [R, N]: see the module."""

    value: Tensor
    error: Tensor
    variance: Tensor


def norm(x: Signal, weight: Tensor, eps: float) -> Computed:
    """RMSNorm. The mean of K squares errs by at most K u, of which the root passes on half.

    The variance leaves out the norm's own change, which only takes from the error along x.
    """
    weight = weight.double()
    factor = (x.value.square().mean(1, keepdim=True) + eps).rsqrt()
    value = x.value * factor * weight
    error = (x.value.shape[1] / 2 * U + FUNCTION_UNIT) * value.abs()
    return Computed(value, error, x.variance * (factor * weight).square())


def dense(x: Signal, weight: Tensor) -> Computed:
    """The product with an unquantized weight [N, K], accumulated in fp32."""
    value, error = accumulate(x.value, weight)
    return Computed(value, error, x.variance @ weight.double().square().T)


def rotate(x: Signal, shape: LayerShape) -> Computed:
    """Rotary positions. An fp32 angle errs by 4 u of itself, and cos and sin by that plus their own."""
    half = shape.head_dim // 2
    pairs = torch.arange(half, dtype=torch.float64, device=x.value.device)
    tokens = torch.arange(len(x.value), dtype=torch.float64, device=x.value.device)
    angles = tokens[:, None, None] * shape.rope_theta ** (-pairs / half)
    cos, sin = angles.cos(), angles.sin()

    def halves(each: Tensor) -> tuple[Tensor, Tensor]:
        first, second = each.view(len(each), -1, 2, half).unbind(2)
        return first, second

    def joined(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack((first, second), dim=2).flatten(1)

    (a, b), (va, vb) = halves(x.value), halves(x.variance)
    error = (4 * U * angles + FUNCTION_UNIT) * (a.abs() + b.abs())
    return Computed(
        joined(a * cos - b * sin, b * cos + a * sin),
        joined(error, error),
        joined(va * cos**2 + vb * sin**2, vb * cos**2 + va * sin**2),
    )


def attend(q: Signal, k: Signal, v: Signal, shape: LayerShape) -> Computed:
    """Causal grouped-query attention.

    A score errs by its accumulation over D, at most u_acc (D/16 + 4) sum |q k| / sqrt(D); a probability by
    twice the largest of a row's. Kernels store the probabilities in bf16 before they multiply the values:
    2^-8 of each. The sums over M tokens add M u. The variance comes through the values with p^2, and through
    the scores with the derivative p_j (v_j - o).
    """
    heads = _by_head(q, shape.head_dim), _by_head(k, shape.head_dim), _by_head(v, shape.head_dim)
    group = shape.heads // shape.kv_heads
    (q_value, q_var), (k_value, k_var), (v_value, v_var) = heads
    k_value, k_var, v_value, v_var = (
        each.repeat_interleave(group, dim=0) for each in (k_value, k_var, v_value, v_var)
    )
    m, scale = q_value.shape[1], shape.head_dim**-0.5
    future = torch.ones(m, m, dtype=torch.bool, device=q.value.device).triu(1)
    scores = (q_value @ k_value.mT * scale).masked_fill(future, -math.inf)
    p = scores.softmax(dim=-1)
    out = p @ v_value

    steps = shape.head_dim / MMA_K + COMBINING_STEPS
    magnitude = (q_value.abs() @ k_value.abs().mT * scale).masked_fill(future, 0.0)
    score_error = ACCUMULATION_UNIT * steps * magnitude.amax(-1, keepdim=True)
    error = (BF16_UNIT + 2 * score_error + FUNCTION_UNIT + m * U) * (p @ v_value.abs())

    score_var = (q_value.square() @ k_var.mT + q_var @ k_value.square().mT) * scale**2
    through = p.square() * score_var
    variance = (
        p.square() @ v_var
        + through @ v_value.square()
        - 2 * out * (through @ v_value)
        + out.square() * through.sum(-1, keepdim=True)
    )
    variance = variance.clamp(min=0.0)  # a sum of squares, expanded
    return Computed(*(each.transpose(0, 1).flatten(1) for each in (out, error, variance)))


def _by_head(x: Signal, head_dim: int) -> tuple[Tensor, Tensor]:
    """Value and variance as [heads, M, D]."""
    value, variance = (each.view(len(each), -1, head_dim).transpose(0, 1) for each in (x.value, x.variance))
    return value, variance


def grouped(x: Signal, chosen: Tensor, product: Callable[[int, Signal], Computed]) -> Computed:
    """`product(expert, rows)` for the rows [R, K] of each chosen expert [R], put back in the rows' order."""
    pieces, places = [], []
    for expert in sorted(set(chosen.tolist())):
        own = (chosen == expert).nonzero().flatten()
        pieces.append(product(expert, Signal(x.value[own], x.variance[own])))
        places.append(own)
    back = torch.cat(places).argsort()
    return Computed(
        torch.cat([piece.value for piece in pieces])[back],
        torch.cat([piece.error for piece in pieces])[back],
        torch.cat([piece.variance for piece in pieces])[back],
    )


def swiglu(gate: Signal, up: Signal) -> Computed:
    """silu(gate) * up."""
    sigmoid = torch.sigmoid(gate.value)
    silu = gate.value * sigmoid
    slope = sigmoid * (1 + gate.value * (1 - sigmoid))
    value = silu * up.value
    variance = (slope * up.value).square() * gate.variance + silu.square() * up.variance
    # exp(-x) errs by |x| u besides its own error, since its argument was rounded.
    return Computed(value, (FUNCTION_UNIT + U * gate.value.abs()) * value.abs(), variance)


def routing_variance(logits: Signal, ids: Tensor, weights: Tensor, problem: RouterProblem) -> Tensor:
    """The variance [M, k] of the `weights` [M, k] of the experts `ids`, whatever error the logits carry.

    A score's standard deviation is half the way between the scores one standard deviation of the logit to
    either side; for softmax it is the score's own share, since the denominator cancels or moves little.
    Renormalized, w_i = s_i / T moves by (ds_i - (s_i / T) sum ds_j) / T.
    """
    value, deviation = logits.value.gather(1, ids), logits.variance.gather(1, ids).sqrt()
    scale = problem.routed_scale
    if problem.score is Score.SOFTMAX:
        scores = score(logits.value, problem.score).gather(1, ids)
        spread = scores * deviation
    else:
        scores = score(value, problem.score)
        spread = (score(value + deviation, problem.score) - score(value - deviation, problem.score)) / 2
    if not problem.renorm:
        return (scale * spread).square()
    total = scores.sum(1, keepdim=True)
    share = weights / scale
    all_spread = spread.square().sum(1, keepdim=True)
    own = (1 - 2 * share) * spread.square()
    return (scale / total).square() * (own + share.square() * all_spread)


def combine(weights: Signal, down: Signal, shared: Signal) -> Computed:
    """The weighted sum of the k experts' outputs and the shared one's: k + 3 roundings of each term."""
    slots = weights.value.shape
    w, w_var = weights.value.unsqueeze(2), weights.variance.unsqueeze(2)
    d, d_var = down.value.view(*slots, -1), down.variance.view(*slots, -1)
    magnitude = (w * d).abs().sum(1) + shared.value.abs()
    variance = (w.square() * d_var + w_var * d.square()).sum(1) + shared.variance
    return Computed((w * d).sum(1) + shared.value, (slots[1] + 3) * U * magnitude, variance)


def add(x: Signal, y: Signal) -> Computed:
    """A residual addition, rounded once to fp32."""
    value = x.value + y.value
    return Computed(value, U * value.abs(), x.variance + y.variance)

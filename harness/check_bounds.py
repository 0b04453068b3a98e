"""What the check allows: the float64 reference with an error bound on every score and every ranking key.

**Accumulation.** A tensor core multiplies exactly and adds 16 products to the accumulator in one step (bf16,
`wgmma` and `mma`): it aligns all 17 terms to the largest exponent, truncates each to about 2 bits below an
fp32 significand, and truncates the sum to fp32. Truncating the sum costs at most 2^-23 of it, always towards
zero, so the errors of a growing sum add up instead of averaging out. A product of two 8-bit significands has
16 bits and loses some only when it is below 2^-10 of the largest term, and then at most 2^-25 of that; 16 of
them have random signs and cost less than the sum's own truncation. Together u = 2^-22 of the accumulator's
magnitude, per step. IEEE fp32 accumulation, with half the error per addition and no bias, is covered too.

The bound is then `u * (K / 16 + 4) * R`, where R is the range of the float64 prefix sums (0 among them) at
every 16th k, for this row and this expert. Any contiguous part of K sums to at most R in magnitude, so split
K is covered (the 4 is for adding the parts); other orders visit sums of the same size. R instead of the sum
of all |a b| is what makes it tight: about 1e-4 of the logits' standard deviation at K = 7168, 150 times
below the worst case over all signs, while one e4m3 scale off by one ulp moves a logit by 5e-3 of it.

**Score.** The score functions are monotone, so a logit in [x - d, x + d] has its score between theirs: no
derivative is needed. The kernel's own evaluation adds 2^-20 relative (a few fp32 operations and one
approximate exponential), the smallest normal fp32 absolute (underflow, flushed or not), and d includes
2^-22 |x| for alpha's product and the exponential's argument. Adding the bias rounds once: 2^-23 of the key.

**Softmax.** Kernels rank by the logit or by the fp32 score. The key is the logit; 2^-20 relative of a score
is 2^-20 absolute of its logarithm; a score below fp32's normal range ranks anywhere among such.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.check_cases import Operands
from kernels.problem import RouterProblem, Score
from kernels.reference import score, score_experts, select

MMA_K = 16  # products added to the accumulator in one step
ACCUMULATION_UNIT = 2.0**-22
COMBINING_STEPS = 4
LOGIT_UNIT = 2.0**-22
SCORE_UNIT = 2.0**-20
KEY_UNIT = 2.0**-23
WEIGHT_UNIT = 2.0**-21
SMALLEST_NORMAL = 2.0**-126

# Infinite keys become this, so that their differences are numbers.
_LARGEST_KEY = 1e300


@dataclass(frozen=True, eq=False)
class Expected:
    """The reference for one distribution, float64 [M, E] except `ids`, int64 [M, k].

    `keys` are finite (NaN and -inf have become the lowest), with an error of 0 where a key's place is exact.
    """

    scores: Tensor
    score_errors: Tensor
    keys: Tensor
    key_errors: Tensor
    ids: Tensor

    def rows(self, index: slice | Tensor) -> Expected:
        """The reference for some of the rows."""
        return Expected(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def accumulate(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The float64 product [M, E] of a [M, K] and b [E, K], and the bound on fp32 accumulation's error."""
    steps = a.shape[1] // MMA_K
    a_steps = a.double().view(len(a), steps, MMA_K).transpose(0, 1).contiguous()
    b_steps = b.double().view(len(b), steps, MMA_K).permute(1, 2, 0).contiguous()
    total = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    low, high = total.clone(), total.clone()
    # In place, what stays in a core's cache: twice as fast as the prefixes of several steps at once.
    for a_step, b_step in zip(a_steps, b_steps, strict=True):
        total.addmm_(a_step, b_step)
        torch.minimum(low, total, out=low)
        torch.maximum(high, total, out=high)
    return total, ACCUMULATION_UNIT * (steps + COMBINING_STEPS) * (high - low)


def expect(operands: Operands, problem: RouterProblem) -> Expected:
    """The reference for `operands` with its bounds."""
    product, error = accumulate(operands.a, operands.b)
    alpha = operands.alpha.double()
    logits = product * alpha
    error = _finite_or_zero(error * alpha.abs() + LOGIT_UNIT * logits.abs())
    scored = score_experts(logits, problem, operands.bias if problem.bias else None)
    score_errors = _score_errors(logits, error, scored.scores, problem)
    if problem.score is Score.SOFTMAX:
        key_errors = torch.where(scored.scores < SMALLEST_NORMAL, torch.inf, error + SCORE_UNIT)
    else:
        key_errors = score_errors + KEY_UNIT * scored.keys.abs()
    placed = operands.exact | ~scored.keys.isfinite()
    return Expected(
        scores=scored.scores,
        score_errors=score_errors,
        keys=scored.keys.clamp(-_LARGEST_KEY, _LARGEST_KEY),
        key_errors=torch.where(placed, 0.0, key_errors),
        ids=select(scored.keys, problem.top_k),
    )


def weight_errors(expected: Expected, ids: Tensor, weights: Tensor, problem: RouterProblem) -> Tensor:
    """The largest allowed |error| of each weight [M, k], given the reference `weights` of the experts `ids`.

    Renormalized, w = s / T errs by (e_s + w e_T) / (T - e_T); where the errors reach the sum T itself (all
    scores of the row underflow in fp32) nothing is known of the weights but their range.
    """
    errors = expected.score_errors.gather(1, ids)
    if problem.renorm:
        total = expected.scores.gather(1, ids).sum(1, keepdim=True)
        total_error = errors.sum(1, keepdim=True)
        share = weights / problem.routed_scale
        errors = (errors + share.abs() * total_error) / (total - total_error)
        errors = torch.where(total_error < total, errors, 1.0)
    return errors * abs(problem.routed_scale) + WEIGHT_UNIT * weights.abs() + SMALLEST_NORMAL


def _score_errors(logits: Tensor, error: Tensor, scores: Tensor, problem: RouterProblem) -> Tensor:
    if problem.score is Score.SOFTMAX:
        # Renormalization cancels the denominator. Without it, that errs by at most the row's largest error.
        denominator = 0.0 if problem.renorm else error.amax(1, keepdim=True)
        spread = scores * torch.expm1(error + denominator)
    else:
        above = score(logits + error, problem.score) - scores
        spread = torch.maximum(above, scores - score(logits - error, problem.score))
    return _finite_or_zero(spread + SCORE_UNIT * scores + SMALLEST_NORMAL)


def _finite_or_zero(x: Tensor) -> Tensor:
    """Errors of non-finite values are 0: such a value is the reference's or it is wrong."""
    return torch.where(x.isfinite(), x, 0.0)

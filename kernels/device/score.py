"""The score functions in device code: fp32 in, fp32 out, accurate wherever the result is representable.

Both use `e = exp(-|x|/2)` or `exp(-|x|)`, which cannot overflow, and no difference of nearly equal numbers:

    softplus(x)       = max(x, 0) + log1p(y),  y = exp(-|x|)
    log1p(y)          = 2 atanh(z),            z = y / (2 + y) <= 1/3
    sqrt(softplus(x)) = sqrt(x + log1p(y))               for x > 0
                      = exp(x/2) * sqrt(log1p(y) / y)    otherwise

The second form of the square root keeps full relative accuracy down to x = -174, where softplus itself left
fp32's range at -104: with NVFP4 weights a whole row of very negative logits is not rare, and renormalization
makes even such scores visible.
"""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Float32
from cutlass.cutlass_dsl import select_

from kernels.problem import Score

# atanh(z)/z = 1 + z^2/3 + z^4/5 + ...; with z^2 <= 1/9 the first term left out, z^14/15, is below 2^-25.
_ATANH_COEFFICIENTS = tuple(1.0 / (2 * n + 1) for n in range(7))


def _log1p_over(y: Float32) -> Float32:
    """log1p(y) / y for 0 <= y <= 1."""
    inverse = cute.arch.rcp_approx(y + 2.0)
    z = y * inverse
    square = z * z
    series = Float32(_ATANH_COEFFICIENTS[-1])
    for coefficient in reversed(_ATANH_COEFFICIENTS[:-1]):
        series = series * square + coefficient
    return series * inverse * 2.0


def sqrt_softplus(x: Float32) -> Float32:
    """sqrt(softplus(x)); NaN stays NaN, +inf stays +inf, -inf gives 0."""
    half = cute.math.exp(cute.math.absf(x) * -0.5)
    y = half * half
    ratio = _log1p_over(y)
    positive = x > 0.0
    root = cute.math.sqrt(select_(positive, x + y * ratio, ratio))
    return root * select_(positive, Float32(1.0), half)


def sigmoid(x: Float32) -> Float32:
    """1 / (1 + exp(-x)), without overflow on either side."""
    e = cute.math.exp(-cute.math.absf(x))
    return select_(x >= 0.0, Float32(1.0), e) / (e + 1.0)


def activation(score: Score, logit: Float32) -> Float32:
    """What the running top k carries as `a`: the score, or, for softmax, the logit itself.

    Softmax is monotone in the logit, so the logit selects the same experts; the exponentials are taken only
    of the k winners (see `topk.finalize`).
    """
    if score is Score.SQRT_SOFTPLUS:
        return sqrt_softplus(logit)
    if score is Score.SIGMOID:
        return sigmoid(logit)
    return logit

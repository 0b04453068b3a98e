"""What is computed: the router problem and the presets of published models.

    logits = alpha * (A @ B^T)            # [M, E], fp32 accumulation
    s      = score(logits)                # before the bias
    ids    = top_k(s + bias)              # ties: the lowest expert id wins
    w      = s[ids]; renormalized if `renorm`; times `routed_scale`

M, the number of tokens, is not part of a problem: one compiled kernel serves every M.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_EXPERTS = 512
MAX_TOP_K = 8
# TMA wants row strides in multiples of 16 bytes: 8 bf16 elements, and NVFP4 wants whole blocks of 16.
HIDDEN_MULTIPLE = 16


class Score(StrEnum):
    """The router's score function, applied to the scaled logits."""

    SQRT_SOFTPLUS = "sqrt_softplus"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"


@dataclass(frozen=True)
class RouterProblem:
    """One router. Raises `ValueError`, with the value, for a problem no kernel can take.

    Attributes:
        name: a preset's name, or the caller's own.
        hidden: K, the length of a token's activation vector.
        experts: E, the number of experts.
        top_k: k, how many experts a token is sent to.
        score: the score function, or its name.
        bias: whether a selection bias [E] fp32 is added to the score before the selection.
        renorm: whether a token's weights are divided by their sum.
        routed_scale: factor on every weight.
    """

    name: str
    hidden: int
    experts: int
    top_k: int
    score: Score = Score.SQRT_SOFTPLUS
    bias: bool = True
    renorm: bool = True
    routed_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.score not in tuple(Score):
            raise ValueError(f"score = {self.score!r}: must be one of {', '.join(Score)}")
        # Kernels and reference compare by identity, so a bare name would pass for a score they do not know.
        object.__setattr__(self, "score", Score(self.score))
        if self.hidden < HIDDEN_MULTIPLE or self.hidden % HIDDEN_MULTIPLE:
            raise ValueError(f"hidden = {self.hidden}: must be a positive multiple of {HIDDEN_MULTIPLE}")
        if not 1 <= self.top_k <= MAX_TOP_K:
            raise ValueError(f"top_k = {self.top_k}: must be from 1 to {MAX_TOP_K}")
        if not self.top_k <= self.experts <= MAX_EXPERTS:
            raise ValueError(f"experts = {self.experts}: must be from top_k = {self.top_k} to {MAX_EXPERTS}")
        if self.score is Score.SOFTMAX and self.bias:
            raise ValueError("softmax scores take no selection bias: set bias = false")


PRESETS: dict[str, RouterProblem] = {
    problem.name: problem
    for problem in (
        RouterProblem("deepseek-v4-pro", hidden=7168, experts=384, top_k=6, routed_scale=2.5),
        RouterProblem("deepseek-v4-flash", hidden=4096, experts=256, top_k=6, routed_scale=1.5),
        RouterProblem("deepseek-v4.1-flash", hidden=5120, experts=384, top_k=6, routed_scale=1.5),
        RouterProblem("kimi-k2", hidden=7168, experts=384, top_k=8, score=Score.SIGMOID, routed_scale=2.827),
        RouterProblem("qwen3-moe", hidden=4096, experts=128, top_k=8, score=Score.SOFTMAX, bias=False),
    )
}

DEFAULT_PRESET = "deepseek-v4-pro"


def preset(name: str) -> RouterProblem:
    """The preset called `name`; raises `ValueError` naming the known ones."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ValueError(f"unknown preset {name!r}: known are {', '.join(PRESETS)}") from None

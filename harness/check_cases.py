"""The check's inputs: one generator of operands, whatever the problem and the device.

Each distribution is drawn once, at its largest M; smaller M take its first rows, so that the expensive
float64 reference is computed once per distribution. The tail shapes are dealt out over the distributions,
starting somewhere else for every seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.executor import CheckDepth
from kernels.family import OperandFormat
from kernels.nvfp4 import (
    Nvfp4Tensor,
    dequantize_exact_bf16,
    gemm_alpha,
    quantize_activation_nvfp4,
    quantize_to_nvfp4,
)
from kernels.problem import RouterProblem

# M around the usual tiles of 64 and 128, the smallest, and some that fit no tile.
TAIL_M = (1, 2, 7, 63, 64, 65, 127, 128, 129, 160)
BASE_M = 160  # every distribution runs at it: more than one tile of 128, and enough rows to see rare faults
LOGIT_STD = 2.0  # spreads the scores over the bend of every score function


@dataclass(frozen=True, eq=False)
class Operands:
    """One distribution's inputs, on the device.

    Attributes:
        name: the distribution.
        a: bf16 [max M, K].
        b: bf16 [E, K].
        bias: fp32 [E], zeros where the problem has none.
        alpha: fp32 [1].
        exact: the logits are exact in fp32 in any order of accumulation and distinct ranking keys are far
            apart, so the ids must be the reference's without tolerance; ties go to the lowest id.
        nvfp4: a and b as NVFP4, where `a` and `b` are their exact dequantization; None for bf16 data.
        unquantized: the bf16 operands that NVFP4 ones stand for, where quality is to be recorded.
        m_values: the M to run at, ascending; the last is `a`'s.
    """

    name: str
    a: Tensor
    b: Tensor
    bias: Tensor
    alpha: Tensor
    exact: bool = False
    nvfp4: tuple[Nvfp4Tensor, Nvfp4Tensor] | None = None
    unquantized: tuple[Tensor, Tensor] | None = None
    m_values: tuple[int, ...] = ()

    def for_launch(self, m: int, operand_format: OperandFormat) -> tuple[Tensor, ...]:
        """The operands of a launch at `m` tokens, as `kernels.family` has them."""
        if operand_format is OperandFormat.BF16:
            return self.a[:m], self.b
        assert self.nvfp4 is not None
        a, b = self.nvfp4
        return *a.first_rows(m).as_bytes(), *b.as_bytes()


@dataclass(frozen=True)
class Draw:
    """Random tensors for one problem, from one generator on one device. `rows` is the distribution's M."""

    problem: RouterProblem
    generator: torch.Generator
    rows: int

    @property
    def device(self) -> torch.device:
        return self.generator.device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """fp32 integers from low to high, both included."""
        return torch.randint(low, high + 1, shape, generator=self.generator, device=self.device).float()

    def activations(self) -> Tensor:
        return self.normal(self.rows, self.problem.hidden)

    def weight(self, logit_std: float = LOGIT_STD) -> Tensor:
        """A weight that gives N(0, 1) activations logits of this standard deviation."""
        scale = logit_std / math.sqrt(self.problem.hidden)
        return self.normal(self.problem.experts, self.problem.hidden) * scale

    def direction(self) -> Tensor:
        """+-1 along K: a shared component of the activations, along which a weight shifts every logit."""
        return self.normal(self.problem.hidden).sign()

    def bias(self, std: float = 0.2) -> Tensor:
        return self.normal(self.problem.experts) * std

    def operands(
        self, a: Tensor, b: Tensor, bias: Tensor | None = None, alpha: float = 1.0, exact: bool = False
    ) -> Operands:
        """Operands of these values, rounded to bf16; a bias is dropped where the problem has none."""
        if bias is None or not self.problem.bias:
            bias = torch.zeros(self.problem.experts, device=self.device)
        return Operands(
            name="",
            a=a.bfloat16().contiguous(),
            b=b.bfloat16().contiguous(),
            bias=bias.float().contiguous(),
            alpha=torch.tensor([alpha], device=self.device),
            exact=exact,
        )


def normal(draw: Draw) -> Operands:
    """Plain data, with an alpha that is no power of two."""
    alpha = 0.618034
    return draw.operands(draw.activations(), draw.weight() / alpha, draw.bias(), alpha)


def nvfp4(draw: Draw) -> Operands:
    """Plain data through NVFP4: what a quantized router multiplies. Its quality is recorded."""
    return _quantized(draw, draw.activations(), draw.weight(), draw.bias())


def nvfp4_every_expert(draw: Draw) -> Operands:
    """NVFP4 data in which every expert is among the first k of some row, so no expert's fault can hide.

    Logits are about -6 but for k experts of each row, lifted to about 0, where scores are steep. At K = 7168
    this distribution alone sees 99 % of the faults in which one block's scale is off by one ulp.
    """
    k, experts, lift, logit_std = draw.problem.top_k, draw.problem.experts, 6.0, 0.7
    rows = torch.arange(draw.rows, device=draw.device)[:, None]
    favoured = (rows * k + torch.arange(k, device=draw.device)) % experts
    direction = draw.direction()
    w = draw.weight(
        logit_std
    )  # rows of length `logit_std`: its square is what a unit of one lifts its expert
    a = draw.activations() + direction + (lift / logit_std**2) * w[favoured].sum(1)
    b = w - (lift / draw.problem.hidden) * direction
    return _quantized(draw, a, b, draw.bias(0.02))


def outliers(draw: Draw) -> Operands:
    """Heavy tails in both operands: z * exp(1.5 z') has the root mean square exp(1.5^2) = 9.5."""
    shape = (draw.rows, draw.problem.hidden)
    a = draw.normal(*shape) * torch.exp(1.5 * draw.normal(*shape))
    b = draw.weight() * torch.exp(1.5 * draw.normal(draw.problem.experts, draw.problem.hidden))
    return draw.operands(a, b, draw.bias(), math.exp(-4.5))


def tiny(draw: Draw) -> Operands:
    """Operands of 2^-40, lifted by alpha: an epilogue without alpha sees only zeros."""
    return draw.operands(draw.activations() * 2.0**-40, draw.weight() * 2.0**-40, draw.bias(), 2.0**80)


def huge(draw: Draw) -> Operands:
    """Operands of 2^40, brought back by alpha."""
    return draw.operands(draw.activations() * 2.0**40, draw.weight() * 2.0**40, draw.bias(), 2.0**-80)


def very_negative(draw: Draw) -> Operands:
    """Logits about -60, where softplus is exp(x) and 1 + exp(x) rounds to 1. No bias: scores must rank."""
    return draw.operands(*_shifted(draw, -60.0))


def very_positive(draw: Draw) -> Operands:
    """Logits about 200, where softplus is x and exp(x) overflows."""
    a, b = _shifted(draw, 200.0)
    return draw.operands(a, b, draw.bias())


def ties(draw: Draw) -> Operands:
    """Small integers, so that logits are exact, and every weight row four times, so that logits tie."""
    hidden, experts = draw.problem.hidden, draw.problem.experts
    distinct = max(1, experts // 4)
    copies = draw.integers(-2, 2, distinct, hidden)
    b = copies[torch.arange(experts, device=draw.device) % distinct]
    # The logits' standard deviation is 2 sqrt(K); a power of two near its inverse keeps them exact.
    alpha = 2.0 ** -round(math.log2(2.0 * math.sqrt(hidden)))
    return draw.operands(draw.integers(-2, 2, draw.rows, hidden), b, alpha=alpha, exact=True)


def bias_ties(draw: Draw) -> Operands:
    """All logits 0; a bias of few distinct values alone selects, and ties."""
    a = torch.zeros(draw.rows, draw.problem.hidden, device=draw.device)
    bias = draw.integers(-3, 3, draw.problem.experts) / 8
    return draw.operands(a, draw.weight(), bias, exact=True)


def bias_reverses(draw: Draw) -> Operands:
    """Experts whose scores rise with their id, under a bias that falls faster than they rise."""
    hidden, experts = draw.problem.hidden, draw.problem.experts
    direction = draw.direction()
    rise = torch.linspace(-3.0, 3.0, experts, device=draw.device)
    a = draw.activations() + direction
    b = draw.weight() / 4 + rise[:, None] * direction / hidden
    return draw.operands(a, b, -2.0 * rise)


def non_finite(draw: Draw) -> Operands:
    """Rows of NaN and rows with a NaN or infinities among plain ones; an expert with each."""
    base = normal(draw)
    a, b = base.a, base.b
    a[0::8] = math.nan
    a[1::8, 3] = math.nan
    a[2::8, -1] = math.inf
    a[3::8, 0] = -math.inf
    a[5::8, 1], a[5::8, -2] = math.inf, -math.inf
    b[draw.problem.experts // 3, 5] = math.nan
    b[draw.problem.experts // 2, 7] = math.inf
    return base


def few_usable_experts(draw: Draw) -> Operands:
    """All experts but k - 2 hold a NaN, so that NaN must be selected, the lowest ids of it."""
    base = normal(draw)
    base.b[: draw.problem.experts - max(0, draw.problem.top_k - 2), 2] = math.nan
    return base


DISTRIBUTIONS: dict[str, Callable[[Draw], Operands]] = {
    builder.__name__: builder
    for builder in (
        normal,
        nvfp4,
        nvfp4_every_expert,
        outliers,
        tiny,
        huge,
        very_negative,
        very_positive,
        ties,
        bias_ties,
        bias_reverses,
        non_finite,
        few_usable_experts,
    )
}


def generate(
    problem: RouterProblem,
    seed: int,
    device: torch.device,
    tail_unit: int,
    only: tuple[str, ...] = tuple(DISTRIBUTIONS),
    operand_format: OperandFormat = OperandFormat.BF16,
    depth: CheckDepth = CheckDepth.FULL,
    at: Mapping[str, tuple[int, ...]] | None = None,
) -> Iterator[Operands]:
    """Operands of each distribution in `only`; `tail_unit`, the kernel's tile of M, adds tail shapes.

    With `at`, the distributions that it names run, each at its M and no others.

    For a kernel of NVFP4 operands every distribution is quantized, those that are not so by themselves too.
    """
    for index, (name, build) in enumerate(DISTRIBUTIONS.items()):
        if name not in (only if at is None else at):
            continue
        if at is not None:
            m_values = set(at[name])
        elif depth is CheckDepth.BRIEF:
            m_values = _brief_m(seed, index, tail_unit)
        else:
            m_values = _every_m(seed, index, tail_unit)
            if build is nvfp4_every_expert:
                m_values.add(-(-problem.experts // problem.top_k))
        # Seeded by name as well as by number: a distribution is the same whichever others run with it.
        generator = torch.Generator(device).manual_seed(seed * len(DISTRIBUTIONS) + index)
        operands = build(Draw(problem, generator, max(m_values)))
        if operand_format is OperandFormat.NVFP4 and operands.nvfp4 is None:
            operands = as_nvfp4(operands)
        yield replace(operands, name=name, m_values=tuple(sorted(m_values)))


def _every_m(seed: int, index: int, tail_unit: int) -> set[int]:
    """The M of distribution number `index` in a full check."""
    tails = _tails(tail_unit)
    dealt = 2 + len(tails) // len(DISTRIBUTIONS)  # each tail shape meets at least two distributions
    m_values = {BASE_M, *(tails[(seed + index * dealt + i) % len(tails)] for i in range(dealt))}
    if index == 0:
        m_values |= {300, _third_tile(tail_unit)}
    return m_values


def _brief_m(seed: int, index: int, tail_unit: int) -> set[int]:
    """The M of distribution number `index` in a brief check: three of them, in turn, have a second one."""
    tails = _tails(tail_unit)
    extra = (1, tails[seed % len(tails)], _third_tile(tail_unit))
    turn = (index - seed) % len(DISTRIBUTIONS)
    return {BASE_M, *extra[turn : turn + 1]}


def _tails(tail_unit: int) -> list[int]:
    return sorted({*TAIL_M, tail_unit - 1, tail_unit, tail_unit + 1} - {0})


def _third_tile(tail_unit: int) -> int:
    """An M with a third row tile, where state left by the first two shows."""
    return 2 * tail_unit + 3


def as_nvfp4(operands: Operands) -> Operands:
    """`operands` quantized, with an alpha that brings their logits back.

    A block with a NaN or an infinity becomes NaN in the weight too: a kernel is to survive it. What is exact
    stays so: small integers whose largest magnitude is a power of two are multiples of 448 * 6 over it.
    """
    a, b = quantize_activation_nvfp4(operands.a), quantize_activation_nvfp4(operands.b)
    return replace(
        operands,
        a=dequantize_exact_bf16(a),
        b=dequantize_exact_bf16(b),
        alpha=(operands.alpha.double() * gemm_alpha(a, b).double()).float(),
        nvfp4=(a, b),
    )


def _quantized(draw: Draw, a: Tensor, b: Tensor, bias: Tensor) -> Operands:
    a, b = a.bfloat16(), b.bfloat16()
    a_q, b_q = quantize_activation_nvfp4(a), quantize_to_nvfp4(b)
    operands = draw.operands(dequantize_exact_bf16(a_q), dequantize_exact_bf16(b_q), bias)
    return replace(operands, alpha=gemm_alpha(a_q, b_q), nvfp4=(a_q, b_q), unquantized=(a, b))


def _shifted(draw: Draw, mean: float) -> tuple[Tensor, Tensor]:
    """Operands whose logits have this mean; the direction's square is K."""
    direction = draw.direction()
    return draw.activations() + direction, draw.weight() + (mean / draw.problem.hidden) * direction

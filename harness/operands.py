"""The inputs and outputs that timed launches run on, kept between trials of one problem."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch

from harness.timing import input_bytes
from kernels.family import OperandFormat
from kernels.linear import Nvfp4Linear
from kernels.nvfp4 import dequantize_exact_bf16, gemm_alpha, quantize_activation_nvfp4
from kernels.nvfp4_layout import BLOCK, swizzled_shape
from kernels.problem import RouterProblem
from kernels.router_operands import bf16_operands, nvfp4_operands

BIAS_SCALE = 0.1


@dataclass(frozen=True)
class Inputs:
    """One set: a launch's operands as `kernels.family` has them, bias [E] and alpha [1] fp32."""

    operands: tuple[torch.Tensor, ...]
    bias: torch.Tensor
    alpha: torch.Tensor


@dataclass(frozen=True)
class Outputs:
    """weights [M, k] fp32, ids [M, k] int32, and the workspace, fp32."""

    weights: torch.Tensor
    ids: torch.Tensor
    workspace: torch.Tensor

    @classmethod
    def poisoned(cls, problem: RouterProblem, m: int, workspace_elements: int, device: str) -> Outputs:
        """Outputs that no router can have written: NaN weights, ids of -1."""
        nan = float("nan")
        return cls(
            torch.full((m, problem.top_k), nan, device=device),
            torch.full((m, problem.top_k), -1, dtype=torch.int32, device=device),
            torch.zeros(workspace_elements, device=device),
        )

    def written(self) -> bool:
        """Whether every weight and id has been overwritten. Finite inputs give finite weights."""
        return bool((self.ids >= 0).all()) and not bool(self.weights.isnan().any())


def random_inputs(
    problem: RouterProblem,
    m: int,
    device: str,
    generator: torch.Generator,
    operand_format: OperandFormat = OperandFormat.BF16,
) -> Inputs:
    """Normal activations and weights, scaled so that logits have unit variance, as a trained router's do.

    Not zeros: power, and with it the clock, depends on how many bits toggle.
    """

    def normal(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype) * scale

    a = normal(m, problem.hidden, dtype=torch.bfloat16)
    b = normal(problem.experts, problem.hidden, scale=problem.hidden**-0.5, dtype=torch.bfloat16)
    return as_inputs(a, b, normal(problem.experts, scale=BIAS_SCALE if problem.bias else 0.0), operand_format)


def as_inputs(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor, operand_format: OperandFormat) -> Inputs:
    """The operands of bf16 a [M, K] and b [E, K] in a family's format."""
    if operand_format is OperandFormat.BF16:
        return Inputs((a, b), bias, torch.ones(1, device=a.device))
    quantized_a, quantized_b = quantize_activation_nvfp4(a), quantize_activation_nvfp4(b)
    operands = (*quantized_a.as_bytes(), *quantized_b.as_bytes())
    return Inputs(operands, bias, gemm_alpha(quantized_a, quantized_b))


def unread_inputs(problem: RouterProblem, m: int, operand_format: OperandFormat) -> Inputs:
    """Operands of the right shapes at addresses of their own, for whoever reads none of their elements."""
    bias, alpha = torch.zeros(problem.experts), torch.ones(1)
    rows = (m, problem.experts)
    if operand_format is OperandFormat.BF16:
        return Inputs(tuple(torch.empty(n, problem.hidden, dtype=torch.bfloat16) for n in rows), bias, alpha)
    operands: list[torch.Tensor] = []
    for n in rows:
        operands.append(torch.empty(n, problem.hidden // 2, dtype=torch.uint8))
        operands.append(torch.empty(swizzled_shape(n, problem.hidden // BLOCK), dtype=torch.uint8))
    return Inputs(tuple(operands), bias, alpha)


@dataclass(frozen=True)
class RawInputs:
    """What a caller of the public wrapper has: activations bf16 [M, K], the layer, and the bias [E] fp32."""

    activations: torch.Tensor
    layer: Nvfp4Linear
    bias: torch.Tensor

    def quantized(self, problem: RouterProblem, operand_format: OperandFormat) -> Inputs:
        """The activations quantized, by the wrapper's own code: what precedes a launch in every call."""
        take = nvfp4_operands if operand_format is OperandFormat.NVFP4 else bf16_operands
        operands, alpha = take(self.activations, self.layer, problem, True)
        return Inputs(operands, self.bias, alpha)

    def quantized_rightly(self, problem: RouterProblem, operand_format: OperandFormat) -> bool:
        """Whether `quantized` gives torch's bits, of the activations' operand and of alpha."""
        made = self.quantized(problem, operand_format)
        by_torch = quantize_activation_nvfp4(self.activations)
        exact = operand_format is OperandFormat.BF16
        operand = (dequantize_exact_bf16(by_torch),) if exact else by_torch.as_bytes()
        expected = *operand, gemm_alpha(by_torch, self.layer.quantized())
        pairs = zip((*made.operands[: len(operand)], made.alpha), expected, strict=True)
        return all(torch.equal(one.view(torch.uint8), other.view(torch.uint8)) for one, other in pairs)


def raw_inputs(problem: RouterProblem, m: int, device: str, generator: torch.Generator) -> RawInputs:
    """As `random_inputs`, before anything is quantized but the layer's weight.

    The layer is as a first call leaves it, its weight dequantized: a capture keeps nothing that it makes, and
    each would dequantize it again, which took 50 us of an H200 in every launch that was timed.
    """
    drawn = random_inputs(problem, m, device, generator)
    a, b = drawn.operands
    layer = Nvfp4Linear(problem.hidden, problem.experts, device=device)
    with torch.no_grad():
        layer.weight.copy_(b)
    layer.finalize_weights().dequantized_bf16()
    return RawInputs(a, layer, drawn.bias)


class InputCache:
    """Sets of inputs by problem, M and format, drawn once for all trials; least recent first out."""

    def __init__(self, device: str, max_bytes: int) -> None:
        self._device = device
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[RouterProblem, int, OperandFormat], list[Inputs]] = OrderedDict()
        self._raw: tuple[tuple[RouterProblem, int], list[RawInputs]] | None = None

    def sets(
        self,
        problem: RouterProblem,
        m: int,
        count: int,
        operand_format: OperandFormat = OperandFormat.BF16,
    ) -> list[Inputs]:
        """`count` different sets, the same at every call: a trial must not be luckier than another."""
        key = (problem, m, operand_format)
        if len(self._kept.get(key, ())) < count:
            generator = torch.Generator(self._device).manual_seed(m)
            self._kept[key] = [
                random_inputs(problem, m, self._device, generator, operand_format) for _ in range(count)
            ]
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and self._bytes() > self._max_bytes:
            self._kept.popitem(last=False)
        return self._kept[key][:count]

    def raw_sets(self, problem: RouterProblem, m: int, count: int) -> list[RawInputs]:
        """As `sets`, not quantized. Only the last are kept: each has a layer of its own."""
        key = (problem, m)
        if self._raw is None or self._raw[0] != key or len(self._raw[1]) < count:
            generator = torch.Generator(self._device).manual_seed(m)
            self._raw = None  # both would not fit
            self._raw = key, [raw_inputs(problem, m, self._device, generator) for _ in range(count)]
        return self._raw[1][:count]

    def _bytes(self) -> int:
        return sum(len(sets) * input_bytes(*key) for key, sets in self._kept.items())

"""The references of a layer trace: one decoder layer, step by step in float64.

Each step takes the preceding ones as the layer stores them (rounded to bf16 or fp32), so that an
implementation which is given the same inputs quantizes the very same numbers and may differ only by the
accumulation's error and the rounding of its own result. There are two references:

- **exact NVFP4**: weights and activations quantized, the products of what the codes represent;
- **unquantized**: the bf16 weights and activations as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness import trace_math
from harness.check_bounds import LOGIT_UNIT, Expected, accumulate, expect, weight_errors
from harness.check_cases import Operands
from harness.trace_math import BF16_UNIT, Computed, Signal, U
from harness.trace_noise import add_product_noise, quantization_variance
from kernels.moe_shape import LayerShape
from kernels.nvfp4 import (
    Nvfp4Tensor,
    dequantize_exact_bf16,
    dequantize_nvfp4,
    gemm_alpha,
    quantize_activation_nvfp4,
    quantize_to_nvfp4,
)
from kernels.reference import routing_weights


@dataclass(frozen=True, eq=False)
class Step:
    """One intermediate of a reference.

    Attributes:
        value: float64 [R, N], before the rounding of its storage.
        stored: the same as the layer keeps it, bf16 or fp32.
        allowed: float64 [R], the largest Euclidean error of each row of a right implementation that has this
            step's inputs: the norm of the step's own error bound plus the unit roundoff times the row's norm.
        variance: float64 [R, N], see `harness.trace_math`; the rounding of this step's storage is in it.
    """

    value: Tensor
    stored: Tensor
    allowed: Tensor
    variance: Tensor

    @property
    def signal(self) -> Signal:
        return Signal(self.stored.double(), self.variance)


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference's steps by name, in order; its routing with bounds; and the ids [M, k] it went on with."""

    steps: dict[str, Step]
    routing: Expected
    ids: Tensor


@dataclass(eq=False)
class ReferenceWeights:
    """One layer's unquantized weights by name, with what is derived from each kept after its first use."""

    plain: Mapping[str, Tensor]
    _quantized: dict[str, Nvfp4Tensor] = field(default_factory=dict)
    _exact: dict[str, Tensor] = field(default_factory=dict)
    _variances: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.plain[name]

    def quantized(self, name: str) -> Nvfp4Tensor:
        if name not in self._quantized:
            self._quantized[name] = quantize_to_nvfp4(self.plain[name])
        return self._quantized[name]

    def exact_bf16(self, name: str) -> Tensor:
        """`q * scale`, bf16, without the global scale."""
        if name not in self._exact:
            self._exact[name] = dequantize_exact_bf16(self.quantized(name))
        return self._exact[name]

    def variance(self, name: str) -> Tensor:
        if name not in self._variances:
            self._variances[name] = quantization_variance(self.plain[name])
        return self._variances[name]

    def step(self, name: str) -> Step:
        """The quantized weight itself as a step: what its codes represent, exact but for the global scale."""
        value = dequantize_nvfp4(self.quantized(name), torch.float64)
        return Step(value, value, 2 * U * value.norm(dim=1), self.variance(name))


def run_reference(
    x: Signal, weights: ReferenceWeights, shape: LayerShape, *, quantized: bool, ids: Tensor | None = None
) -> Reference:
    """The layer's steps for x [M, H]. Given `ids` [M, k], the experts are those, not the reference's own."""
    return _Run(weights, shape, quantized).layer(x, ids)


class _Run:
    def __init__(self, weights: ReferenceWeights, shape: LayerShape, quantized: bool) -> None:
        self.weights = weights
        self.shape = shape
        self.quantized = quantized
        self.steps: dict[str, Step] = {}

    def layer(self, x: Signal, ids: Tensor | None) -> Reference:
        w, shape = self.weights, self.shape
        n = self.keep("attention.norm", trace_math.norm(x, w["attention_norm"], shape.eps))
        q, k, v = (
            self.keep(f"attention.{name}", trace_math.dense(n, w[f"attention.{name}.weight"]))
            for name in "qkv"
        )
        q = self.keep("attention.q_rope", trace_math.rotate(q, shape))
        k = self.keep("attention.k_rope", trace_math.rotate(k, shape))
        core = self.keep("attention.core", trace_math.attend(q, k, v, shape))
        out = self.keep("attention.out", trace_math.dense(core, w["attention.o.weight"]))
        residual = self.keep("attention.residual", trace_math.add(x, out))
        m = self.keep("ffn.norm", trace_math.norm(residual, w["ffn_norm"], shape.eps))
        logits = self.keep("router.logits", self.product("router", m), torch.float32)
        routing = expect_routing(m.value, w, shape, quantized=self.quantized)
        ids = routing.ids if ids is None else ids.long()
        routed = self.keep("router.weights", self.route(routing, logits, ids), torch.float32)
        down = self.routed_experts(m, ids)
        shared = self.shared_expert(m)
        combined = self.keep("ffn.combined", trace_math.combine(routed, down, shared))
        self.keep("ffn.residual", trace_math.add(residual, combined))
        return Reference(self.steps, routing, ids)

    def keep(self, name: str, computed: Computed, dtype: torch.dtype = torch.bfloat16) -> Signal:
        """Store a step's result."""
        unit = BF16_UNIT if dtype is torch.bfloat16 else U
        allowed = computed.error.norm(dim=1) + unit * computed.value.norm(dim=1)
        # Both the layer's and the reference's result are rounded, uniformly by up to the unit roundoff.
        variance = computed.variance + 2 * (unit * computed.value).square() / 3
        step = Step(computed.value, computed.value.to(dtype), allowed, variance)
        self.steps[name] = step
        return step.signal

    def product(self, name: str, x: Signal) -> Computed:
        """x times the weight called `name`, both quantized unless this is the unquantized reference."""
        weight = self.weights[f"{name}.weight"]
        if self.quantized:
            b = self.weights.quantized(f"{name}.weight")
            a = quantize_activation_nvfp4(x.value.float())
            value, error = accumulate(dequantize_exact_bf16(a), self.weights.exact_bf16(f"{name}.weight"))
            alpha = gemm_alpha(a, b).double()
            value = value * alpha
            computed = Computed(value, error * alpha + LOGIT_UNIT * value.abs(), torch.zeros_like(value))
        else:
            value = x.value @ weight.double().T
            computed = Computed(value, torch.zeros_like(value), x.variance @ weight.double().square().T)
        return add_product_noise(computed, x, weight, self.weights.variance(f"{name}.weight"))

    def route(self, routing: Expected, logits: Signal, ids: Tensor) -> Computed:
        value = routing_weights(routing.scores, ids, self.shape.problem)
        variance = trace_math.routing_variance(logits, ids, value, self.shape.problem)
        return Computed(value, weight_errors(routing, ids, value, self.shape.problem), variance)

    def routed_experts(self, m: Signal, ids: Tensor) -> Signal:
        top_k = self.shape.problem.top_k
        rows = Signal(*(each.repeat_interleave(top_k, dim=0) for each in (m.value, m.variance)))
        chosen = ids.flatten()

        def stage(name: str, x: Signal) -> Signal:
            def product(expert: int, own: Signal) -> Computed:
                return self.product(f"experts.{expert}.{name}", own)

            return self.keep(f"experts.{name}", trace_math.grouped(x, chosen, product))

        gate, up = stage("gate", rows), stage("up", rows)
        return stage("down", self.keep("experts.act", trace_math.swiglu(gate, up)))

    def shared_expert(self, m: Signal) -> Signal:
        gate, up = (self.keep(f"shared.{name}", self.product(f"shared.{name}", m)) for name in ("gate", "up"))
        act = self.keep("shared.act", trace_math.swiglu(gate, up))
        return self.keep("shared.down", self.product("shared.down", act))


def expect_routing(
    m: Tensor, weights: ReferenceWeights, shape: LayerShape, *, quantized: bool = True
) -> Expected:
    """What the router must do with m [M, H], values of bf16: scores, keys, and their bounds."""
    a, b, alpha = m.bfloat16(), weights["router.weight"].bfloat16(), torch.ones(1, device=m.device)
    if quantized:
        activation = quantize_activation_nvfp4(a)
        a, b = dequantize_exact_bf16(activation), weights.exact_bf16("router.weight")
        alpha = gemm_alpha(activation, weights.quantized("router.weight"))
    bias = weights["selection_bias"] if shape.problem.bias else torch.zeros(len(b), device=m.device)
    return expect(Operands("router", a, b, bias, alpha), shape.problem)

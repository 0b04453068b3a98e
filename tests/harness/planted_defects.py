"""Defects that people plant in a layer by accident, to show that a trace names the step.

Each takes a clean layer and a monkeypatch, plants itself, and is listed with the step that must be named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import kernels.linear
from kernels import moe_layer
from kernels.linear import Nvfp4Linear
from kernels.moe_layer import MoeLayer, Tap
from kernels.nvfp4 import swizzled_shape
from kernels.problem import RouterProblem
from kernels.reference import score

Plant = Callable[[MoeLayer, pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Defect:
    """A defect, the step that it shows in first, and what is said of the place there.

    `updates`: it updates the layer's weights, so that these are what the layer is meant to compute with.
    """

    plant: Plant
    step: str
    detail: str = ""
    updates: bool = False

    @property
    def name(self) -> str:
        return self.plant.__name__


def global_scale_inverted(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    """A checkpoint that stores 1 / global_scale, read as global_scale."""
    assert layer.router._global_scale_b is not None
    layer.router._global_scale_b = 1.0 / layer.router._global_scale_b


def scales_not_swizzled(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    module = layer.projections("gate")[1]
    scales = module.quantized().block_scales()
    padded = torch.zeros(swizzled_shape(*scales.shape), dtype=torch.uint8)
    padded[: scales.shape[0], : scales.shape[1]] = scales.view(torch.uint8)
    module._scale_b = padded.view(scales.dtype)


def nibbles_swapped(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    packed = layer.shared.down._mat_b
    assert packed is not None
    layer.shared.down._mat_b = (packed >> 4) | (packed << 4)


def alpha_forgotten(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernels.linear, "gemm_alpha", lambda a, b: torch.ones(1))


def routed_scale_applied_twice(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    route = moe_layer.route

    def twice(logits: Tensor, problem: RouterProblem, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        weights, ids = route(logits, problem, bias)
        return weights * problem.routed_scale, ids

    patch.setattr(moe_layer, "route", twice)


def routed_scale_forgotten_in_combination(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    combine = moe_layer.combine
    scale = layer.shape.problem.routed_scale + 0.5
    patch.setattr(moe_layer, "combine", lambda weights, down, shared: combine(weights / scale, down, shared))


def residual_added_before_the_norm(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    """The residual stream is added to what the norm returns, instead of past it."""
    rms_norm = moe_layer.rms_norm
    patch.setattr(moe_layer, "rms_norm", lambda x, weight, eps: rms_norm(x, weight, eps) + x)


def residual_taken_after_the_norm(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    """A post-norm block: the second residual addition starts from the normed stream."""
    forward_ffn = moe_layer.forward_ffn

    def post_norm(residual: Tensor, layer: MoeLayer, tap: Tap) -> Tensor:
        combined = {}

        def keep(name: str, value: Tensor) -> Tensor:
            combined[name] = tap(name, value) if name != "ffn.residual" else value
            return combined[name]

        forward_ffn(residual, layer, keep)
        return tap("ffn.residual", combined["ffn.norm"] + combined["ffn.combined"])

    patch.setattr(moe_layer, "forward_ffn", post_norm)


def stale_quantized_weight(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    """An update through `.data`, which the layer's own guard cannot see."""
    weight = layer.projections("up")[0].weight
    weight.data.mul_(1.0 + 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))


def stale_dequantized_cache(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    """The operands are fresh; what the product multiplies is not."""
    stale = layer.router.dequantized_bf16().roll(1, dims=0)
    layer.router._dequantized = stale


def wrong_experts_weight(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    """The dispatch is off by one expert."""
    grouped_product = moe_layer.grouped_product

    def shifted(projections: Sequence[Nvfp4Linear], rows: Tensor, chosen: Tensor) -> Tensor:
        return grouped_product(projections, rows, (chosen + 1) % len(projections))

    patch.setattr(moe_layer, "grouped_product", shifted)


def two_experts_loaded_in_each_others_place(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    first, second = layer.projections("down")[:2]
    layer.get_submodule("experts.0").down = second
    layer.get_submodule("experts.1").down = first


def gate_and_up_exchanged(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    swiglu = moe_layer.swiglu
    patch.setattr(moe_layer, "swiglu", lambda gate, up: swiglu(up, gate))


def shared_expert_forgotten(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    combine = moe_layer.combine
    patch.setattr(moe_layer, "combine", lambda w, down, shared: combine(w, down, torch.zeros_like(shared)))


def attention_not_causal(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    attention = F.scaled_dot_product_attention

    def everywhere(q: Tensor, k: Tensor, v: Tensor, **options: bool) -> Tensor:
        return attention(q, k, v, **(options | {"is_causal": False}))

    patch.setattr(moe_layer.F, "scaled_dot_product_attention", everywhere)


def positions_off_by_one(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    rotate = moe_layer.rotate

    def later(x: Tensor, head_dim: int, theta: float) -> Tensor:
        return rotate(torch.cat((x[:1], x)), head_dim, theta)[1:]

    patch.setattr(moe_layer, "rotate", later)


def next_best_expert(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    """The last slot holds the expert of rank k + 1, with its right weight."""
    route = moe_layer.route

    def skipping(logits: Tensor, problem: RouterProblem, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        weights, ids = route(logits, problem, bias)
        keys = logits if bias is None else score(logits, problem.score) + bias
        ids[:, -1] = keys.sort(dim=1, descending=True).indices[:, problem.top_k].int()
        return weights, ids

    patch.setattr(moe_layer, "route", skipping)


def one_scale_an_ulp_off(layer: MoeLayer, patch: pytest.MonkeyPatch) -> None:
    """The smallest defect of an operand: one block of one row of one expert."""
    scales = layer.projections("down")[2]._scale_b
    assert scales is not None
    scales.view(torch.uint8)[0, 0] += 1


DEFECTS = (
    Defect(global_scale_inverted, "router.operand"),
    Defect(scales_not_swizzled, "experts.gate.operand", "expert 1, "),
    Defect(nibbles_swapped, "shared.down.operand"),
    Defect(alpha_forgotten, "router.logits"),
    Defect(routed_scale_applied_twice, "router.weights"),
    Defect(routed_scale_forgotten_in_combination, "ffn.combined"),
    Defect(residual_added_before_the_norm, "attention.norm"),
    Defect(residual_taken_after_the_norm, "ffn.residual"),
    Defect(stale_quantized_weight, "experts.up.operand", "expert 0, ", updates=True),
    Defect(stale_dequantized_cache, "router.logits"),
    Defect(wrong_experts_weight, "experts.gate"),
    Defect(two_experts_loaded_in_each_others_place, "experts.down.operand"),
    Defect(gate_and_up_exchanged, "experts.act"),
    Defect(shared_expert_forgotten, "ffn.combined"),
    Defect(attention_not_causal, "attention.core"),
    Defect(positions_off_by_one, "attention.q_rope"),
    Defect(next_best_expert, "router.ids"),
    Defect(one_scale_an_ulp_off, "experts.down.operand", "expert 2, row 0"),
)

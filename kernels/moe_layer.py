"""One decoder layer of a mixture-of-experts model on the project's own parts.

    a   = x + o(attention(rope(q(n)), rope(k(n)), v(n)))       n = rms_norm(x)
    out = a + sum_j w_j expert_j(m) + shared(m)                m = rms_norm(a), (w, ids) = router(m)
    expert(m) = down(silu(gate(m)) * up(m))

The attention is bf16. The router and the experts are NVFP4: `Nvfp4Linear` quantizes their weights once and
the activations at each product. Intermediates are stored in bf16 (the router's logits and weights in fp32),
sums are fp32.

`forward_layer` hands every intermediate to a **tap** under its name, and goes on with what the tap returns.
So a tap can record a run, or put a reference's value in the place of each intermediate, after which each step
has the reference's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.linear import Nvfp4Linear
from kernels.moe_shape import LayerShape
from kernels.reference import route
from kernels.router import TARGETS, run_nvfp4_fused_router

# tap(name, value [rows, columns]) -> the value to go on with
Tap = Callable[[str, Tensor], Tensor]


def untouched(name: str, value: Tensor) -> Tensor:
    """The tap that does nothing."""
    return value


class Attention(nn.Module):
    """The projections of grouped-query attention, bf16."""

    def __init__(self, shape: LayerShape, device: torch.device | str | None = None) -> None:
        super().__init__()
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias=False, dtype=torch.bfloat16, device=device)

        self.q = linear(shape.hidden, queries)
        self.k = linear(shape.hidden, keys)
        self.v = linear(shape.hidden, keys)
        self.o = linear(queries, shape.hidden)


class SwiGlu(nn.Module):
    """The NVFP4 projections of one expert: down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: LayerShape, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.gate = Nvfp4Linear(shape.hidden, shape.expert_hidden, device=device)
        self.up = Nvfp4Linear(shape.hidden, shape.expert_hidden, device=device)
        self.down = Nvfp4Linear(shape.expert_hidden, shape.hidden, device=device)


class MoeLayer(nn.Module):
    """The weights of one layer. The names in its state dict are those of a weights file.

        attention_norm, ffn_norm               bf16 [H]
        attention.{q,k,v,o}.weight             bf16 [outputs, inputs]
        router.weight                          bf16 [E, H]
        selection_bias                         fp32 [E], where the router has one
        experts.<e>.{gate,up,down}.weight      bf16 [outputs, inputs]
        shared.{gate,up,down}.weight           bf16 [outputs, inputs]

    Load a state dict, then `finalize_weights()`.
    """

    selection_bias: Tensor | None

    def __init__(self, shape: LayerShape, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.attention_norm = nn.Parameter(torch.ones(shape.hidden, dtype=torch.bfloat16, device=device))
        self.attention = Attention(shape, device)
        self.ffn_norm = nn.Parameter(torch.ones(shape.hidden, dtype=torch.bfloat16, device=device))
        self.router = Nvfp4Linear(shape.hidden, shape.problem.experts, device=device)
        bias = torch.zeros(shape.problem.experts, device=device) if shape.problem.bias else None
        self.register_buffer("selection_bias", bias)
        self.experts = nn.ModuleList(SwiGlu(shape, device) for _ in range(shape.problem.experts))
        self.shared = SwiGlu(shape, device)

    def projections(self, name: str) -> list[Nvfp4Linear]:
        """The routed experts' `name`: gate, up or down."""
        return [getattr(expert, name) for expert in self.experts]

    def finalize_weights(self) -> MoeLayer:
        """Quantize every NVFP4 weight; returns the layer."""
        for module in self.modules():
            if isinstance(module, Nvfp4Linear):
                module.finalize_weights()
        return self


@torch.no_grad()
def forward_layer(x: Tensor, layer: MoeLayer, tap: Tap = untouched) -> Tensor:
    """The layer's output [M, H] bf16 for one sequence of M tokens, x [M, H] bf16.

    The router runs as the fused kernel on a device that has one, and as its float64 reference elsewhere; only
    there are its logits an intermediate.
    """
    return forward_ffn(forward_attention(x, layer, tap), layer, tap)


def forward_attention(x: Tensor, layer: MoeLayer, tap: Tap) -> Tensor:
    """x plus its attention, [M, H] bf16."""
    shape = layer.shape
    n = tap("attention.norm", rms_norm(x, layer.attention_norm, shape.eps))
    q = tap("attention.q", layer.attention.q(n))
    k = tap("attention.k", layer.attention.k(n))
    v = tap("attention.v", layer.attention.v(n))
    q = tap("attention.q_rope", rotate(q, shape.head_dim, shape.rope_theta))
    k = tap("attention.k_rope", rotate(k, shape.head_dim, shape.rope_theta))
    core = tap("attention.core", attend(q, k, v, shape))
    attended = tap("attention.out", layer.attention.o(core))
    return tap("attention.residual", x + attended)


def forward_ffn(residual: Tensor, layer: MoeLayer, tap: Tap) -> Tensor:
    """The residual stream plus its routed and shared experts, [M, H] bf16.

    Routed experts' intermediates have a row for each token and slot: row t k + j is token t at its expert of
    rank j.
    """
    shape = layer.shape
    m = tap("ffn.norm", rms_norm(residual, layer.ffn_norm, shape.eps))
    weights, ids = route_tokens(m, layer, tap)
    ids = tap("router.ids", ids)
    weights = tap("router.weights", weights)

    rows, chosen = m.repeat_interleave(shape.problem.top_k, dim=0), ids.flatten()
    gate = tap("experts.gate", grouped_product(layer.projections("gate"), rows, chosen))
    up = tap("experts.up", grouped_product(layer.projections("up"), rows, chosen))
    act = tap("experts.act", swiglu(gate, up))
    down = tap("experts.down", grouped_product(layer.projections("down"), act, chosen))

    gate = tap("shared.gate", layer.shared.gate(m).bfloat16())
    up = tap("shared.up", layer.shared.up(m).bfloat16())
    act = tap("shared.act", swiglu(gate, up))
    shared = tap("shared.down", layer.shared.down(act).bfloat16())

    combined = tap("ffn.combined", combine(weights, down, shared))
    return tap("ffn.residual", residual + combined)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in fp32, as bf16."""
    x = x.float()
    return (x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight.float()).bfloat16()


def rotate(x: Tensor, head_dim: int, theta: float) -> Tensor:
    """Rotary positions for x [M, heads * head_dim]: element i of a head turns with element i + head_dim/2.

    Token t turns pair i by t theta^(-2 i / head_dim) (arXiv 2104.09864, section 3.2.2).
    """
    half = head_dim // 2
    pairs = torch.arange(half, dtype=torch.float32, device=x.device)
    tokens = torch.arange(len(x), dtype=torch.float32, device=x.device)
    angles = tokens[:, None, None] * theta ** (-pairs / half)
    first, second = x.float().view(len(x), -1, 2, half).unbind(2)
    turned = (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin())
    return torch.stack(turned, dim=2).flatten(1).bfloat16()


def attend(q: Tensor, k: Tensor, v: Tensor, shape: LayerShape) -> Tensor:
    """Causal grouped-query attention of q [M, heads * D] over k and v [M, kv_heads * D]: bf16 as q."""

    def by_head(x: Tensor) -> Tensor:
        return x.view(len(x), -1, shape.head_dim).transpose(0, 1)[None]

    core: Tensor = F.scaled_dot_product_attention(
        by_head(q), by_head(k), by_head(v), is_causal=True, enable_gqa=shape.heads != shape.kv_heads
    )
    return core[0].transpose(0, 1).flatten(1)


def route_tokens(m: Tensor, layer: MoeLayer, tap: Tap) -> tuple[Tensor, Tensor]:
    """Route m [M, H]: weights fp32 and ids int32 [M, k], by the fused kernel where the device has one."""
    problem = layer.shape.problem
    if m.is_cuda and torch.cuda.get_device_capability(m.device) in TARGETS:
        return run_nvfp4_fused_router(m, layer.router, problem, bias=layer.selection_bias)
    return route(tap("router.logits", layer.router(m)), problem, layer.selection_bias)


def grouped_product(projections: Sequence[Nvfp4Linear], rows: Tensor, chosen: Tensor) -> Tensor:
    """The product of each of `rows` [R, K] with the weight [N, K] of its chosen expert: bf16 [R, N].

    The rows of one expert are quantized together, so they share a global scale.
    """
    product = rows.new_empty(len(rows), projections[0].out_features)
    for expert, projection in enumerate(projections):
        own = (chosen == expert).nonzero().flatten()
        if len(own):
            product[own] = projection(rows[own]).bfloat16()
    return product


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, computed in fp32, as bf16."""
    return (F.silu(gate.float()) * up.float()).bfloat16()


def combine(weights: Tensor, down: Tensor, shared: Tensor) -> Tensor:
    """The sum of `down` [M k, H], each row times its weight [M, k], and of `shared` [M, H]: bf16 [M, H]."""
    routed: Tensor = (weights.unsqueeze(2) * down.float().view(*weights.shape, -1)).sum(dim=1)
    return (routed + shared.float()).bfloat16()

"""The decoder layer: its sizes, its taps, and its output against the same layer written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.linear import Nvfp4Linear
from kernels.moe_layer import MoeLayer, forward_layer
from kernels.moe_shape import LayerShape, layer_shape
from kernels.nvfp4 import dequantize_nvfp4, quantize_activation_nvfp4
from kernels.problem import PRESETS
from kernels.reference import routing_weights, score, select

STEPS = (
    *(f"attention.{name}" for name in ("norm", "q", "k", "v", "q_rope", "k_rope", "core", "out", "residual")),
    "ffn.norm",
    *(f"router.{name}" for name in ("logits", "ids", "weights")),
    *(f"experts.{name}" for name in ("gate", "up", "act", "down")),
    *(f"shared.{name}" for name in ("gate", "up", "act", "down")),
    "ffn.combined",
    "ffn.residual",
)


def make(shape: LayerShape, seed: int = 0) -> MoeLayer:
    torch.manual_seed(seed)
    layer = MoeLayer(shape)
    if layer.selection_bias is not None:
        layer.selection_bias.normal_(std=0.2)
    with torch.no_grad():
        layer.attention_norm.normal_(mean=1.0, std=0.1)
        layer.ffn_norm.normal_(mean=1.0, std=0.1)
    return layer.finalize_weights()


def tokens(shape: LayerShape, m: int) -> Tensor:
    return torch.randn(m, shape.hidden, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.mark.parametrize("scale_down", [1, 3, 16, 32])
@pytest.mark.parametrize("name", PRESETS)
def test_sizes_follow_the_preset(name: str, scale_down: int) -> None:
    problem = PRESETS[name]
    shape = layer_shape(problem, scale_down)
    assert shape.heads * shape.head_dim == shape.hidden
    assert shape.heads % shape.kv_heads == 0
    assert shape.kv_heads < shape.heads
    assert shape.expert_hidden % 16 == 0
    assert shape.problem.experts == max(problem.experts // scale_down, 2 * problem.top_k)
    assert (shape.problem.top_k, shape.problem.score) == (problem.top_k, problem.score)
    assert 0 <= problem.hidden / scale_down - shape.hidden < 64
    if scale_down == 1:
        assert shape.problem == problem
        assert shape.head_dim == 128


def test_too_small_a_layer_is_refused_with_the_largest_scale() -> None:
    with pytest.raises(
        ValueError, match=r"scale_down = 100 leaves too little of qwen3-moe's .* must be at most 64"
    ):
        layer_shape(PRESETS["qwen3-moe"], 100)
    assert layer_shape(PRESETS["qwen3-moe"], 64).hidden == 64
    with pytest.raises(ValueError, match="scale_down = 0: must be at least 1"):
        layer_shape(PRESETS["qwen3-moe"], 0)


@torch.no_grad()
def written_out(x: Tensor, layer: MoeLayer) -> Tensor:
    """The layer token by token and head by head in float64, nothing rounded but NVFP4 operands' codes."""
    shape, problem = layer.shape, layer.shape.problem
    d, half = shape.head_dim, shape.head_dim // 2
    x = x.double()

    def dense(name: str, y: Tensor) -> Tensor:
        return y @ layer.get_parameter(f"attention.{name}.weight").double().T

    def nvfp4(module: Nvfp4Linear, y: Tensor) -> Tensor:
        weight = dequantize_nvfp4(module.quantized(), torch.float64)
        return dequantize_nvfp4(quantize_activation_nvfp4(y.float()), torch.float64) @ weight.T

    def turned(y: Tensor) -> Tensor:
        angles = torch.arange(len(x))[:, None] * shape.rope_theta ** (-torch.arange(half).double() / half)
        turn = torch.polar(torch.ones_like(angles), angles)[:, None]
        heads = y.view(len(x), -1, 2, half)
        product = torch.complex(heads[:, :, 0], heads[:, :, 1]) * turn
        return torch.cat((product.real, product.imag), dim=2)

    n = F.rms_norm(x, (shape.hidden,), layer.attention_norm.double(), shape.eps)
    q, k, v = turned(dense("q", n)), turned(dense("k", n)), dense("v", n).view(len(x), -1, d)
    core = torch.empty_like(q)
    for head in range(shape.heads):
        shared = head * shape.kv_heads // shape.heads
        for t in range(len(x)):
            p = (k[: t + 1, shared] @ q[t, head] / math.sqrt(d)).softmax(0)
            core[t, head] = p @ v[: t + 1, shared]
    residual = x + dense("o", core.flatten(1))

    m = F.rms_norm(residual, (shape.hidden,), layer.ffn_norm.double(), shape.eps)
    logits = nvfp4(layer.router, m)
    scores = score(logits, problem.score)
    bias = 0.0 if layer.selection_bias is None else layer.selection_bias.double()
    ids = select(scores + bias, problem.top_k)
    weights = routing_weights(scores, ids, problem)
    out = nvfp4(layer.shared.down, F.silu(nvfp4(layer.shared.gate, m)) * nvfp4(layer.shared.up, m))
    for expert in range(problem.experts):
        own, slot = (ids == expert).nonzero(as_tuple=True)
        if len(own):
            gate, up, down = (layer.projections(name)[expert] for name in ("gate", "up", "down"))
            y = nvfp4(down, F.silu(nvfp4(gate, m[own])) * nvfp4(up, m[own]))
            out[own] += weights[own, slot, None] * y
    return residual + out


@pytest.mark.parametrize("m", [1, 9])
@pytest.mark.parametrize("name", PRESETS)
def test_the_output_is_that_of_the_layer_written_out(name: str, m: int) -> None:
    """Up to what bf16 intermediates cost: activations on the other side of an e2m1 step, rounded afresh.

    Fresh roundings of two activations differ by sqrt(2) 0.095 of plain data; a token whose experts they flip
    differs by more, most do not. (`tests/harness/test_trace.py` compares the steps one by one, and tightly.)
    """
    shape = layer_shape(PRESETS[name], 32)
    layer, x = make(shape), tokens(shape, m)
    want = written_out(x, layer)
    error = (forward_layer(x, layer).double() - want).norm(dim=1) / want.norm(dim=1)
    assert float(error.median()) < 0.134
    unquantized_size = float((want - x.double()).norm() / want.norm())
    assert unquantized_size > 0.3, "the layer does nothing that could be wrong"


def test_every_intermediate_is_tapped_in_order_and_may_be_replaced() -> None:
    shape = layer_shape(PRESETS["deepseek-v4-pro"], 32)
    layer, x = make(shape), tokens(shape, 5)
    seen: dict[str, Tensor] = {}

    def record(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return value

    out = forward_layer(x, layer, record)
    assert tuple(seen) == STEPS
    assert torch.equal(out, seen["ffn.residual"])
    assert torch.equal(out, forward_layer(x, layer))
    fp32 = {"router.logits", "router.weights"}
    assert all(value.dtype == torch.float32 for name, value in seen.items() if name in fp32)
    assert all(
        value.dtype == torch.bfloat16 for name, value in seen.items() if name not in {*fp32, "router.ids"}
    )
    assert {len(seen[f"experts.{name}"]) for name in ("gate", "up", "act", "down")} == {5 * 6}

    without = forward_layer(x, layer, lambda name, value: value * 0 if name == "ffn.combined" else value)
    assert torch.equal(without, seen["attention.residual"])


def test_attention_looks_back_only() -> None:
    shape = layer_shape(PRESETS["kimi-k2"], 32)
    layer, x = make(shape), tokens(shape, 8)
    seen: list[Tensor] = []

    def record(name: str, value: Tensor) -> Tensor:
        if name == "attention.residual":
            seen.append(value)
        return value

    changed = x.clone()
    changed[5:] = -changed[5:]
    forward_layer(x, layer, record)
    forward_layer(changed, layer, record)
    assert torch.equal(seen[0][:5], seen[1][:5])
    assert not torch.equal(seen[0][5:], seen[1][5:])


def test_a_state_dict_holds_the_documented_names() -> None:
    shape = layer_shape(PRESETS["qwen3-moe"], 64)
    names = set(make(shape).state_dict())
    assert {"attention_norm", "attention.q.weight", "router.weight", "shared.down.weight"} <= names
    assert f"experts.{shape.problem.experts - 1}.gate.weight" in names
    assert "selection_bias" not in names
    assert "selection_bias" in make(layer_shape(PRESETS["kimi-k2"], 64)).state_dict()

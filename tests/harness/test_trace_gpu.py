"""A trace on the GPU, where the fused kernel routes: clean layers, and a defect of the router's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.trace import Traced, trace_layers
from harness.trace_record import Finding
from harness.trace_weights import build_layer, generate_input, generate_weights
from kernels import moe_layer
from kernels.moe_shape import layer_shape
from kernels.problem import PRESETS

pytestmark = [pytest.mark.gpu, pytest.mark.compiles]


def trace(name: str, scale_down: int, tokens: int, layers: int = 1) -> Traced:
    shape = layer_shape(PRESETS[name], scale_down)
    weights = [
        {key: tensor.cuda() for key, tensor in generate_weights(shape, 0, index).items()}
        for index in range(layers)
    ]
    built = [build_layer(shape, each, "cuda") for each in weights]
    return trace_layers(generate_input(shape, 0, tokens).cuda(), built, weights)


@pytest.mark.parametrize("tokens", [1, 100])
@pytest.mark.parametrize("name", PRESETS)
def test_clean_layers_stay_in_band(name: str, tokens: int) -> None:
    traced = trace(name, 8, tokens, layers=2)
    assert traced.verdict.finding is Finding.IN_BAND, traced.verdict
    names = [step.name for step in traced.steps if step.layer == 0]
    assert "router.logits" not in names, "the fused kernel has no logits to look at"
    assert names.index("router.operand") + 1 == names.index("router.ids")


def test_a_defect_of_the_fused_router_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = moe_layer.run_nvfp4_fused_router

    def doubled(*operands: object, **options: object) -> tuple[Tensor, Tensor]:
        weights, ids = fused(*operands, **options)  # type: ignore[arg-type]
        return weights * 2, ids

    monkeypatch.setattr(moe_layer, "run_nvfp4_fused_router", doubled)
    found = trace("deepseek-v4-pro", 8, 100).verdict
    assert (found.finding, found.step) == (Finding.DEFECT, "router.weights")
    torch.cuda.synchronize()

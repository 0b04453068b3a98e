"""A trace stays silent on clean layers and names the step that a planted defect shows in."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import kernels.nvfp4
from harness.trace import Traced, trace_layers
from harness.trace_record import Finding, StepTrace
from harness.trace_weights import TraceError, build_layer, generate_input, generate_weights
from kernels import moe_layer
from kernels.moe_layer import MoeLayer
from kernels.moe_shape import LayerShape, layer_shape
from kernels.problem import PRESETS
from tests.harness.planted_defects import DEFECTS, Defect, routed_scale_applied_twice

SCALE_DOWN = 32
TOKENS = 12
Weights = dict[str, Tensor]


def small(name: str) -> LayerShape:
    return layer_shape(PRESETS[name], SCALE_DOWN)


def clean(name: str, layers: int = 1, seed: int = 0) -> tuple[list[MoeLayer], list[Weights]]:
    shape = small(name)
    weights = [generate_weights(shape, seed, index) for index in range(layers)]
    return [build_layer(shape, each) for each in weights], weights


def trace(name: str, layers: list[MoeLayer], weights: list[Weights], tokens: int = TOKENS) -> Traced:
    return trace_layers(generate_input(small(name), 0, tokens), layers, weights)


def plant(defect: Defect, layer: MoeLayer, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    defect.plant(layer, monkeypatch)
    if defect.updates:
        weights |= layer.state_dict()


def step(traced: Traced, name: str, layer: int = 0) -> StepTrace:
    return next(each for each in traced.steps if (each.layer, each.name) == (layer, name))


@pytest.mark.parametrize(("layers", "tokens", "seed"), [(1, 1, 1), (3, 24, 0), (2, 33, 2)])
@pytest.mark.parametrize("name", PRESETS)
def test_clean_layers_stay_in_band(name: str, layers: int, tokens: int, seed: int) -> None:
    traced = trace(name, *clean(name, layers, seed), tokens)
    assert traced.verdict.finding is Finding.IN_BAND
    assert [each for each in traced.steps if each.finding is not Finding.IN_BAND] == []
    assert [router.detail for router in traced.routers] == [""] * layers
    for each in traced.steps:
        if each.name != "router.ids":
            assert each.step_excess is not None
            assert each.step_excess <= 1.0
            assert each.saturated in (None, 0.0)
    # The quantization error is there, and is the format's: an operand's, both operands' in a product.
    operand, product = step(traced, "experts.gate.operand"), step(traced, "experts.gate")
    assert operand.quantization_error == pytest.approx(0.095, abs=0.005)
    assert product.quantization_error == pytest.approx(0.095 * math.sqrt(2), abs=0.02)


@pytest.mark.parametrize("name", PRESETS)
def test_heavy_tailed_data_quantizes_badly_and_stays_in_band(name: str) -> None:
    shape = small(name)
    weights = generate_weights(shape, 5, 0)
    generator = torch.Generator().manual_seed(5)
    for key, tensor in weights.items():
        if key.endswith("weight"):
            tails = torch.exp(1.5 * torch.randn(tensor.shape, generator=generator) - 1.5**2)
            weights[key] = (tensor.float() * tails).bfloat16()
    traced = trace(name, [build_layer(shape, weights)], [weights])
    assert traced.verdict.finding is Finding.IN_BAND


@pytest.mark.parametrize("name", ["deepseek-v4-pro", "kimi-k2", "qwen3-moe"])
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_planted_defect_is_named(defect: Defect, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if defect.plant is routed_scale_applied_twice and PRESETS[name].routed_scale == 1.0:
        pytest.skip(f"{name} scales by 1: applied twice it is the same")
    layers, weights = clean(name)
    plant(defect, layers[0], weights[0], monkeypatch)
    found = trace(name, layers, weights).verdict
    assert (found.finding, found.layer, found.step) == (Finding.DEFECT, 0, defect.step)
    assert found.excess is None or found.excess > 1.0
    assert defect.detail in found.detail


@pytest.mark.parametrize("name", ["deepseek-v4-flash", "kimi-k2"])
@pytest.mark.parametrize(
    "defect", [each for each in DEFECTS if "operand" in each.step], ids=lambda defect: defect.name
)
def test_a_defect_is_named_in_its_own_layer(
    defect: Defect, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, weights = clean(name, layers=3)
    plant(defect, layers[1], weights[1], monkeypatch)
    traced = trace(name, layers, weights)
    assert (traced.verdict.finding, traced.verdict.layer) == (Finding.DEFECT, 1)
    assert traced.verdict.step == defect.step
    # Steps that only inherit the error are not called defects.
    defects = [(each.layer, each.name) for each in traced.steps if each.finding is Finding.DEFECT]
    assert all(layer == 1 for layer, _ in defects)


@pytest.mark.parametrize("name", ["deepseek-v4-pro", "qwen3-moe"])
def test_a_defect_shared_with_the_reference_shows_as_quantization(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer and reference read scales as if they were not swizzled: both agree, and are wrong together."""

    def unpermuted(swizzled: Tensor, rows: int, columns: int) -> Tensor:
        return swizzled[:rows, :columns].contiguous()

    monkeypatch.setattr(kernels.nvfp4, "unswizzle_scales", unpermuted)
    found = trace(name, *clean(name)).verdict
    assert (found.finding, found.step) == (Finding.QUANTIZATION, "router.operand")
    assert found.excess is not None
    assert found.excess > 1.5


def test_an_update_that_the_layer_knows_of_is_refused_in_one_line() -> None:
    layers, weights = clean("qwen3-moe")
    with torch.no_grad():
        layers[0].router.weight.mul_(2.0)
    with pytest.raises(TraceError, match="has changed since it was quantized: call finalize_weights"):
        trace("qwen3-moe", layers, weights)


def test_a_tie_may_be_broken_either_way_and_spoils_nothing_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two experts with the same router row tie; they are different experts, and the layer picks the other."""
    shape = small("deepseek-v4-pro")
    weights = generate_weights(shape, 0, 0)
    weights["router.weight"][1] = weights["router.weight"][0]
    weights["selection_bias"][1] = weights["selection_bias"][0]
    route_tokens = moe_layer.route_tokens

    def other(m: Tensor, layer: MoeLayer, tap: moe_layer.Tap) -> tuple[Tensor, Tensor]:
        routed, ids = route_tokens(m, layer, tap)
        swapped = torch.where(ids == 0, 1, torch.where(ids == 1, 0, ids))
        return routed, swapped.int()

    monkeypatch.setattr(moe_layer, "route_tokens", other)
    traced = trace("deepseek-v4-pro", [build_layer(shape, weights)], [weights], tokens=64)
    assert traced.routers[0].differ_given_input > 0
    assert traced.routers[0].differ_on_path > 0
    assert traced.routers[0].margin_on_path < 0.01
    assert traced.verdict.finding is Finding.IN_BAND, traced.verdict


def test_choices_that_rounding_upstream_flips_are_counted_with_their_margin_and_not_blamed() -> None:
    traced = trace("kimi-k2", *clean("kimi-k2", layers=3), 24)
    first, last = traced.routers[0], traced.routers[-1]
    assert (first.entries, first.differ_given_input, last.differ_given_input) == (24 * 8, 0, 0)
    assert 0 < first.differ_on_path < last.differ_on_path
    assert 0.0 < first.margin_on_path < first.margin_unquantized
    assert traced.verdict.finding is Finding.IN_BAND


def second_run_only(
    change: Callable[[Tensor], Tensor],
) -> Callable[[Tensor, MoeLayer, moe_layer.Tap], Tensor]:
    """A layer that changes its input in the run along the path, the second: as one that keeps a state may."""
    runs = []

    def forward(x: Tensor, layer: MoeLayer, tap: moe_layer.Tap) -> Tensor:
        runs.append(len(x))
        return moe_layer.forward_layer(change(x) if len(runs) == 2 else x, layer, tap)

    return forward


def test_what_shows_along_the_run_only_is_drift() -> None:
    layers, weights = clean("kimi-k2")
    x = generate_input(small("kimi-k2"), 0, TOKENS)
    found = trace_layers(x, layers, weights, second_run_only(lambda x: x.roll(1, dims=0))).verdict
    assert (found.finding, found.step) == (Finding.DRIFT, "attention.norm")
    assert found.excess is not None
    assert found.excess > 100


def test_an_infinity_along_the_run_only_is_named() -> None:
    layers, weights = clean("kimi-k2")
    x = generate_input(small("kimi-k2"), 0, TOKENS)
    found = trace_layers(x, layers, weights, second_run_only(lambda x: x * torch.inf)).verdict
    assert (found.finding, found.step, found.excess) == (Finding.NOT_FINITE, "attention.norm", None)


def test_ids_that_no_expert_has_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    route = moe_layer.route
    monkeypatch.setattr(moe_layer, "route", lambda *operands: (route(*operands)[0], route(*operands)[1] + 99))
    found = trace("qwen3-moe", *clean("qwen3-moe")).verdict
    assert (found.finding, found.step, found.excess) == (Finding.DEFECT, "router.ids", None)
    assert "is outside [0, 16)" in found.detail


def test_an_overflow_is_named_where_it_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    swiglu = moe_layer.swiglu
    monkeypatch.setattr(moe_layer, "swiglu", lambda gate, up: swiglu(gate, up) * 1e38 * 1e3)
    traced = trace("qwen3-moe", *clean("qwen3-moe"))
    assert (traced.verdict.finding, traced.verdict.step) == (Finding.DEFECT, "experts.act")
    assert traced.verdict.excess is None
    assert step(traced, "experts.act").peak is None


def test_an_activation_scale_too_large_saturates_blocks() -> None:
    from harness.trace_noise import saturated_blocks

    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    fresh = kernels.nvfp4.quantize_activation_nvfp4(x)
    assert saturated_blocks(x, fresh) == (0, 32)
    stale = kernels.nvfp4.quantize_activation_nvfp4(x, fresh.global_scale * 2)
    amax = x.float().abs().view(8, 4, 16).amax(2)
    too_large = amax * stale.global_scale / 6 > 448 * (1 + 2**-4)
    assert 0 < int(too_large.sum()) < 32
    assert saturated_blocks(x, stale) == (int(too_large.sum()), 32)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_in_one_line(bad: float) -> None:
    layers, weights = clean("qwen3-moe")
    x = generate_input(small("qwen3-moe"), 0, 4)
    x[2, 5] = bad
    with pytest.raises(TraceError, match=r"the input has 1 NaN or infinite of .* the first at \[2, 5\]"):
        trace_layers(x, layers, weights)
    weights[0]["attention.q.weight"][1, 0] = bad
    with pytest.raises(TraceError, match=r"layer 0: attention.q.weight has 1 NaN .* first at \[1, 0\]"):
        trace("qwen3-moe", layers, weights)


def test_an_input_of_another_shape_is_refused() -> None:
    layers, weights = clean("qwen3-moe")
    with pytest.raises(TraceError, match=r"the input is torch.float32 of shape \[3, 7\]: want bfloat16"):
        trace_layers(torch.zeros(3, 7), layers, weights)

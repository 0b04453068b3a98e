"""The trace's reference math against torch in float64, and its variances against drawn errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness import trace_math
from harness.trace_compare import fluctuation
from harness.trace_math import Computed, Signal
from harness.trace_noise import add_product_noise, quantization_variance
from kernels.moe_shape import LayerShape, layer_shape
from kernels.nvfp4 import dequantize_nvfp4, quantize_to_nvfp4
from kernels.problem import PRESETS
from kernels.reference import routing_weights, score

SHAPE = layer_shape(PRESETS["deepseek-v4-pro"], 32)  # H = 192: 6 heads of 32, 3 for keys
GROUPED = replace(SHAPE, heads=8, kv_heads=2)
DRAWS = 400


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def exact(value: Tensor) -> Signal:
    return Signal(value, torch.zeros_like(value))


def test_norm_and_swiglu_are_torchs() -> None:
    x, weight = normal(5, 64), normal(64, seed=1).abs()
    found = trace_math.norm(exact(x), weight, 1e-6).value
    assert torch.allclose(found, F.rms_norm(x, (64,), weight, 1e-6), rtol=1e-12, atol=0)
    gate, up = normal(5, 64, seed=2), normal(5, 64, seed=3)
    assert torch.allclose(trace_math.swiglu(exact(gate), exact(up)).value, F.silu(gate) * up, rtol=1e-12)


@pytest.mark.parametrize("shape", [SHAPE, GROUPED], ids=["own heads", "shared heads"])
@pytest.mark.parametrize("m", [1, 2, 17])
def test_attention_is_torchs(shape: LayerShape, m: int) -> None:
    width = shape.head_dim
    q = normal(m, shape.heads * width)
    k, v = normal(m, shape.kv_heads * width, seed=1), normal(m, shape.kv_heads * width, seed=2)
    found = trace_math.attend(exact(q), exact(k), exact(v), shape).value
    heads = [x.view(m, -1, width).transpose(0, 1)[None] for x in (q, k, v)]
    want = F.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
    assert torch.allclose(found, want[0].transpose(0, 1).flatten(1), rtol=1e-10, atol=1e-12)


def test_rotation_is_a_product_of_complex_numbers() -> None:
    x = normal(6, SHAPE.heads * SHAPE.head_dim)
    half = SHAPE.head_dim // 2
    halves = x.view(6, SHAPE.heads, 2, half)
    turns = torch.arange(6.0, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(half) / half)
    turned = (
        torch.complex(halves[:, :, 0], halves[:, :, 1])
        * torch.polar(torch.ones(6, half).double(), turns)[:, None]
    )
    want = torch.stack((turned.real, turned.imag), 2).flatten(1)
    assert torch.allclose(trace_math.rotate(exact(x), SHAPE).value, want, rtol=1e-6, atol=1e-6)


def drawn_error(step: Callable[..., Computed], inputs: list[Tensor], deviation: float) -> tuple[float, float]:
    """The root mean square of what normal errors of the inputs do to the result, drawn and predicted."""
    signals = [Signal(x, torch.full_like(x, deviation**2)) for x in inputs]
    predicted = step(*signals)
    generator = torch.Generator().manual_seed(9)
    total = torch.zeros(())
    for _ in range(DRAWS):
        noisy = [
            exact(x + deviation * torch.randn(x.shape, generator=generator, dtype=torch.float64))
            for x in inputs
        ]
        total = total + (step(*noisy).value - predicted.value).square().mean()
    return float((total / DRAWS).sqrt()), float(predicted.variance.mean().sqrt())


WIDTH = SHAPE.heads * SHAPE.head_dim
STEPS: dict[str, tuple[Callable[..., Computed], list[Tensor]]] = {
    "norm": (lambda x: trace_math.norm(x, normal(64, seed=1).abs(), 1e-6), [3 * normal(7, 64)]),
    "dense": (lambda x: trace_math.dense(x, normal(24, 64, seed=1)), [normal(7, 64)]),
    "rotate": (lambda x: trace_math.rotate(x, SHAPE), [normal(7, WIDTH)]),
    "attend": (
        lambda q, k, v: trace_math.attend(q, k, v, GROUPED),
        [2 * normal(9, 8 * 32), normal(9, 2 * 32, seed=1), normal(9, 2 * 32, seed=2)],
    ),
    "swiglu": (trace_math.swiglu, [2 * normal(7, 64), normal(7, 64, seed=1)]),
    "combine": (trace_math.combine, [normal(5, 4).abs(), normal(20, 64, seed=1), normal(5, 64, seed=2)]),
    "add": (trace_math.add, [normal(7, 64), normal(7, 64, seed=1)]),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_variance_of_a_step_is_that_of_drawn_errors(name: str) -> None:
    step, inputs = STEPS[name]
    drawn, predicted = drawn_error(step, inputs, deviation=0.01)
    assert predicted == pytest.approx(drawn, rel=0.05)


@pytest.mark.parametrize("name", PRESETS)
def test_the_variance_of_routing_weights_is_that_of_drawn_errors(name: str) -> None:
    problem = layer_shape(PRESETS[name], 16).problem
    logits = normal(9, problem.experts, scale=2.0)
    ids = logits.topk(problem.top_k, dim=1).indices

    def weigh(x: Signal) -> Computed:
        value = routing_weights(score(x.value, problem.score), ids, problem)
        variance = trace_math.routing_variance(x, ids, value, problem)
        return Computed(value, torch.zeros_like(value), variance)

    drawn, predicted = drawn_error(weigh, [logits], deviation=0.05)
    assert predicted == pytest.approx(drawn, rel=0.1)


@pytest.mark.parametrize(
    ("tail", "lowest", "highest"), [(0.0, 0.95, 1.05), (1.0, 0.9, 1.1), (2.0, 0.2, 3**0.5)]
)
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_the_rounding_errors_of_nvfp4_are_as_large_as_expected(
    tail: float, lowest: float, highest: float, scale: float
) -> None:
    """From plain data to tails so heavy that a few elements, whose errors are few draws, carry all of it."""
    x = (normal(96, 256) * torch.exp(tail * normal(96, 256, seed=1)) * scale).float()
    error = (dequantize_nvfp4(quantize_to_nvfp4(x), torch.float64) - x).norm()
    expected = quantization_variance(x).sum().sqrt()
    assert lowest < float(error / expected) < highest


def test_the_noise_of_a_quantized_product_is_as_large_as_expected() -> None:
    x, weight = normal(64, 256).float(), normal(48, 256, seed=1).float()
    quantized = [dequantize_nvfp4(quantize_to_nvfp4(each), torch.float64) for each in (x, weight)]
    plain = x.double() @ weight.double().T
    error = quantized[0] @ quantized[1].T - plain
    zero = torch.zeros_like(plain)
    noise = add_product_noise(
        Computed(plain, zero, zero), exact(x.double()), weight, quantization_variance(weight)
    )
    assert 0.95 < float(error.norm() / noise.variance.sum().sqrt()) < 1.05


@pytest.mark.parametrize("elements", [1, 6, 50, 1000])
def test_the_mean_square_of_few_errors_stays_below_the_fluctuation(elements: int) -> None:
    from scipy.stats import chi2

    assert fluctuation(elements) ** 2 == pytest.approx(chi2.isf(1e-6, elements) / elements, rel=0.2)

"""What the wrapper hands to kernels of NVFP4 operands: the layer's bytes, quantized activations, alpha."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kernels.family import OperandFormat
from kernels.linear import Nvfp4Linear
from kernels.nvfp4 import dequantize_exact_bf16, quantize_activation_nvfp4
from kernels.problem import RouterProblem
from kernels.router import run_nvfp4_fused_router
from kernels.router_operands import bf16_operands, nvfp4_operands

PROBLEM = RouterProblem("small", hidden=64, experts=32, top_k=4)


def activations(rows: int = 5, hidden: int = 64) -> torch.Tensor:
    return torch.randn(rows, hidden, generator=torch.Generator().manual_seed(7)).bfloat16()


def layer(hidden: int = 64, experts: int = 32) -> Nvfp4Linear:
    torch.manual_seed(3)
    return Nvfp4Linear(hidden, experts).finalize_weights()


def test_the_operands_are_the_layers_own_bytes_and_the_quantized_activations() -> None:
    x, linear = activations(), layer()
    (a, a_scale, b, b_scale), alpha = nvfp4_operands(x, linear, PROBLEM, quantize=True)
    quantized = quantize_activation_nvfp4(x)
    assert linear._mat_b is not None
    assert linear._scale_b is not None
    assert b.data_ptr() == linear._mat_b.data_ptr()
    assert b_scale.data_ptr() == linear._scale_b.data_ptr()
    assert torch.equal(a, quantized.packed)
    assert torch.equal(a_scale, quantized.scale.view(torch.uint8))
    assert {tensor.dtype for tensor in (a, a_scale, b, b_scale)} == {torch.uint8}
    # The same numbers as on a GPU without FP4 tensor cores.
    (a_bf16, b_bf16), alpha_bf16 = bf16_operands(x, linear, PROBLEM, quantize=True)
    assert torch.equal(alpha, alpha_bf16)
    assert torch.equal(a_bf16, dequantize_exact_bf16(quantized))
    assert torch.equal(b_bf16, dequantize_exact_bf16(linear.quantized()))


def test_quantized_activations_are_passed_on() -> None:
    quantized = quantize_activation_nvfp4(activations(130))
    (a, a_scale, *_), _ = nvfp4_operands(quantized, layer(), PROBLEM, quantize=False)
    assert a.data_ptr() == quantized.packed.data_ptr()
    assert a_scale.data_ptr() == quantized.scale.data_ptr()
    assert a_scale.shape == (256, 4)


def test_no_tokens_are_no_trouble() -> None:
    (a, a_scale, *_), alpha = nvfp4_operands(activations(0), layer(), PROBLEM, quantize=True)
    assert (a.shape, a_scale.shape) == ((0, 32), (0, 4))
    assert alpha.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"weight": torch.zeros(32, 64).bfloat16()},
            "weight of torch.bfloat16: this GPU's kernels multiply NVFP4, pass an Nvfp4Linear",
        ),
        (
            {"quantize_activations": False},
            "quantize_activations = False: this GPU's kernels multiply NVFP4, leave it at True",
        ),
        ({"weight": layer(64, 16)}, "the layer's weight of shape (16, 32): must be (32, 32)"),
        ({"activations": activations(5, 32)}, "activations of shape (5, 32): must be (5, 64)"),
        ({"activations": activations()[0]}, "activations of shape (64,): must be [M, 64]"),
        (
            {"activations": quantize_activation_nvfp4(activations(5, 32))},
            "quantized activations of shape (5, 16): must be (5, 32)",
        ),
    ],
)
def test_what_an_nvfp4_kernel_cannot_take_is_named(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.router._operand_format", lambda device: OperandFormat.NVFP4)
    arguments: dict[str, Any] = {"activations": activations(), "weight": layer(), "problem": PROBLEM}
    with pytest.raises(ValueError, match=r".") as refused:
        run_nvfp4_fused_router(**(arguments | changes), bias=torch.zeros(32))
    assert str(refused.value) == message

"""Nvfp4Linear: what finalize_weights leaves, when it is stale, what follows the module."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from kernels.linear import Nvfp4Linear
from kernels.nvfp4 import (
    dequantize_exact_bf16,
    dequantize_nvfp4,
    quantize_activation_nvfp4,
    quantize_to_nvfp4,
)
from tests.kernels.fake_cuda import SECOND, FakeCuda


def linear(k: int = 64, n: int = 24, dtype: torch.dtype = torch.bfloat16) -> Nvfp4Linear:
    torch.manual_seed(7)
    return Nvfp4Linear(k, n, dtype=dtype)


def test_finalize_leaves_the_operands_of_a_kernel() -> None:
    module = linear(64, 24).finalize_weights()
    assert module._mat_b is not None
    assert (module._mat_b.dtype, tuple(module._mat_b.shape)) == (torch.uint8, (24, 32))
    assert module._scale_b is not None
    assert (module._scale_b.dtype, tuple(module._scale_b.shape)) == (torch.float8_e4m3fn, (128, 4))
    assert module._global_scale_b is not None
    assert module._global_scale_b.dtype == torch.float32
    expected = dequantize_exact_bf16(quantize_to_nvfp4(module.weight))
    assert torch.equal(module.dequantized_bf16(), expected)
    assert module.dequantized_bf16() is module.dequantized_bf16(), "computed once"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_forward_is_the_product_of_the_dequantized_operands(dtype: torch.dtype) -> None:
    module = linear(256, 24, dtype).finalize_weights()
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(11)).to(dtype)
    a = dequantize_nvfp4(quantize_activation_nvfp4(x), torch.float64)
    expected = a @ dequantize_nvfp4(module.quantized(), torch.float64).T
    torch.testing.assert_close(module(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_use_before_finalize_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"was not quantized: call finalize_weights"):
        linear()(torch.zeros(1, 64))


def test_weight_updated_in_place_is_stale_until_finalized_again() -> None:
    module = linear().finalize_weights()
    before = module.dequantized_bf16()
    with torch.no_grad():
        module.weight[0, 0] = 3.0
    for use in (lambda: module(torch.zeros(1, 64)), module.dequantized_bf16, module.quantized):
        with pytest.raises(RuntimeError, match="has changed since it was quantized"):
            use()
    module.finalize_weights()
    assert not torch.equal(module.dequantized_bf16(), before)


def test_replaced_loaded_or_cast_weights_are_stale() -> None:
    replaced = linear().finalize_weights()
    replaced.weight = torch.nn.Parameter(replaced.weight.detach().clone())
    loaded = linear().finalize_weights()
    loaded.load_state_dict(linear().state_dict())
    cast = linear().finalize_weights().float()
    for module in (replaced, loaded, cast):
        assert not module.is_finalized
        assert module.finalize_weights().is_finalized


def test_weights_of_inference_mode_are_finalized_and_known_by_identity() -> None:
    with torch.inference_mode():
        made = linear().finalize_weights()
        cast = linear().float().finalize_weights()
        moved = linear().finalize_weights().to("meta")
        stale = linear().finalize_weights().float()
    assert made.is_finalized
    assert torch.equal(made.dequantized_bf16(), linear().finalize_weights().dequantized_bf16())
    assert cast.is_finalized
    assert moved.is_finalized
    assert not stale.is_finalized
    assert stale.finalize_weights().is_finalized
    made.weight = torch.nn.Parameter(made.weight.detach().clone())
    assert not made.is_finalized


def test_a_dequantization_is_kept_once_its_stream_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    monkeypatch.setattr("kernels.linear.dequantize_exact_bf16", lambda b: SimpleNamespace(device=SECOND))
    module = linear().finalize_weights()
    cuda.capturing = {SECOND}
    in_a_graph = module.dequantized_bf16()
    assert module.dequantized_bf16() is not in_a_graph, "it would live in the graph's memory"
    cuda.capturing = set()
    kept = module.dequantized_bf16()
    assert kept is not in_a_graph
    assert cuda.waited == [SECOND]
    cuda.capturing = {SECOND}
    assert module.dequantized_bf16() is kept
    assert cuda.waited == [SECOND], "once"


def test_state_dict_holds_only_the_weight() -> None:
    assert list(linear().finalize_weights().state_dict()) == ["weight"]


def test_operands_follow_the_device_and_keep_their_dtypes() -> None:
    moved = linear().finalize_weights().to("meta")
    assert moved.is_finalized
    assert {moved._mat_b.device.type, moved._scale_b.device.type} == {"meta"}
    cast = linear().finalize_weights().to(torch.float32)
    assert cast._scale_b.dtype == torch.float8_e4m3fn


def test_deep_copy_is_independent() -> None:
    module = linear().finalize_weights()
    twin = copy.deepcopy(module).finalize_weights()
    with torch.no_grad():
        twin.weight.zero_()
    assert module.is_finalized
    assert not twin.is_finalized


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((63, 8), "in_features = 63"),
        ((0, 8), "in_features = 0"),
        ((64, 0), "out_features = 0"),
        ((64, 8, torch.float64), "float64: want bfloat16 or float32"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Nvfp4Linear(*arguments)


def test_wrong_k_is_refused() -> None:
    with pytest.raises(ValueError, match="x has K = 32: the weight has 64"):
        linear().finalize_weights()(torch.zeros(1, 32))

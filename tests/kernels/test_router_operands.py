"""What the wrapper hands to kernels of NVFP4 operands: the layer's bytes, quantized activations, alpha."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.family import OperandFormat
from kernels.linear import Nvfp4Linear
from kernels.nvfp4 import Nvfp4Tensor, dequantize_exact_bf16, quantize_activation_nvfp4
from kernels.problem import RouterProblem
from kernels.router import run_nvfp4_fused_router
from kernels.router_operands import bf16_operands, bias_operand, nvfp4_operands
from tests.kernels.fake_cuda import SECOND, FakeCuda

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


@pytest.mark.parametrize(
    "none", [activations(0), quantize_activation_nvfp4(activations()).first_rows(0)], ids=["raw", "quantized"]
)
def test_no_tokens_are_no_trouble(none: torch.Tensor | Nvfp4Tensor) -> None:
    (a, a_scale, *_), alpha = nvfp4_operands(none, layer(), PROBLEM, quantize=True)
    assert (a.shape, a_scale.shape) == ((0, 32), (0, 4))
    assert alpha.isfinite().all()
    (a, _), alpha = bf16_operands(none, layer(), PROBLEM, quantize=True)
    assert (a.dtype, a.shape) == (torch.bfloat16, (0, 64))
    assert alpha.isfinite().all()


class HostData(TorchDispatchMode):
    """Counts the tensors that are made from Python values: on a GPU, copies that the host waits for."""

    made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.made += func is torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("quantized_by", ["wrapper", "caller", "nobody"])
def test_operands_take_nothing_from_the_host(quantized_by: str) -> None:
    x, linear = activations(), layer()
    a = quantize_activation_nvfp4(x) if quantized_by == "caller" else x
    with HostData() as host:
        torch.tensor([1.0])
        assert host.made == 1, "it sees them"
        bf16_operands(a, linear, PROBLEM, quantize=quantized_by == "wrapper")
        if quantized_by != "nobody":
            nvfp4_operands(a, linear, PROBLEM, quantize=True)
        assert host.made == 1


def test_a_constant_is_kept_once_its_stream_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    plain = RouterProblem("plain", hidden=64, experts=29, top_k=4, bias=False)
    cuda.capturing = {SECOND}
    in_a_graph = bias_operand(None, plain, SECOND)
    assert bias_operand(None, plain, SECOND) is not in_a_graph, "only its replays fill it"
    cuda.capturing = set()
    kept = bias_operand(None, plain, SECOND)
    assert torch.equal(kept, torch.zeros(29))
    assert kept is not in_a_graph
    assert cuda.waited == [SECOND]
    cuda.capturing = {SECOND}
    assert bias_operand(None, plain, SECOND) is kept
    assert cuda.waited == [SECOND], "once"


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
            "quantized activations of shape (5, 32): must be (5, 64)",
        ),
    ],
)
def test_what_an_nvfp4_kernel_cannot_take_is_named(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.router.operand_format", lambda device: OperandFormat.NVFP4)
    arguments: dict[str, Any] = {"activations": activations(), "weight": layer(), "problem": PROBLEM}
    with pytest.raises(ValueError, match=r".") as refused:
        run_nvfp4_fused_router(**(arguments | changes), bias=torch.zeros(32))
    assert str(refused.value) == message


def spread(t: torch.Tensor) -> torch.Tensor:
    """Like `t`, but with a gap behind every element."""
    return torch.stack((t, t), dim=-1)[..., 0]


@pytest.mark.parametrize("format_", list(OperandFormat))
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packed": spread}, "quantized activations with strides (64, 2): must be contiguous"),
        ({"scale": spread}, "the activations' scales with strides (8, 2): must be contiguous"),
        ({"packed": lambda t: t.to("meta")}, "quantized activations on meta, the weight on cpu"),
        ({"scale": lambda t: t.to("meta")}, "the activations' scales on meta, the weight on cpu"),
        (
            {"global_scale": lambda t: t.to("meta")},
            "the activations' global scale on meta, the weight on cpu",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_tensor_of_quantized_activations_is_looked_at(
    change: dict[str, Any], message: str, format_: OperandFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.router.operand_format", lambda device: format_)
    parts = vars(quantize_activation_nvfp4(activations()))
    quantized = Nvfp4Tensor(**{name: change.get(name, lambda t: t)(part) for name, part in parts.items()})
    with pytest.raises(ValueError, match=r".") as refused:
        run_nvfp4_fused_router(quantized, layer(), PROBLEM, bias=torch.zeros(32))
    assert str(refused.value).startswith(message)

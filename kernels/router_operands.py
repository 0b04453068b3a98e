"""What the public wrapper hands to a launch: operands, alpha and bias, checked or made from the caller's."""

from __future__ import annotations

import torch

from kernels.family import OperandFormat
from kernels.linear import Nvfp4Linear
from kernels.nvfp4 import Nvfp4Tensor
from kernels.problem import RouterProblem
from kernels.quantize.operands import alpha_of, dequantized_operand, quantized_operand
from kernels.streams import settle

ALIGNMENT_BYTES = 16  # TMA's: of a tensor's first byte and of its row stride


def nvfp4_operands(
    activations: torch.Tensor | Nvfp4Tensor,
    weight: torch.Tensor | Nvfp4Linear,
    problem: RouterProblem,
    quantize: bool,
    activation_scale: torch.Tensor | None = None,
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """A and B as bytes, with those of their scales, and alpha [1] fp32, which undoes both global scales."""
    if not isinstance(weight, Nvfp4Linear):
        raise ValueError(f"weight of {weight.dtype}: this GPU's kernels multiply NVFP4, pass an Nvfp4Linear")
    b = weight.quantized()
    device = b.packed.device
    require(b.packed, "the layer's weight", (problem.experts, problem.hidden // 2), torch.uint8, device)
    if isinstance(activations, Nvfp4Tensor):
        _require_quantized(activations, problem, device)
        alpha = alpha_of(activations.global_scale, b.global_scale)
        return (*activations.as_bytes(), *b.as_bytes()), alpha
    _require_activations(activations, problem, device)
    if not quantize:
        raise ValueError("quantize_activations = False: this GPU's kernels multiply NVFP4, leave it at True")
    a, alpha = quantized_operand(activations, b.global_scale, OperandFormat.NVFP4, activation_scale)
    return (*a, *b.as_bytes()), alpha


def bf16_operands(
    activations: torch.Tensor | Nvfp4Tensor,
    weight: torch.Tensor | Nvfp4Linear,
    problem: RouterProblem,
    quantize: bool,
    activation_scale: torch.Tensor | None = None,
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """A and B in bf16, NVFP4 ones dequantized exactly, and alpha [1] fp32, which undoes global scales."""
    b, b_scale = _weight_operand(weight, problem)
    if isinstance(activations, Nvfp4Tensor):
        _require_quantized(activations, problem, b.device)
        b_scale = _constant(1, 1.0, b.device) if b_scale is None else b_scale
        a, alpha = dequantized_operand(activations, b_scale)
        return (a, b), alpha
    _require_activations(activations, problem, b.device)
    if b_scale is None:
        return (activations, b), _constant(1, 1.0, b.device)
    if not quantize:
        return (activations, b), alpha_of(_constant(1, 1.0, b.device), b_scale)
    (a,), alpha = quantized_operand(activations, b_scale, OperandFormat.BF16, activation_scale)
    return (a, b), alpha


def require_activation_scale(
    scale: torch.Tensor | None,
    activations: torch.Tensor | Nvfp4Tensor,
    weight: torch.Tensor | Nvfp4Linear,
    quantize: bool,
) -> None:
    """Raise `ValueError` unless `scale` is left out, or is a global scale where activations are quantized."""
    if scale is None:
        return
    if isinstance(activations, Nvfp4Tensor) or not isinstance(weight, Nvfp4Linear) or not quantize:
        raise ValueError("activation_scale: this call quantizes nothing, leave it out")
    if scale.dtype != torch.float32 or scale.numel() != 1:
        raise ValueError(f"activation_scale of {scale.dtype} {tuple(scale.shape)}: must be one float32")
    if scale.device != weight.weight.device:
        raise ValueError(
            f"activation_scale on {scale.device}, the weight on {weight.weight.device}: move one of them"
        )


def _require_activations(activations: torch.Tensor, problem: RouterProblem, device: torch.device) -> None:
    if activations.ndim != 2:
        raise ValueError(f"activations of shape {tuple(activations.shape)}: must be [M, {problem.hidden}]")
    shape = (activations.shape[0], problem.hidden)
    require(activations, "activations", shape, torch.bfloat16, device)


def _require_quantized(a: Nvfp4Tensor, problem: RouterProblem, device: torch.device) -> None:
    """Raise `ValueError` unless a kernel can read all three tensors of the activations where they lie."""
    shape = (a.shape[0], problem.hidden)
    if a.shape != shape:
        raise ValueError(f"quantized activations of shape {a.shape}: must be {shape}")
    packed, scale = a.as_bytes()
    require(packed, "quantized activations", tuple(packed.shape), torch.uint8, device)
    require(scale, "the activations' scales", tuple(scale.shape), torch.uint8, device)
    global_shape = tuple(a.global_scale.shape)
    require(a.global_scale, "the activations' global scale", global_shape, torch.float32, device)


def _weight_operand(
    weight: torch.Tensor | Nvfp4Linear, problem: RouterProblem
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """B [E, K] in bf16, and its global scale where it is an NVFP4 weight's exact dequantization."""
    shape = (problem.experts, problem.hidden)
    if isinstance(weight, Nvfp4Linear):
        b, global_scale = weight.dequantized_bf16(), weight.quantized().global_scale
        require(b, "the layer's weight", shape, torch.bfloat16, b.device)
        return b, global_scale
    require(weight, "weight", shape, torch.bfloat16, weight.device)
    return weight, None


def bias_operand(bias: torch.Tensor | None, problem: RouterProblem, device: torch.device) -> torch.Tensor:
    if not problem.bias:
        if bias is not None:
            raise ValueError(f"{problem.name} has no selection bias: leave bias out")
        return _constant(problem.experts, 0.0, device)
    if bias is None:
        raise ValueError(f"{problem.name} selects with a bias: pass bias, [{problem.experts}] fp32")
    require(bias, "bias", (problem.experts,), torch.float32, device)
    return bias


_constants: dict[tuple[int, float, torch.device], torch.Tensor] = {}


def _constant(elements: int, value: float, device: torch.device) -> torch.Tensor:
    """A tensor [elements] fp32 of `value`, kept; a capture that is the first to ask fills its own."""
    kept = _constants.get((elements, value, device))
    if kept is not None:
        return kept
    constant = torch.full((elements,), value, dtype=torch.float32, device=device)
    if settle(device):
        _constants[elements, value, device] = constant
    return constant


def require(
    tensor: torch.Tensor, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise `ValueError` unless `tensor` is what the kernel can read where it lies."""
    if tensor.device != device:
        raise ValueError(f"{name} on {tensor.device}, the weight on {device}: move one of them")
    if tensor.dtype != dtype:
        raise ValueError(f"{name} of {tensor.dtype}: must be {dtype}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} of shape {tuple(tensor.shape)}: must be {shape}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} with strides {tensor.stride()}: must be contiguous, call .contiguous()")
    if dtype in (torch.bfloat16, torch.uint8) and tensor.data_ptr() % ALIGNMENT_BYTES:
        raise ValueError(f"{name} begins off a {ALIGNMENT_BYTES}-byte boundary: clone it")

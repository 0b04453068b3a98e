"""Activations as a router's GEMM takes them, and alpha: by kernels on a CUDA device, elsewhere by torch.

Both give the same bits. The kernels are one launch, or two where the global scale is not known yet, and none
waits for the host: 2.5 us of an H200 for one token, where torch takes some thirty launches and 108 us
(2026-11-29).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.family import OperandFormat
from kernels.launchers import compiled
from kernels.nvfp4 import (
    Nvfp4Tensor,
    dequantize_exact_bf16,
    global_alpha,
    quantize_activation_nvfp4,
)
from kernels.nvfp4_layout import BLOCK, swizzled_shape

MAX_ELEMENTS = 1 << 32  # of one matrix: the kernels count its 32-bit words in 31 bits


def quantized_operand(
    x: Tensor, weight_scale: Tensor, output: OperandFormat, global_scale: Tensor | None = None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Quantize activations x [M, K] bf16: the operand, and alpha [1] fp32, which undoes both global scales.

    Args:
        weight_scale: the weight's global scale, one fp32.
        output: NVFP4 gives packed uint8 [M, K/2] and swizzled scales uint8; BF16 their exact product [M, K].
        global_scale: the activations', one fp32; None takes it from their largest magnitude.

    No tokens have no largest magnitude: their operand is empty, and alpha any number. Raises `ValueError` for
    a K that is not a multiple of 64, and for more than 2^32 elements.
    """
    m, hidden = x.shape
    if m == 0:
        return _new_operand(m, hidden, output, x.device), weight_scale.reshape(1)
    if not _by_kernels(x):
        t = quantize_activation_nvfp4(x, global_scale)
        alpha = global_alpha(t.global_scale, weight_scale)
        return (t.as_bytes() if output is OperandFormat.NVFP4 else (dequantize_exact_bf16(t),)), alpha
    _require_countable(x.shape)
    new = partial(torch.empty, device=x.device)
    calibrated = global_scale is not None
    scale = new(1) if global_scale is None else global_scale.reshape(1)
    operand = _new_operand(m, hidden, output, x.device)
    alpha = new(1)
    launch = _launcher("compile_quantizer", hidden, output, calibrated)
    with torch.cuda.device(x.device):
        partials = new(partial_count(), dtype=torch.int32)
        launch(x, weight_scale.reshape(1), scale, partials, *operand, alpha)
    return operand, alpha


def dequantized_operand(t: Nvfp4Tensor, weight_scale: Tensor) -> tuple[Tensor, Tensor]:
    """The exact dequantization bf16 [M, K] of quantized activations, and alpha; raises as above."""
    if not _by_kernels(t.packed):
        return dequantize_exact_bf16(t), global_alpha(t.global_scale, weight_scale)
    _require_countable(t.shape)
    elements = torch.empty(t.shape, dtype=torch.bfloat16, device=t.packed.device)
    if len(elements) == 0:
        return elements, alpha_of(t.global_scale, weight_scale)
    alpha = torch.empty(1, device=elements.device)
    launch = _launcher("compile_dequantizer", t.shape[1])
    with torch.cuda.device(elements.device):
        launch(*t.as_bytes(), weight_scale.reshape(1), t.global_scale.reshape(1), elements, alpha)
    return elements, alpha


def alpha_of(global_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """What undoes both global scales, one fp32 each: [1] fp32."""
    if not _by_kernels(global_scale):
        return global_alpha(global_scale, weight_scale)
    alpha = torch.empty(1, device=global_scale.device)
    launch = _launcher("compile_alpha")
    with torch.cuda.device(alpha.device):
        launch(global_scale.reshape(1), weight_scale.reshape(1), alpha)
    return alpha


def partial_count() -> int:
    """How many int32 a quantizer wants to write its CTAs' results to."""
    from kernels.quantize.quantizer import MAX_CTAS

    return MAX_CTAS


def _by_kernels(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _new_operand(m: int, hidden: int, output: OperandFormat, device: torch.device) -> tuple[Tensor, ...]:
    if output is OperandFormat.BF16:
        return (torch.empty(m, hidden, dtype=torch.bfloat16, device=device),)
    packed = torch.empty(m, hidden // 2, dtype=torch.uint8, device=device)
    return packed, torch.empty(swizzled_shape(m, hidden // BLOCK), dtype=torch.uint8, device=device)


def _launcher(name: str, *of: Any) -> Any:
    """What the function `name` of `kernels.quantize.launch` makes of these arguments, kept."""

    def compile_it() -> Any:
        from kernels.quantize import launch

        return getattr(launch, name)(*of)

    return compiled((name, *of), compile_it)


def _require_countable(shape: tuple[int, ...]) -> None:
    if shape[0] * shape[1] > MAX_ELEMENTS:
        raise ValueError(f"activations of shape {tuple(shape)}: at most 2^32 elements, route them in parts")

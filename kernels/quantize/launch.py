"""Compiling the kernels that quantize and dequantize activations, with M dynamic, for torch tensors."""

from __future__ import annotations

from typing import Any

import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32, Uint8
from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

from kernels.family import OperandFormat
from kernels.nvfp4_layout import BLOCK, SCALE_COLUMNS, swizzled_shape
from kernels.quantize.quantizer import MAX_CTAS, ActivationDequantizer, ActivationQuantizer, launch_alpha

ALIGNMENT = 16  # of what is loaded and stored 16 bytes at a time
HIDDEN_STEP = BLOCK * SCALE_COLUMNS


def compile_quantizer(hidden: int, output: OperandFormat, calibrated: bool) -> Any:
    """The quantizer as `launch(x, weight_scale, global_scale, partials, *operand, alpha)`.

    x             [M, hidden] bf16
    weight_scale  [1] fp32, the weight's global scale
    global_scale  [1] fp32, the activations': read when `calibrated`, otherwise computed and written
    partials      [MAX_CTAS] int32, scratch: nothing in it need be kept or cleared
    operand       NVFP4: uint8 [M, hidden / 2] and the scales uint8 of `swizzled_shape(M, hidden / 16)`
                  BF16: the exact dequantization bf16 [M, hidden]
    alpha         [1] fp32, written: 1 / (global_scale * weight_scale)

    Raises `ValueError` for a hidden size that is not a multiple of 64.
    """
    _require_whole_words(hidden)
    quantizer = ActivationQuantizer(hidden, output, calibrated)
    m = cute.sym_int32()
    given = _matrix(BFloat16, m, hidden), *_scales(2), _vector(Int32, MAX_CTAS)
    if output is OperandFormat.NVFP4:
        return _compile(quantizer, *given, *_quantized(m, hidden), *_scales(1))

    @cute.jit
    def launch(
        x: cute.Tensor,
        weight_scale: cute.Tensor,
        global_scale: cute.Tensor,
        partials: cute.Tensor,
        elements: cute.Tensor,
        alpha: cute.Tensor,
        stream: Any,
    ) -> None:
        quantizer(x, weight_scale, global_scale, partials, elements, elements, alpha, stream)

    return _compile(launch, *given, _matrix(BFloat16, m, hidden), *_scales(1))


def compile_dequantizer(hidden: int) -> Any:
    """The dequantizer as `launch(packed, scales, weight_scale, global_scale, elements, alpha)`.

    packed and scales are a quantizer's NVFP4 operand; weight_scale and global_scale [1] fp32; elements bf16
    [M, hidden] and alpha [1] fp32 are written. Raises `ValueError` as `compile_quantizer` does.
    """
    _require_whole_words(hidden)
    m = cute.sym_int32()
    given = *_quantized(m, hidden), *_scales(2)
    return _compile(ActivationDequantizer(hidden), *given, _matrix(BFloat16, m, hidden), *_scales(1))


def compile_alpha() -> Any:
    """`launch(global_scale, weight_scale, alpha)`, all [1] fp32."""
    return _compile(launch_alpha, *_scales(3))


def _compile(launch: Any, *tensors: Any) -> Any:
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    return cute.compile(launch, *tensors, stream, options="--enable-tvm-ffi")


def _require_whole_words(hidden: int) -> None:
    if hidden % HIDDEN_STEP:
        raise ValueError(f"hidden = {hidden}: must be a multiple of {HIDDEN_STEP}, whole words of scales")


def _matrix(dtype: Any, rows: Any, columns: int) -> Any:
    return make_fake_compact_tensor(dtype, (rows, columns), stride_order=(1, 0), assumed_align=ALIGNMENT)


def _vector(dtype: Any, size: int) -> Any:
    return make_fake_compact_tensor(dtype, (size,), stride_order=(0,), assumed_align=4)


def _scales(count: int) -> tuple[Any, ...]:
    """So many global scales or alphas."""
    return tuple(_vector(Float32, 1) for _ in range(count))


def _quantized(m: Any, hidden: int) -> tuple[Any, Any]:
    """Packed elements and their scales."""
    _, columns = swizzled_shape(0, hidden // BLOCK)
    return _matrix(Uint8, m, hidden // 2), _matrix(Uint8, cute.sym_int32(), columns)

"""A linear layer whose weight is quantized to NVFP4 once, before inference: the router's weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from kernels.nvfp4 import (
    Nvfp4Tensor,
    dequantize_exact_bf16,
    gemm_alpha,
    quantize_activation_nvfp4,
    quantize_to_nvfp4,
)
from kernels.nvfp4_layout import BLOCK
from kernels.streams import settle

_NEVER = -1  # a version no tensor has
_UNCOUNTED = 0  # stands for the version of a tensor of inference mode, whose updates torch does not count


class Nvfp4Linear(nn.Module):
    """`y = x @ weight^T` on NVFP4 operands.

    `finalize_weights` quantizes `weight` and leaves the operands a kernel takes:

        _mat_b           uint8 [N, K/2], two e2m1 a byte, even k in the low nibble
        _scale_b         float8_e4m3fn, swizzled (see `kernels.nvfp4.swizzle_scales`)
        _global_scale_b  fp32 scalar

    They follow the module to another device and keep their dtypes. They are derived, so a state dict holds
    only `weight`: load it (or deep-copy the module), then finalize. Using them after `weight` was updated in
    place, replaced or cast raises `RuntimeError` until `finalize_weights` is called again. (Writes through
    `weight.data` bypass torch's version counter and are not noticed. A weight made, moved or cast under
    `torch.inference_mode()` has no such counter: of it, no update in place is.)
    """

    weight: nn.Parameter
    _mat_b: Tensor | None
    _scale_b: Tensor | None
    _global_scale_b: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str | None = None,
    ) -> None:
        """Raises `ValueError` unless K = in_features is a multiple of 16 and dtype is bf16 or fp32."""
        super().__init__()
        if in_features < BLOCK or in_features % BLOCK:
            raise ValueError(f"in_features = {in_features}: must be a positive multiple of {BLOCK}")
        if out_features < 1:
            raise ValueError(f"out_features = {out_features}: must be at least 1")
        if dtype not in (torch.bfloat16, torch.float32):
            raise ValueError(f"dtype = {dtype}: want bfloat16 or float32")
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=dtype, device=device))
        nn.init.normal_(self.weight, std=in_features**-0.5)
        for name in ("_mat_b", "_scale_b", "_global_scale_b"):
            self.register_buffer(name, None, persistent=False)
        self._finalized: tuple[nn.Parameter, int] | None = None
        self._dequantized: Tensor | None = None

    def finalize_weights(self) -> Self:
        """Quantize `weight`; returns the module. Raises `ValueError` when it has a NaN or an infinity."""
        quantized = quantize_to_nvfp4(self.weight)
        self._mat_b = quantized.packed
        self._scale_b = quantized.scale
        self._global_scale_b = quantized.global_scale
        self._dequantized = None
        self._finalized = (self.weight, _version(self.weight))
        return self

    @property
    def is_finalized(self) -> bool:
        """Whether the quantized operands exist and are those of the present weight."""
        if self._finalized is None:
            return False
        weight, version = self._finalized
        return weight is self.weight and version == _version(weight)

    def quantized(self) -> Nvfp4Tensor:
        """The quantized weight [N, K]; raises `RuntimeError` when it is missing or stale."""
        if not self.is_finalized:
            state = "was not quantized" if self._finalized is None else "has changed since it was quantized"
            raise RuntimeError(f"Nvfp4Linear: the weight {state}: call finalize_weights() first")
        assert self._mat_b is not None
        assert self._scale_b is not None
        assert self._global_scale_b is not None
        return Nvfp4Tensor(self._mat_b, self._scale_b, self._global_scale_b)

    def dequantized_bf16(self) -> Tensor:
        """`q * scale` of the weight, bf16 [N, K], exact (the global scale left out), computed once.

        It is what a GPU without FP4 tensor cores multiplies. The first call waits for it, so that any stream
        may read it; a first call in a CUDA-graph capture keeps nothing, and every replay computes it again.
        Raises `RuntimeError` as `quantized` does.
        """
        quantized = self.quantized()
        if self._dequantized is not None:
            return self._dequantized
        dequantized = dequantize_exact_bf16(quantized)
        if settle(dequantized.device):
            self._dequantized = dequantized
        return dequantized

    def forward(self, x: Tensor) -> Tensor:
        """The reference product of x [M, K], quantized here, with the quantized weight: fp32 [M, N].

        Raises `RuntimeError` when the weight is stale and `ValueError` when x cannot be quantized or has
        another K.
        """
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x has K = {x.shape[-1]}: the weight has {self.in_features}")
        activation = quantize_activation_nvfp4(x)
        product = dequantize_exact_bf16(activation).float() @ self.dequantized_bf16().float().T
        return product * gemm_alpha(activation, self.quantized())

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the module, but keep the operands' own dtypes: `.to(dtype)` would cast e4m3 scales."""
        was_finalized, dtype = self.is_finalized, self.weight.dtype
        operands = {name: self._buffers[name] for name in ("_mat_b", "_scale_b", "_global_scale_b")}
        for name in operands:
            self._buffers[name] = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, operand in operands.items():
            self._buffers[name] = None if operand is None else operand.to(self.weight.device)
        self._dequantized = None
        if was_finalized and self.weight.dtype == dtype:
            self._finalized = (self.weight, _version(self.weight))
        elif was_finalized:
            self._finalized = (self.weight, _NEVER)  # a cast rounds the weight: no longer what was quantized
        return self


def _version(weight: Tensor) -> int:
    return _UNCOUNTED if weight.is_inference() else weight._version

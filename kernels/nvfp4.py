"""NVFP4: e2m1 elements, one e4m3 scale per block of 16 along K, one fp32 global scale per tensor.

    global_scale = 448 * 6 / amax
    scale        = e4m3(clamp(global_scale * block_amax * (1 / 6), +-448))
    q            = e2m1(x * global_scale / scale)
    x            ~ q * scale / global_scale

`q * scale` has at most 6 significant bits and an exponent far inside bf16's range, so it is exact in bf16
(`dequantize_exact_bf16`). A kernel multiplies those and applies `alpha = 1 / (global_scale_a *
global_scale_b)` to the product, which is why the global scale stays out of them.

Edge cases, the same on every device:

- A tensor of zeros has the global scale 1. A block whose scale rounds to 0 (below 2^-10) encodes to zeros.
- A block with a NaN or an infinity gets the scale NaN: all of its 16 elements decode to NaN, and nothing
  outside it changes, because the global scale is taken from the finite elements. `quantize_to_nvfp4` refuses
  such a weight instead; activations are not refused, since that would wait for the device.

Everything is vectorized torch and runs where its operands are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.nvfp4_layout import BLOCK, SCALE_COLUMNS, SCALE_ROWS, swizzled_shape

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1_MAX = 6.0
E4M3_MAX = 448.0

_FLOAT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_FLOAT32_MAX = torch.finfo(torch.float32).max


def encode_e2m1(x: Tensor) -> Tensor:
    """Nearest e2m1 codes, ties to the even code, as uint8 of `x`'s shape; bit 3 is the sign, also of zeros.

    Magnitudes above 5 saturate at 6. NaN has no code and becomes a positive zero: a block that holds one is
    marked by its scale (see the module).
    """
    magnitude = x.abs()
    code = (magnitude > 0.25).to(torch.uint8)
    code += magnitude >= 0.75
    code += magnitude > 1.25
    code += magnitude >= 1.75
    code += magnitude > 2.5
    code += magnitude >= 3.5
    code += magnitude > 5.0
    return code.add_(torch.signbit(x) & ~x.isnan(), alpha=8)


def decode_e2m1(codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The values of uint8 codes 0..15, exact, in `dtype`.

    Computed, since a table of them would come from the host: a copy that waits for the device at every call,
    and which no CUDA graph can capture.
    """
    # e4m3 has e2m1's bits and 2 more for each of exponent and mantissa; the exponents' biases differ by 6.
    e4m3 = (codes & 0b0111) << 2 | (codes & 0b1000) << 4
    return e4m3.view(torch.float8_e4m3fn).to(dtype) * 2.0**6


def pack_e2m1(codes: Tensor) -> Tensor:
    """[..., K] codes -> [..., K/2] bytes, even k in the low nibble."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack_e2m1(packed: Tensor) -> Tensor:
    """[..., K/2] bytes -> [..., K] codes."""
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)


def swizzle_scales(scales: Tensor) -> Tensor:
    """Lay out row-major one-byte scales [R, C] for the tensor core; padding is zero bytes.

    Scale (r, c) goes to byte `((r//128) * ceil(C/4) + c//4) * 512 + (r%32)*16 + ((r%128)//32)*4 + c%4` of the
    result, a contiguous tensor of `swizzled_shape(R, C)` whose own rows and columns mean nothing.
    """
    rows, columns = scales.shape
    shape = swizzled_shape(rows, columns)
    padded = torch.zeros(shape, dtype=torch.uint8, device=scales.device)
    padded[:rows, :columns] = scales.contiguous().view(torch.uint8)
    atoms = padded.view(shape[0] // SCALE_ROWS, 4, 32, shape[1] // SCALE_COLUMNS, SCALE_COLUMNS)
    return atoms.permute(0, 3, 2, 1, 4).reshape(shape).view(scales.dtype)


def unswizzle_scales(swizzled: Tensor, rows: int, columns: int) -> Tensor:
    """The row-major scales [rows, columns] that `swizzle_scales` laid out."""
    shape = swizzled_shape(rows, columns)
    if swizzled.numel() != shape[0] * shape[1]:
        raise ValueError(
            f"{swizzled.numel()} swizzled scales: {rows} x {columns} of them are {shape[0] * shape[1]}"
        )
    atoms = swizzled.contiguous().view(torch.uint8)
    atoms = atoms.view(shape[0] // SCALE_ROWS, shape[1] // SCALE_COLUMNS, 32, 4, SCALE_COLUMNS)
    linear = atoms.permute(0, 3, 2, 1, 4).reshape(shape)
    return linear[:rows, :columns].contiguous().view(swizzled.dtype)


@dataclass(frozen=True, eq=False)
class Nvfp4Tensor:
    """A quantized matrix [R, K].

    Attributes:
        packed: uint8 [R, K/2], two elements a byte, even k in the low nibble.
        scale: float8_e4m3fn in the swizzled layout, of `swizzled_shape(R, K/16)`.
        global_scale: fp32 scalar on the same device.
    """

    packed: Tensor
    scale: Tensor
    global_scale: Tensor

    def __post_init__(self) -> None:
        expected = swizzled_shape(self.shape[0], self.shape[1] // BLOCK)
        if self.packed.dtype != torch.uint8 or self.shape[1] % BLOCK:
            raise ValueError(f"packed is {self.packed.dtype} {tuple(self.packed.shape)}: want uint8 [R, 8 n]")
        if self.scale.dtype != torch.float8_e4m3fn or tuple(self.scale.shape) != expected:
            raise ValueError(
                f"scale is {self.scale.dtype} {tuple(self.scale.shape)}: want float8_e4m3fn {expected}"
            )
        if self.global_scale.dtype != torch.float32 or self.global_scale.numel() != 1:
            raise ValueError(f"global_scale is {self.global_scale.dtype}: want one float32")

    @property
    def shape(self) -> tuple[int, int]:
        """(R, K)"""
        return self.packed.shape[0], 2 * self.packed.shape[1]

    def first_rows(self, rows: int) -> Nvfp4Tensor:
        """Its first `rows` rows, without a copy."""
        padded, _ = swizzled_shape(rows, self.shape[1] // BLOCK)
        return Nvfp4Tensor(self.packed[:rows], self.scale[:padded], self.global_scale)

    def as_bytes(self) -> tuple[Tensor, Tensor]:
        """Elements and swizzled scales as a kernel takes them (see `kernels.family`): both uint8."""
        return self.packed, self.scale.view(torch.uint8)

    def block_scales(self) -> Tensor:
        """The scales row-major, float8_e4m3fn [R, K/16]."""
        return unswizzle_scales(self.scale, self.shape[0], self.shape[1] // BLOCK)


def quantize_to_nvfp4(weight: Tensor) -> Nvfp4Tensor:
    """Quantize a weight [N, K] (bf16, fp16 or fp32), its global scale computed from its largest magnitude.

    Raises `ValueError` for another dtype or rank, an empty weight, a K that is not a multiple of 16, and NaN
    or infinity anywhere.
    """
    _require_quantizable(weight, "weight")
    weight = weight.detach()
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight has a NaN or an infinity: NVFP4 cannot represent it")
    return _quantize(weight, _global_scale(weight))


def quantize_activation_nvfp4(x: Tensor, global_scale: Tensor | None = None) -> Nvfp4Tensor:
    """Quantize activations [M, K] (bf16, fp16 or fp32) without waiting for the device.

    `global_scale` is computed from the finite elements unless given (fp32 scalar, positive); with a given one
    that is too large, blocks saturate at 448 * 6 / global_scale. Raises `ValueError` as `quantize_to_nvfp4`
    does, but for NaN and infinity, which turn their block into NaN.
    """
    _require_quantizable(x, "x")
    if global_scale is None:
        global_scale = _global_scale(x)
    elif global_scale.numel() != 1 or global_scale.dtype != torch.float32:
        raise ValueError(
            f"global_scale is {global_scale.dtype} {tuple(global_scale.shape)}: want one float32"
        )
    return _quantize(x, global_scale.reshape(()))


def dequantize_nvfp4(t: Nvfp4Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The represented values `q * scale / global_scale`, [R, K], computed in `dtype` (fp32 or fp64)."""
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype = {dtype}: want float32 or float64")
    return _elements_times_scales(t, dtype) / t.global_scale.to(dtype)


def dequantize_exact_bf16(t: Nvfp4Tensor) -> Tensor:
    """`q * scale` in bf16, [R, K], exact; the global scale is left to the kernel's alpha."""
    return _elements_times_scales(t, torch.float32).bfloat16()


def gemm_alpha(a: Nvfp4Tensor, b: Nvfp4Tensor) -> Tensor:
    """`1 / (global_scale_a * global_scale_b)` as fp32 [1]: what a product of exact dequantizations lacks."""
    return global_alpha(a.global_scale, b.global_scale)


def global_alpha(*global_scales: Tensor) -> Tensor:
    """1 / the product of the global scales, as fp32 [1]; the product is taken in float64."""
    product = torch.stack([scale.double().reshape(()) for scale in global_scales]).prod()
    return (1.0 / product).float().reshape(1)


def _require_quantizable(x: Tensor, name: str) -> None:
    if x.dtype not in _FLOAT_DTYPES:
        raise ValueError(f"{name} is {x.dtype}: want bfloat16, float16 or float32")
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(f"{name} has the shape {tuple(x.shape)}: want a nonempty matrix")
    if x.shape[1] % BLOCK:
        raise ValueError(f"{name} has K = {x.shape[1]}: must be a multiple of {BLOCK}, one scale's block")


def _global_scale(x: Tensor) -> Tensor:
    amax = torch.where(torch.isfinite(x), x.abs(), 0.0).amax().float()
    scale = (E4M3_MAX * E2M1_MAX / amax).clamp(max=_FLOAT32_MAX)
    return torch.where(amax > 0.0, scale, 1.0)


def _quantize(x: Tensor, global_scale: Tensor) -> Nvfp4Tensor:
    blocks = x.float().reshape(x.shape[0], -1, BLOCK)
    block_amax = blocks.abs().amax(dim=2)
    # Times a reciprocal: torch divides by a number so on CUDA, and otherwise on the CPU.
    scale = (global_scale * block_amax * (1 / E2M1_MAX)).clamp(max=E4M3_MAX)
    scale = torch.where(torch.isfinite(block_amax), scale, torch.nan).to(torch.float8_e4m3fn)
    # A zero scale divides by 1 instead: what it scales is below 6 * 2^-10 and encodes to zeros.
    divisor = scale.float()
    divisor = torch.where(divisor == 0.0, 1.0, divisor)
    codes = encode_e2m1(blocks * global_scale / divisor.unsqueeze(2)).flatten(1)
    return Nvfp4Tensor(pack_e2m1(codes), swizzle_scales(scale), global_scale)


def _elements_times_scales(t: Nvfp4Tensor, dtype: torch.dtype) -> Tensor:
    rows, columns = t.shape
    elements = decode_e2m1(unpack_e2m1(t.packed), dtype).view(rows, columns // BLOCK, BLOCK)
    return (elements * t.block_scales().to(dtype).unsqueeze(2)).flatten(1)

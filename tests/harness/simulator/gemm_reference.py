"""Operands for the Blackwell test GEMMs, and their product in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.nvfp4 import decode_e2m1, pack_e2m1, swizzle_scales, unpack_e2m1, unswizzle_scales
from tests.harness.simulator.gemm_params import GemmParams


def make_operands(params: GemmParams, m: int, n: int, k: int, seed: int = 0) -> list[Tensor]:
    """Random operands in the order of the launch: a, b, and for block-scaled formats their scales.

    Elements are small multiples of a power of two and scales span a factor of 16, so that sums of a few
    hundred products are exact in fp32: only a wrong product differs from the reference.
    """
    if k % params.k_alignment:
        raise ValueError(f"k = {k}: must be a multiple of {params.k_alignment} for {params.format}")
    random = torch.Generator().manual_seed(seed)
    operands = [_elements(params, rows, k, random) for rows in (m, n)]
    if params.scaled:
        columns = k // params.operand.scale_block
        operands += [swizzle_scales(_scales(params, rows, columns, random)).flatten() for rows in (m, n)]
    return operands


def reference(
    params: GemmParams, a: Tensor, b: Tensor, scales_a: Tensor | None = None, scales_b: Tensor | None = None
) -> Tensor:
    """a @ b^T in float64 [M, N], of what the operands represent exactly."""
    return decode(params, a, scales_a) @ decode(params, b, scales_b).T


def decode(params: GemmParams, operand: Tensor, scales: Tensor | None) -> Tensor:
    """The numbers [rows, K] that an operand and its scale factors represent, in float64."""
    if params.operand.bits == 4:
        elements = decode_e2m1(unpack_e2m1(operand), torch.float64)
    elif params.operand.bits == 8:
        elements = operand.view(torch.float8_e4m3fn).double()
    else:
        elements = operand.double()
    if scales is None:
        return elements
    rows, k = elements.shape
    block = params.operand.scale_block
    codes = unswizzle_scales(scales, rows, k // block)
    if params.format == "nvf4":
        factors = codes.view(torch.float8_e4m3fn).double()
    else:
        # ue8m0 is an exponent biased by 127 and nothing else (OCP Microscaling Formats, v1.0, 5.4.1).
        factors = torch.exp2(codes.double() - 127.0)
    return elements * factors.repeat_interleave(block, dim=1)


def _elements(params: GemmParams, rows: int, k: int, random: torch.Generator) -> Tensor:
    """Elements of all magnitudes that a few significant bits allow, as the launch takes them."""
    if params.operand.bits == 4:
        return pack_e2m1(torch.randint(0, 16, (rows, k), generator=random, dtype=torch.uint8))
    eighths = torch.randint(-15, 16, (rows, k), generator=random).float() / 8
    if params.operand.bits == 8:
        return eighths.to(torch.float8_e4m3fn).view(torch.uint8)
    return eighths.to({"f16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}[params.format])


def _scales(params: GemmParams, rows: int, columns: int, random: torch.Generator) -> Tensor:
    """Scale factors as bytes [rows, columns], different from row to row and block to block."""
    if params.format == "nvf4":
        eighths = torch.randint(1, 16, (rows, columns), generator=random).float() / 8
        return eighths.to(torch.float8_e4m3fn).view(torch.uint8)
    return torch.randint(125, 130, (rows, columns), generator=random, dtype=torch.uint8)

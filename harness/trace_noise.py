"""How large NVFP4's rounding errors are, from the unquantized data alone.

Nothing here uses the project's quantizer, so a defect in it cannot widen what is expected of it.

An element x of a block whose scale is s = amax / 6 becomes a multiple of the e2m1 step D s at |x| / s: D is
0.5 below 2, 1 below 4, and 2 above. Rounding to nearest errs uniformly by up to D s / 2, with the variance
(D s)^2 / 12. The scale itself is rounded to e4m3, uniformly by up to half a step of e4m3, a share r of it,
which changes the mean square of D s by 1 + r^2 / 3. The block's largest element is 6 s and would be exact, so
it errs only with the scale: (r x)^2 / 3. The tensor's largest element has the scale 448, which is exact. A
scale that rounds to 0 loses the block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.trace_math import Computed, Signal
from kernels.nvfp4 import E2M1_MAX, E4M3_MAX, Nvfp4Tensor
from kernels.nvfp4_layout import BLOCK

# e4m3: 3 bits of fraction, the smallest normal number 2^-6, the smallest subnormal 2^-9.
E4M3_HALF_STEP = 2.0**-4
E4M3_MIN_EXPONENT = -6
E4M3_SMALLEST = 2.0**-9


def quantization_variance(x: Tensor) -> Tensor:
    """The variance of NVFP4's rounding error of x [R, K], whose global scale is its own: float64 [R, K]."""
    magnitude = x.double().view(len(x), -1, BLOCK).abs()
    amax = magnitude.amax()
    if not amax > 0:
        return torch.zeros_like(x, dtype=torch.float64)
    largest = magnitude.amax(2, keepdim=True)
    encoded = E4M3_MAX * largest / amax  # the block's scale before it is rounded to e4m3
    lost = encoded <= E4M3_SMALLEST / 2
    encoded = torch.where(lost, E4M3_MAX, encoded)
    half_step = 2.0 ** encoded.log2().floor().clamp(min=E4M3_MIN_EXPONENT) * E4M3_HALF_STEP
    share = torch.where(encoded == E4M3_MAX, 0.0, half_step / encoded)
    scale = largest / E2M1_MAX
    step = torch.where(magnitude < 2 * scale, 0.5, torch.where(magnitude < 4 * scale, 1.0, 2.0))
    inner = (step * scale).square() * (1 + share.square() / 3) / 12
    variance = torch.where(magnitude == largest, (share * magnitude).square() / 3, inner)
    return torch.where(lost, magnitude.square(), variance).flatten(1)


def add_product_noise(product: Computed, x: Signal, weight: Tensor, weight_variance: Tensor) -> Computed:
    """`product` = x [R, K] times weight [N, K], with what quantizing both adds to its variance."""
    x_variance = quantization_variance(x.value)
    added = x_variance @ (weight.double().square() + weight_variance).T
    added += x.value.square() @ weight_variance.T
    return Computed(product.value, product.error, product.variance + added)


def saturated_blocks(x: Tensor, quantized: Nvfp4Tensor) -> tuple[int, int]:
    """How many blocks of x [R, K] their quantized form cannot hold, and how many there are.

    A block is saturated when its largest magnitude is above 6 scales by more than the rounding of its e4m3
    scale explains.
    """
    amax = x.double().view(len(x), -1, BLOCK).abs().amax(2)
    wanted = amax * quantized.global_scale.double() / E2M1_MAX
    held = quantized.block_scales().double() * (1 + E4M3_HALF_STEP) + E4M3_SMALLEST / 2
    return int((wanted > held).sum()), amax.numel()

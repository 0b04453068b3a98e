"""The kernels that quantize activations give torch's bits: on a GPU of the target, else in the simulator.

What the torch code itself computes is compared with scalar formulas in `test_nvfp4`.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from harness.compile import CUBIN
from harness.resources import read_resources
from kernels.family import OperandFormat
from kernels.nvfp4 import (
    E2M1_VALUES,
    Nvfp4Tensor,
    decode_e2m1,
    dequantize_exact_bf16,
    encode_e2m1,
    global_alpha,
    quantize_activation_nvfp4,
)
from kernels.nvfp4_layout import BLOCK, swizzled_shape
from kernels.quantize import operands
from tests.kernels.fake_cuda import FakeCuda
from tests.kernels.quantizers import HIDDEN, KERNELS, Quantizers

pytestmark = pytest.mark.compiles

WEIGHT_SCALE = 3.7
CALIBRATED = 41.0  # of normal data, whose own scale is about 700: every block's scale is small
SCALE_COLUMNS = HIDDEN // BLOCK
STEP_ROWS = 1056 * 256 * 8 // HIDDEN  # as many as all threads of 1,056 CTAs take at once, 8 elements each


@pytest.fixture(scope="module", params=["sm_90a", "sm_100a"])
def kernels(request: pytest.FixtureRequest, shared_folder: Path) -> Quantizers:
    with FileLock(shared_folder / "quantizers.lock"):
        return Quantizers(request.param, shared_folder / f"quantizers-{request.param}")


def normal(m: int, seed: int, spread: float = 0.0) -> torch.Tensor:
    """Normal values, every element times exp(normal * spread)."""
    generator = torch.Generator().manual_seed(seed)
    print(f"seed {seed}")
    values = torch.randn(m, HIDDEN, generator=generator)
    return (values * torch.exp(spread * torch.randn(m, HIDDEN, generator=generator))).bfloat16()


def with_non_finite() -> torch.Tensor:
    x = normal(5, 2, spread=4.0)
    x[0, 3], x[1, 40], x[2, 17], x[4, 191] = (float(v) for v in ("nan", "inf", "-inf", "-nan"))
    return x


def every_bf16() -> torch.Tensor:
    """All 65,536 of them, in an order that mixes magnitudes within a block, and zeros at the end."""
    bits = torch.randperm(1 << 16, generator=torch.Generator().manual_seed(3)).short()
    rows = -(-len(bits) // HIDDEN)
    return (
        torch.nn.functional.pad(bits, (0, rows * HIDDEN - len(bits))).view(rows, HIDDEN).view(torch.bfloat16)
    )


def ties() -> torch.Tensor:
    """Values halfway between two of e2m1's under a scale of 1, both zeros, and in two rows an ulp beside."""
    middles = torch.tensor([(a + b) / 2 for a, b in pairwise(E2M1_VALUES)] + [6.0])
    block = torch.cat((middles, -middles)).bfloat16()
    x = torch.zeros(4, HIDDEN, dtype=torch.bfloat16)
    x[0, :16], x[0, 16] = block, -0.0
    for row, ulp in ((1, 1), (2, -1)):
        x[row, :16] = (block.view(torch.int16) + ulp).view(torch.bfloat16)
    x[3, 0] = 448 * 6  # the tensor's largest: a global scale of 1
    return x


CASES = {
    "one token": lambda: normal(1, 0),
    "a tile of scales": lambda: normal(128, 1),
    "a tile and a tail": lambda: normal(130, 1),
    "every magnitude": lambda: normal(37, 2, spread=8.0),
    "NaN and infinities": with_non_finite,
    "nothing finite": lambda: torch.full((2, HIDDEN), float("nan")).bfloat16(),
    "zeros": lambda: torch.zeros(3, HIDDEN).bfloat16(),
    "denormals": lambda: (normal(3, 4).float() * 1e-39).bfloat16(),
    "huge": lambda: (normal(3, 5).float() * 1e38).bfloat16(),
    "every bf16": every_bf16,
    "ties": ties,
    "more than one step": lambda: normal(STEP_ROWS + 50, 6),
}


def poison(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    return (
        torch.full(shape, 0xAA, dtype=torch.uint8, device=device)
        .repeat_interleave(dtype.itemsize, -1)
        .view(dtype)
    )


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit, but for what kind of NaN a NaN is."""
    one, other = one.cpu(), other.cpu()
    if one.dtype == torch.uint8:
        return torch.equal(one, other)
    return bool(((one == other) & (one.signbit() == other.signbit()) | one.isnan() & other.isnan()).all())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("output", list(OperandFormat))
def test_quantized_as_torch_does(
    kernels: Quantizers, output: OperandFormat, calibrated: bool, case: str
) -> None:
    given = torch.full((1,), CALIBRATED) if calibrated else None
    compare_with_torch(kernels, output, CASES[case](), given)


def test_a_thread_may_take_many_vectors(kernels: Quantizers) -> None:
    """Four at a time to find the largest magnitude, which is in the last row here."""
    x = normal(4 * STEP_ROWS + 50, 7)
    x[-1, -1] = 50.0
    compare_with_torch(kernels, OperandFormat.NVFP4, x, None)


def compare_with_torch(
    kernels: Quantizers, output: OperandFormat, x: torch.Tensor, given: torch.Tensor | None
) -> None:
    m, calibrated = len(x), given is not None
    expected = quantize_activation_nvfp4(x, given)
    weight_scale, device = torch.full((1,), WEIGHT_SCALE), kernels.device
    global_scale, alpha = (poison((1,), torch.float32, device) for _ in range(2))
    if given is not None:
        global_scale.copy_(given)
    partials = poison((operands.partial_count(),), torch.int32, device)
    if output is OperandFormat.NVFP4:
        shapes = (m, HIDDEN // 2), swizzled_shape(m, SCALE_COLUMNS)
        operand = tuple(poison(shape, torch.uint8, device) for shape in shapes)
        wanted = expected.as_bytes()
    else:
        operand = (poison((m, HIDDEN), torch.bfloat16, device),)
        wanted = (dequantize_exact_bf16(expected),)
    launch = kernels[f"{output}{', calibrated' * calibrated}"]
    launch(x.to(device), weight_scale.to(device), global_scale, partials, *operand, alpha)
    assert all(same(made, its) for made, its in zip(operand, wanted, strict=True))
    assert same(global_scale, expected.global_scale.reshape(1))
    assert same(alpha, global_alpha(expected.global_scale, weight_scale))


@pytest.mark.parametrize("m", [1, 5, 131])
def test_dequantized_as_torch_does(kernels: Quantizers, m: int) -> None:
    """Every code under every scale, negative ones and NaN too."""
    generator = torch.Generator().manual_seed(m)
    packed = torch.randint(0, 256, (m, HIDDEN // 2), generator=generator, dtype=torch.uint8)
    scale = torch.randint(0, 256, swizzled_shape(m, SCALE_COLUMNS), generator=generator, dtype=torch.uint8)
    t = Nvfp4Tensor(packed, scale.view(torch.float8_e4m3fn), torch.tensor(0.3))
    device, weight_scale = kernels.device, torch.full((1,), WEIGHT_SCALE)
    elements, alpha = poison((m, HIDDEN), torch.bfloat16, device), poison((1,), torch.float32, device)
    given = (*t.as_bytes(), weight_scale, t.global_scale.reshape(1))
    kernels["dequantizer"](*(each.to(device) for each in given), elements, alpha)
    assert same(elements, dequantize_exact_bf16(t))
    assert same(alpha, global_alpha(t.global_scale, weight_scale))


@pytest.mark.parametrize("global_scales", [(1.0, 3.7), (1e-30, 7e29), (2e38, 3e38)])
def test_alpha_as_torch_computes_it(kernels: Quantizers, global_scales: tuple[float, ...]) -> None:
    scales, device = [torch.full((1,), scale) for scale in global_scales], kernels.device
    alpha = poison((1,), torch.float32, device)
    kernels["alpha"](*(scale.to(device) for scale in scales), alpha)
    assert same(alpha, global_alpha(*scales))


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_spills(kernels: Quantizers, name: str) -> None:
    if kernels.on_gpu:
        pytest.skip("a compiled function keeps no cubin to read")
    cubin = (kernels.folder / name / CUBIN).read_bytes()
    assert all(entry.local_bytes == 0 for entry in read_resources(cubin))


def near_thresholds() -> tuple[torch.Tensor, torch.Tensor]:
    """Dividends [n] within 8 ulp of where a code begins, under every e4m3 scale, and the scales [n]."""
    scales = torch.arange(1, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middles = torch.tensor([(a + b) / 2 for a, b in pairwise(E2M1_VALUES)])
    bits = (scales.unsqueeze(1) * middles).view(torch.int32).unsqueeze(2) + torch.arange(-8, 9).int()
    y = bits.view(torch.float32)
    return y.flatten(), scales.view(-1, 1, 1).expand_as(y).flatten()


def test_one_correction_gives_the_rounded_quotient() -> None:
    """Of a product with the reciprocal, in exact arithmetic but for what `round_e2m1` rounds."""
    y, scale = near_thresholds()
    product, reciprocal, quotient = y * (1 / scale), 1 / scale, y / scale
    below, above = (quotient.nextafter(torch.tensor(end)) for end in (0.0, torch.inf))
    columns = (each.tolist() for each in (y, scale, product, reciprocal, below, quotient, above))
    for exact in zip(*columns, strict=True):
        y_, scale_, product_, reciprocal_, below_, quotient_, above_ = map(Fraction, exact)
        residual = y_ - product_ * scale_
        assert Fraction(torch.tensor(float(residual), dtype=torch.float32).item()) == residual
        corrected = product_ + residual * reciprocal_
        assert (below_ + quotient_) / 2 < corrected < (quotient_ + above_) / 2


def test_a_sum_rounds_a_quotient_to_e2m1() -> None:
    from kernels.quantize.formats import EXPONENT, TO_HALVES

    y, scale = near_thresholds()
    quotient = torch.cat((y / scale, torch.arange(0, 6, 2**-12))).clamp(max=6.0)
    power = quotient.clamp(min=1.0).view(torch.int32) & EXPONENT
    large = (power + TO_HALVES).view(torch.float32)
    assert torch.equal((quotient + large) - large, decode_e2m1(encode_e2m1(quotient)))


@pytest.mark.parametrize("output", list(OperandFormat))
@pytest.mark.parametrize("calibrated", [False, True])
def test_the_wrappers_operands_are_the_kernels(
    kernels: Quantizers, output: OperandFormat, calibrated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch and by kernels, through the functions that the wrapper calls."""
    x, weight_scale = normal(130, 8).to(kernels.device), torch.tensor(WEIGHT_SCALE, device=kernels.device)
    given = torch.tensor(CALIBRATED, device=kernels.device) if calibrated else None
    t = quantize_activation_nvfp4(x, given)

    def every_way() -> list[torch.Tensor]:
        operand, alpha = operands.quantized_operand(x, weight_scale, output, given)
        dequantized = operands.dequantized_operand(t, weight_scale)
        return [*operand, alpha, *dequantized, operands.alpha_of(t.global_scale, weight_scale)]

    monkeypatch.setattr(operands, "_by_kernels", lambda tensor: False)
    by_torch = every_way()
    monkeypatch.setattr(operands, "_by_kernels", lambda tensor: True)
    monkeypatch.setattr(operands, "_launcher", kernels.find)
    if not kernels.on_gpu:
        FakeCuda(monkeypatch)
    by_kernels = every_way()
    assert [(t.dtype, t.shape) for t in by_kernels] == [(t.dtype, t.shape) for t in by_torch]
    assert all(same(one, other) for one, other in zip(by_kernels, by_torch, strict=True))


@pytest.mark.parametrize("name", ["nvfp4", "bf16"])
def test_threads_do_not_race(kernels: Quantizers, name: str) -> None:
    if kernels.on_gpu:
        pytest.skip("a GPU cannot say")
    x = normal(3, 9)
    one = [torch.empty(1) for _ in range(3)]
    operand = (
        [torch.empty(3, HIDDEN // 2, dtype=torch.uint8), torch.empty(128, SCALE_COLUMNS, dtype=torch.uint8)]
        if name == "nvfp4"
        else [torch.empty_like(x)]
    )
    partials = torch.empty(operands.partial_count(), dtype=torch.int32)
    kernels.program(name, races=True)(x, torch.ones(1), one[0], partials, *operand, one[1])


def test_a_hidden_size_whose_scales_are_no_whole_words_is_refused() -> None:
    from kernels.quantize.launch import compile_quantizer

    with pytest.raises(ValueError, match=r"hidden = 80: must be a multiple of 64, whole words of scales"):
        compile_quantizer(80, OperandFormat.BF16, calibrated=False)


def test_too_many_elements_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operands, "_by_kernels", lambda tensor: True)
    x = torch.empty(600_000, 7168, dtype=torch.bfloat16, device="meta")
    with pytest.raises(ValueError, match=r"activations of shape \(600000, 7168\): at most 2\^32 elements"):
        operands.quantized_operand(x, torch.ones(1), OperandFormat.BF16)

"""The NVFP4 format, against scalar formulas written independently of the vectorized code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.nvfp4 import (
    E2M1_VALUES,
    Nvfp4Tensor,
    decode_e2m1,
    dequantize_exact_bf16,
    dequantize_nvfp4,
    encode_e2m1,
    gemm_alpha,
    pack_e2m1,
    quantize_activation_nvfp4,
    quantize_to_nvfp4,
    swizzle_scales,
    unpack_e2m1,
    unswizzle_scales,
)
from kernels.nvfp4_layout import BLOCK, swizzled_shape

CODES = torch.arange(16, dtype=torch.uint8)
E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)


def normal(rows: int, k: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed)) * scale


def nearest_even_code(x: float) -> int:
    """Brute force: the nearest of the eight magnitudes, of two as near the one with the even code."""
    magnitude = abs(x)
    best = min(range(8), key=lambda code: (abs(E2M1_VALUES[code] - magnitude), code % 2))
    return best | (8 if math.copysign(1.0, x) < 0 else 0)


def e4m3_value(byte: int) -> float:
    """e4m3fn from its definition: bias 7, no infinities, S.1111.111 is NaN."""
    sign, exponent, mantissa = byte >> 7, byte >> 3 & 0xF, byte & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    magnitude = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -magnitude if sign else magnitude


def test_every_e2m1_code_survives_decode_and_encode() -> None:
    assert torch.equal(encode_e2m1(decode_e2m1(CODES)), CODES)
    assert decode_e2m1(CODES).tolist() == [*E2M1_VALUES, *(-v for v in E2M1_VALUES)]
    assert torch.signbit(decode_e2m1(CODES)).tolist() == [False] * 8 + [True] * 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_decoded_values_are_exact_in_any_dtype(dtype: torch.dtype) -> None:
    values = decode_e2m1(CODES, dtype)
    assert values.dtype == dtype
    assert values.tolist() == [*E2M1_VALUES, *(-v for v in E2M1_VALUES)]
    assert torch.signbit(values).tolist() == [False] * 8 + [True] * 8


@pytest.mark.parametrize(
    ("x", "value"),
    [(0.25, 0.0), (0.75, 1.0), (1.25, 1.0), (1.75, 2.0), (2.5, 2.0), (3.5, 4.0), (5.0, 4.0)],
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rounding_ties_go_to_the_even_code(x: float, value: float, sign: float) -> None:
    tie = torch.tensor([sign * x])
    below, above = torch.nextafter(tie, tie * 0), torch.nextafter(tie, tie * 9)
    index = E2M1_VALUES.index(value)
    low, high = (index, index + 1) if value < x else (index - 1, index)
    got = decode_e2m1(encode_e2m1(torch.cat((below, tie, above))))
    assert (got * sign).tolist() == [E2M1_VALUES[low], value, E2M1_VALUES[high]]


@given(st.floats(width=32, allow_nan=False))
def test_encode_is_the_nearest_code(x: float) -> None:
    # Past 6 every code is "nearest" to 6 only after saturation; brute force needs the clamp spelled out.
    expected = nearest_even_code(math.copysign(min(abs(x), 6.0), x))
    assert encode_e2m1(torch.tensor([x])).item() == expected


def test_encode_of_nan_is_a_zero() -> None:
    assert encode_e2m1(torch.tensor([math.nan])).item() & 7 == 0


def test_even_k_is_the_low_nibble() -> None:
    packed = pack_e2m1(torch.tensor([[0x1, 0xA, 0xF, 0x0]], dtype=torch.uint8))
    assert packed.tolist() == [[0xA1, 0x0F]]
    assert unpack_e2m1(packed).tolist() == [[0x1, 0xA, 0xF, 0x0]]


def test_every_e4m3_byte_has_the_value_of_its_definition() -> None:
    expected = torch.tensor([e4m3_value(byte) for byte in range(256)])
    torch.testing.assert_close(E4M3.float(), expected, rtol=0, atol=0, equal_nan=True)


def test_every_product_of_an_e2m1_and_an_e4m3_is_exact_in_bf16() -> None:
    scales = E4M3.float()[~E4M3.float().isnan()]
    products = decode_e2m1(CODES)[:, None].double() * scales[None, :].double()
    assert torch.equal(products.bfloat16().double(), products)


@settings(deadline=None)
@given(rows=st.integers(1, 300), columns=st.integers(1, 21), seed=st.integers(0, 2**31))
def test_swizzle_follows_the_formula_and_comes_back(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    linear = torch.randint(0, 256, (rows, columns), dtype=torch.uint8, generator=generator)
    swizzled = swizzle_scales(linear)
    assert tuple(swizzled.shape) == swizzled_shape(rows, columns)
    flat = swizzled.flatten().tolist()
    for r in {0, rows // 3, rows // 2, rows - 1, min(rows - 1, 127), min(rows - 1, 128)}:
        for c in range(columns):
            offset = ((r // 128) * -(-columns // 4) + c // 4) * 512
            offset += (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4
            assert flat[offset] == linear[r, c]
    assert swizzled.sum() == linear.sum(), "padding is zero"
    assert torch.equal(unswizzle_scales(swizzled, rows, columns), linear)


def test_unswizzle_refuses_the_wrong_size() -> None:
    with pytest.raises(ValueError, match="512 swizzled scales: 129 x 4 of them are 1024"):
        unswizzle_scales(torch.zeros(128, 4, dtype=torch.uint8), 129, 4)


def golden_row() -> torch.Tensor:
    row = torch.zeros(1, 48)
    row[0, :4] = torch.tensor([2688.0, 448.0, -224.0, 1400.0])
    row[0, 16:26] = torch.tensor([6.0, -5.0, 3.5, 2.5, 1.75, 1.25, 0.75, 0.25, -0.25, 0.3])
    row[0, 32:36] = torch.tensor([6.5, -6.5, 1.0, 0.3])
    return row


def test_golden_example() -> None:
    """Worked by hand. amax = 2688 = 448 * 6, so the global scale is 1 and does not show.

    Block 0: amax 2688, scale 2688 / 6 = 448, bits 0.1111.110 = 0x7E.
        2688 / 448 = 6 (code 7); 448 / 448 = 1 (2); -224 / 448 = -.5 (1 + 8); 1400 / 448 = 3.125 -> 3 (5)
        bytes, even k low: 0x27, 0x59.
    Block 1: amax 6, scale 1, bits 0.0111.000 = 0x38.
        6 (7); -5 tie -> -4 (6 + 8); 3.5 tie -> 4 (6); 2.5 tie -> 2 (4); 1.75 tie -> 2 (4); 1.25 tie -> 1 (2);
        .75 tie -> 1 (2); .25 tie -> 0 (0); -.25 tie -> -0 (0 + 8); .3 -> .5 (1)
        bytes: 0xE7, 0x46, 0x24, 0x02, 0x18.
    Block 2: amax 6.5, 6.5 / 6 = 1.0833 lies between 1 and 1.125, nearer to 1.125, bits 0.0111.001 = 0x39.
        6.5 / 1.125 = 5.78 -> 6 (7), which stands for 6.75; -6.5 (7 + 8); 1 / 1.125 = .889 -> 1 (2), which
        stands for 1.125; .3 / 1.125 = .267 -> .5 (1), which stands for .5625
        bytes: 0xF7, 0x12.
    """
    t = quantize_to_nvfp4(golden_row())
    assert t.shape == (1, 48)
    assert t.global_scale.item() == 1.0
    expected = bytes([0x27, 0x59]) + bytes(6) + bytes([0xE7, 0x46, 0x24, 0x02, 0x18]) + bytes(3)
    expected += bytes([0xF7, 0x12]) + bytes(6)
    assert bytes(t.packed[0].tolist()) == expected
    assert t.block_scales().view(torch.uint8).tolist() == [[0x7E, 0x38, 0x39]]
    values = torch.zeros(1, 48)
    values[0, :4] = torch.tensor([2688.0, 448.0, -224.0, 1344.0])
    values[0, 16:26] = torch.tensor([6.0, -4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.5])
    values[0, 32:36] = torch.tensor([6.75, -6.75, 1.125, 0.5625])
    assert torch.equal(dequantize_nvfp4(t), values)
    assert torch.equal(dequantize_exact_bf16(t).float(), values)


def test_global_scale_divides_out() -> None:
    """The golden row times 2^-9 has the global scale 2^9 and the same codes."""
    t = quantize_to_nvfp4(golden_row() * 2.0**-9)
    golden = quantize_to_nvfp4(golden_row())
    assert t.global_scale.item() == 2.0**9
    assert torch.equal(t.packed, golden.packed)
    assert torch.equal(dequantize_nvfp4(t, torch.float64), dequantize_nvfp4(golden, torch.float64) * 2.0**-9)
    assert gemm_alpha(t, golden).tolist() == [2.0**-9]


def scalar_quantize(x: torch.Tensor, global_scale: float) -> tuple[list[list[int]], list[list[float]]]:
    """Codes and scales by DESIGN's formulas, one element at a time, in fp32."""
    gs = torch.tensor(global_scale)
    codes, scales = [], []
    for row in x:
        row_codes, row_scales = [], []
        for block in row.split(BLOCK):
            raw = float(gs * block.abs().max() / 6)
            finite = [v for v in E4M3.float().tolist() if v >= 0]
            # Round to nearest; of two as near the one with the even mantissa, which has the even byte.
            scale = min(finite, key=lambda v: (abs(v - min(raw, 448.0)), finite.index(v) % 2))
            row_scales.append(scale)
            row_codes += [
                nearest_even_code(max(-6.0, min(6.0, float(gs * v / scale)))) if scale else 0 for v in block
            ]
        codes.append(row_codes)
        scales.append(row_scales)
    return codes, scales


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1.0, 1e-6, 3e4])
def test_quantize_matches_the_scalar_formulas(seed: int, scale: float) -> None:
    x = normal(3, 64, seed, scale)
    t = quantize_to_nvfp4(x)
    assert t.global_scale.item() == pytest.approx(2688.0 / x.abs().max().item(), rel=1e-6)
    codes, scales = scalar_quantize(x, t.global_scale.item())
    assert t.block_scales().float().tolist() == scales
    values = decode_e2m1(torch.tensor(codes, dtype=torch.uint8))
    assert torch.equal(decode_e2m1(unpack_e2m1(t.packed)), values)


@settings(deadline=None)
@given(
    x=st.lists(st.floats(-65504, 65504, width=16), min_size=32, max_size=32),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
def test_error_is_within_a_step_of_the_block(x: list[float], dtype: torch.dtype) -> None:
    """Half of e2m1's widest step is 1 of 6; the e4m3 scale adds 2^-4 relative, or 2^-10 absolute if tiny."""
    values = torch.tensor([x], dtype=dtype)
    t = quantize_to_nvfp4(values)
    amax = values.float().view(2, 16).abs().amax(1).double()
    error = (dequantize_nvfp4(t, torch.float64) - values.double()).view(2, 16).abs().amax(1)
    tiny = 6 * 2.0**-10 / t.global_scale.double()
    assert bool((error <= amax / 6 * 1.07 + amax * 0.0665 + tiny).all())


def test_zero_tensor_has_global_scale_one() -> None:
    t = quantize_to_nvfp4(torch.zeros(2, 32))
    assert t.global_scale.item() == 1.0
    assert not t.packed.any()
    assert not t.scale.view(torch.uint8).any()
    assert not dequantize_nvfp4(t).any()


def test_zero_and_negligible_blocks_become_zeros() -> None:
    x = torch.zeros(1, 48)
    x[0, 0] = 2688.0
    x[0, 16:32] = 1e-4  # scale 1.7e-5, far below e4m3's smallest, 2^-9
    t = quantize_to_nvfp4(x)
    assert t.block_scales().float().tolist() == [[448.0, 0.0, 0.0]]
    assert torch.equal(dequantize_nvfp4(t), x.where(x > 1.0, 0.0))


@pytest.mark.parametrize("position", [0, 15, 16, 31])
def test_single_outlier_is_exact_and_crushes_only_its_block(position: int) -> None:
    x = torch.full((1, 32), 1.0)
    x[0, position] = 1000.0
    t = quantize_to_nvfp4(x)
    got = dequantize_nvfp4(t)
    assert got[0, position].item() == pytest.approx(1000.0, rel=1e-6)
    inside = position // 16
    assert not got.view(2, 16)[inside].where(torch.arange(16) != position % 16, 0.0).any()
    # The other block's scale: 448 * 6 / 1000 / 6 = .448, in e4m3 .4375; 2.688 / .4375 = 6.144 -> 6.
    torch.testing.assert_close(got.view(2, 16)[1 - inside], torch.full((16,), 6 * 0.4375 / 2.688))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_weight_is_refused_and_activation_spoils_its_block_only(bad: float) -> None:
    x = normal(2, 64, seed=5)
    clean = quantize_activation_nvfp4(x)
    x[1, 20] = bad
    with pytest.raises(ValueError, match="NaN or an infinity"):
        quantize_to_nvfp4(x)
    spoilt = dequantize_nvfp4(quantize_activation_nvfp4(x, clean.global_scale))
    assert spoilt[1, 16:32].isnan().all()
    spoilt[1, 16:32] = dequantize_nvfp4(clean)[1, 16:32]
    assert torch.equal(spoilt, dequantize_nvfp4(clean))


def test_computed_global_scale_ignores_non_finite_elements() -> None:
    x = torch.ones(1, 32)
    x[0, 0], x[0, 1] = math.inf, math.nan
    assert quantize_activation_nvfp4(x).global_scale.item() == 2688.0


def test_given_global_scale_saturates() -> None:
    t = quantize_activation_nvfp4(torch.full((1, 16), 100.0), torch.tensor(2688.0))
    assert dequantize_nvfp4(t).tolist() == [[1.0] * 16]


@pytest.mark.parametrize("amax", [1e-42, 1e-38, 3.0e38])
def test_extreme_magnitudes_stay_finite(amax: float) -> None:
    x = torch.full((1, 16), amax)
    t = quantize_to_nvfp4(x)
    torch.testing.assert_close(dequantize_nvfp4(t, torch.float64), x.double(), rtol=0.04, atol=1e-41)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 8), "K = 8"), ((2, 17), "K = 17"), ((2, 24), "K = 24"), ((0, 16), "nonempty"), ((16,), "matrix")],
)
def test_odd_sizes_are_refused(shape: tuple[int, ...], message: str) -> None:
    for quantize in (quantize_to_nvfp4, quantize_activation_nvfp4):
        with pytest.raises(ValueError, match=message):
            quantize(torch.zeros(shape))


def test_wrong_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float64: want bfloat16"):
        quantize_to_nvfp4(torch.zeros(1, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match="want one float32"):
        quantize_activation_nvfp4(torch.zeros(1, 16), torch.ones(2))
    with pytest.raises(ValueError, match="want float32 or float64"):
        dequantize_nvfp4(quantize_to_nvfp4(torch.zeros(1, 16)), torch.bfloat16)


def test_tensor_refuses_parts_that_do_not_fit() -> None:
    good = quantize_to_nvfp4(normal(2, 32, seed=1))
    with pytest.raises(ValueError, match=r"want float8_e4m3fn \(128, 4\)"):
        Nvfp4Tensor(good.packed, good.scale[:64], good.global_scale)
    with pytest.raises(ValueError, match="want uint8"):
        Nvfp4Tensor(good.packed.int(), good.scale, good.global_scale)
    with pytest.raises(ValueError, match="want one float32"):
        Nvfp4Tensor(good.packed, good.scale, good.global_scale.double())


def test_no_rows_are_dequantized_to_no_rows() -> None:
    none = quantize_to_nvfp4(normal(3, 48, seed=1)).first_rows(0)
    assert none.block_scales().shape == (0, 3)
    assert dequantize_exact_bf16(none).shape == (0, 48)
    assert dequantize_nvfp4(none).shape == (0, 48)

"""The reference of the Blackwell test GEMMs against a product written out number by number."""

from __future__ import annotations

import pytest

from kernels.nvfp4 import E2M1_VALUES
from tests.harness.simulator.gemm_params import FORMATS, GemmParams
from tests.harness.simulator.gemm_reference import make_operands, reference


def e4m3(code: int) -> float:
    """The value of an e4m3 byte (OCP 8-bit Floating Point Specification, table 1)."""
    exponent, mantissa = (code >> 3) & 15, code & 7
    value = 2.0 ** (exponent - 7) * (1 + mantissa / 8) if exponent else 2.0**-6 * mantissa / 8
    return -value if code & 128 else value


def element(params: GemmParams, operand: list[list[float]], row: int, k: int) -> float:
    if params.operand.bits == 4:
        code = int(operand[row][k // 2]) >> (4 * (k % 2)) & 15
        return -E2M1_VALUES[code & 7] if code & 8 else E2M1_VALUES[code & 7]
    return e4m3(int(operand[row][k])) if params.operand.bits == 8 else operand[row][k]


def scale(params: GemmParams, scales: list[int], row: int, k: int, columns: int) -> float:
    """The factor at DESIGN.md's offset of the swizzled layout."""
    c = k // params.operand.scale_block
    offset = (row // 128 * -(-columns // 4) + c // 4) * 512 + row % 32 * 16 + row % 128 // 32 * 4 + c % 4
    return e4m3(scales[offset]) if params.format == "nvf4" else 2.0 ** (scales[offset] - 127)


@pytest.mark.parametrize("name", FORMATS)
def test_reference_is_the_sum_of_products(name: str) -> None:
    params = GemmParams(name)
    m, n, k = 131, 133, 3 * params.k_alignment
    operands = make_operands(params, m, n, k, seed=1)
    product = reference(params, *operands)
    a, b, *scales = (operand.tolist() for operand in operands)
    columns = k // params.operand.scale_block if params.scaled else 0

    def value(operand: list[list[float]], side: int, row: int, i: int) -> float:
        factor = scale(params, scales[side], row, i, columns) if scales else 1.0
        return element(params, operand, row, i) * factor

    for row, column in ((0, 0), (1, 132), (33, 64), (95, 127), (130, 128)):
        expected = sum(value(a, 0, row, i) * value(b, 1, column, i) for i in range(k))
        assert product[row, column].item() == pytest.approx(expected, rel=1e-14)


def test_operands_depend_on_the_seed_only() -> None:
    params = GemmParams("nvf4")
    first, again, other = (make_operands(params, 20, 24, 64, seed) for seed in (3, 3, 4))
    assert all(bool((x == y).all()) for x, y in zip(first, again, strict=True))
    assert any(bool((x != y).any()) for x, y in zip(first, other, strict=True))


def test_k_that_tma_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match="k = 40: must be a multiple of 32"):
        make_operands(GemmParams("nvf4"), 8, 8, 40)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        (GemmParams("f15"), "format = 'f15'"),
        (GemmParams(mma_n=96), "mma_n = 96"),
        (GemmParams(two_cta=True, cluster=(1, 2)), "even number along M"),
        (GemmParams(stages=0), "stages = 0"),
        (GemmParams(mma_n=256, stages=5), "bytes of shared memory"),
    ],
)
def test_illegal_params_say_why(params: GemmParams, reason: str) -> None:
    assert reason in params.why_illegal()

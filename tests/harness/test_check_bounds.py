"""The accumulation bound holds for a truncating tensor core, in any split of K, and is not idle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.check_bounds import MMA_K, accumulate, expect
from harness.check_cases import Draw, generate, nvfp4_every_expert
from kernels.nvfp4 import dequantize_exact_bf16, quantize_to_nvfp4
from kernels.problem import PRESETS, Score, preset

HIDDEN, ROWS = 7168, 24


def truncate(x: Tensor, bits: int, exponent: Tensor) -> Tensor:
    """x towards zero to a multiple of 2^(exponent - bits)."""
    return torch.ldexp(torch.trunc(torch.ldexp(x, bits - exponent)), exponent - bits)


def tensor_core(a: Tensor, b: Tensor) -> Tensor:
    """a @ b^T as Hopper's tensor core adds: 16 exact products a step, aligned, truncated, summed, truncated.

    Terms keep 25 bits below the largest exponent, the sum 24 significant bits.
    """
    accumulator = torch.zeros(len(a), len(b), dtype=torch.float64)
    for k in range(0, a.shape[1], MMA_K):
        products = a[:, None, k : k + MMA_K].double() * b[None, :, k : k + MMA_K].double()
        terms = torch.cat((accumulator[:, :, None], products), dim=2)
        largest = torch.frexp(terms.abs().amax(2, keepdim=True)).exponent
        total = truncate(terms, 26, largest).sum(2)
        accumulator = truncate(total, 24, torch.frexp(total).exponent)
    return accumulator


def operands(kind: str, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(ROWS, HIDDEN, generator=generator) for _ in range(2))
    if kind == "positive":
        a, b = a.abs(), b.abs()
    if kind == "outliers":
        a, b = (x * torch.exp(1.5 * torch.randn(ROWS, HIDDEN, generator=generator)) for x in (a, b))
    if kind == "nvfp4":
        return dequantize_exact_bf16(quantize_to_nvfp4(a)), dequantize_exact_bf16(quantize_to_nvfp4(b))
    return a.bfloat16(), b.bfloat16()


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("kind", ["normal", "positive", "outliers", "nvfp4"])
def test_bound_holds_for_a_truncating_tensor_core(kind: str, splits: int) -> None:
    a, b = operands(kind, seed=splits)
    exact, bound = accumulate(a, b)
    torch.testing.assert_close(exact, a.double() @ b.double().T, rtol=1e-12, atol=1e-9)
    part = HIDDEN // splits
    total = torch.zeros(ROWS, ROWS)
    for k in range(0, HIDDEN, part):
        total += tensor_core(a[:, k : k + part], b[:, k : k + part]).float()
    ratio = ((total.double() - exact).abs() / bound).max().item()
    assert ratio < 0.5, f"error / bound = {ratio}"
    if splits == 1 and kind == "positive":
        assert ratio > 0.05, "truncation of a growing sum comes within 20 times of the bound"


def test_bound_is_far_below_the_worst_case_over_signs() -> None:
    a, b = operands("normal", seed=9)
    _, bound = accumulate(a, b)
    worst_case = HIDDEN * 2.0**-24 * (a.abs().double() @ b.abs().double().T)
    assert (worst_case / bound).min().item() > 50
    assert (bound / HIDDEN**0.5).mean().item() < 3e-4, "in standard deviations of the logits"


def test_k_in_one_step_and_not_a_multiple_of_the_group() -> None:
    for hidden in (16, 48, 144):
        a, b = (torch.ones(2, hidden).bfloat16() for _ in range(2))
        exact, bound = accumulate(a, b)
        assert exact.tolist() == [[float(hidden)] * 2] * 2
        assert bound.tolist() == [[2.0**-22 * (hidden // 16 + 4) * hidden] * 2] * 2


@pytest.mark.parametrize("name", PRESETS)
def test_expected_errors_are_finite_and_small_on_finite_data(name: str) -> None:
    problem = replace(preset(name), hidden=256)
    for inputs in generate(
        problem, seed=1, device=torch.device("cpu"), tail_unit=128, only=("normal", "nvfp4")
    ):
        expected = expect(inputs, problem)
        assert (expected.score_errors <= 3e-4 * expected.scores + 2.0**-126).all()
        assert (expected.score_errors > 0).all()
        if problem.score is not Score.SOFTMAX:
            assert (expected.key_errors < 1e-4).all()


def test_exact_and_non_finite_keys_have_no_error() -> None:
    problem = replace(preset("kimi-k2"), hidden=64)
    for inputs in generate(
        problem, seed=2, device=torch.device("cpu"), tail_unit=64, only=("ties", "non_finite")
    ):
        expected = expect(inputs, problem)
        assert expected.keys.isfinite().all()
        if inputs.exact:
            assert not expected.key_errors.any()
        else:
            lowest = expected.keys == -1e300
            assert lowest[0].all(), "a row of NaN"
            assert not expected.key_errors[lowest].any()


@pytest.mark.parametrize("name", PRESETS)
def test_every_expert_is_chosen_somewhere(name: str) -> None:
    """Otherwise a fault in one expert's weight could hide in NVFP4 data."""
    problem = replace(preset(name), hidden=1024)
    rows = -(-problem.experts // problem.top_k)
    drawn = nvfp4_every_expert(Draw(problem, torch.Generator().manual_seed(8), max(160, rows)))
    assert expect(drawn, problem).ids.unique().tolist() == list(range(problem.experts))

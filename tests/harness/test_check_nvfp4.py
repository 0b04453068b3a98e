"""The check of a kernel with NVFP4 operands: every distribution quantized, misread operands found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.check import check_router
from harness.check_cases import DISTRIBUTIONS, generate
from harness.operands import random_inputs
from harness.record import CheckResult
from kernels.family import OperandFormat
from kernels.nvfp4 import Nvfp4Tensor, dequantize_exact_bf16
from kernels.nvfp4_layout import SCALE_ROWS
from kernels.problem import PRESETS, RouterProblem, preset
from tests.harness.emulated_router import EmulatedRouter

SMALL = replace(preset("deepseek-v4-pro"), hidden=256)
Bytes = tuple[Tensor, Tensor]


def dequantize(packed: Tensor, scale: Tensor) -> Tensor:
    return dequantize_exact_bf16(Nvfp4Tensor(packed, scale.view(torch.float8_e4m3fn), torch.ones(())))


class Nvfp4Router(EmulatedRouter):
    """The emulated router behind the launch of a kernel with NVFP4 operands; `change` plants a fault in b."""

    def __init__(self, problem: RouterProblem, change: Callable[[Bytes], Bytes] = lambda b: b) -> None:
        super().__init__(problem)
        self.change = change

    def __call__(self, a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, *rest: Tensor) -> None:  # type: ignore[override]
        super().__call__(dequantize(a, a_scale), dequantize(*self.change((b, b_scale))), *rest)


def check(launch: Nvfp4Router, seed: int = 5, **options: object) -> CheckResult:
    return check_router(
        launch,
        launch.problem,
        launch.workspace_elements,
        device="cpu",
        seed=seed,
        operand_format=OperandFormat.NVFP4,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_right_kernel_passes_on_every_distribution(name: str) -> None:
    result = check(Nvfp4Router(replace(preset(name), hidden=256)))
    assert result.passed, result.first_failure
    assert {case.name for case in result.cases} == set(DISTRIBUTIONS)


def swapped_nibbles(b: Bytes) -> Bytes:
    return (b[0] >> 4) | (b[0] << 4), b[1]


def linear_scales(b: Bytes) -> Bytes:
    """Scales as if they were not swizzled: rows of an atom one after the other."""
    rows, columns = b[1].shape
    atoms = b[1].view(rows // SCALE_ROWS, columns // 4, 4, 32, 4)
    return b[0], atoms.transpose(2, 3).reshape(rows, columns)


def one_scale_off(b: Bytes) -> Bytes:
    scale = b[1].clone()
    scale.view(-1)[len(scale)] ^= 0x10
    return b[0], scale


@pytest.mark.parametrize("change", [swapped_nibbles, linear_scales, one_scale_off])
def test_a_fault_in_reading_the_weight_is_found(change: Callable[[Bytes], Bytes]) -> None:
    assert not check(Nvfp4Router(SMALL, change)).passed


def test_a_kernel_that_writes_to_a_scale_is_found() -> None:
    def scribble(b: Bytes) -> Bytes:
        b[1][0, 0] += 1
        return b

    result = check(Nvfp4Router(SMALL, scribble), only=("normal",))
    assert result.first_failure is not None
    assert "input b_scale was written to" in result.first_failure


def test_the_reference_multiplies_the_numbers_that_the_launch_gets() -> None:
    device = torch.device("cpu")
    for operands in generate(SMALL, 3, device, 128, operand_format=OperandFormat.NVFP4):
        for m in operands.m_values:
            a, a_scale, b, b_scale = operands.for_launch(m, OperandFormat.NVFP4)
            assert torch.equal(dequantize(a, a_scale).view(torch.int16), operands.a[:m].view(torch.int16))
            assert torch.equal(dequantize(b, b_scale).view(torch.int16), operands.b.view(torch.int16))


def test_ties_stay_exact() -> None:
    """Integers of at most 2 become multiples of 448 * 6 / 2, whose products' sums fit fp32's 24 bits."""
    (operands,) = generate(
        preset("deepseek-v4-pro"), 3, torch.device("cpu"), 128, ("ties",), OperandFormat.NVFP4
    )
    for tensor in (operands.a, operands.b):
        assert torch.equal(tensor.float() % 1344, torch.zeros_like(tensor).float())
        assert tensor.float().abs().max() == 2688
    products = operands.a.double() @ operands.b.double().T / 1344**2
    assert products.abs().max() * 441 < 2**24


def test_timed_inputs_are_quantized_too() -> None:
    inputs = random_inputs(SMALL, 5, "cpu", torch.Generator().manual_seed(1), OperandFormat.NVFP4)
    a, a_scale, b, b_scale = inputs.operands
    logits = dequantize(a, a_scale).double() @ dequantize(b, b_scale).double().T * inputs.alpha.double()
    assert 0.8 < float(logits.std()) < 1.2

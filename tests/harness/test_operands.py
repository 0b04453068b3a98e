"""What timed launches run on: raw activations are quantized by the wrapper's own code, inside the time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.cuda_runner import launch_on, quantize_and_launch
from harness.operands import InputCache, Inputs, Outputs, RawInputs, raw_inputs
from harness.runner import Candidate
from kernels.family import OperandFormat
from kernels.nvfp4 import Nvfp4Tensor, dequantize_exact_bf16
from kernels.problem import preset
from kernels.reference import route
from tests.harness.emulated_router import EmulatedRouter

PROBLEM = replace(preset("deepseek-v4-pro"), hidden=512)
M = 33


def raw(seed: int = 5) -> RawInputs:
    print(f"seed {seed}")
    return raw_inputs(PROBLEM, M, "cpu", torch.Generator().manual_seed(seed))


def matrices(inputs: Inputs, operand_format: OperandFormat) -> tuple[Tensor, Tensor]:
    """A and B in bf16, whatever the launch takes."""
    if operand_format is OperandFormat.BF16:
        return inputs.operands[0], inputs.operands[1]
    a, a_scale, b, b_scale = inputs.operands
    one = torch.ones(())
    read = [Nvfp4Tensor(x, s.view(torch.float8_e4m3fn), one) for x, s in ((a, a_scale), (b, b_scale))]
    return dequantize_exact_bf16(read[0]), dequantize_exact_bf16(read[1])


@pytest.mark.parametrize("operand_format", OperandFormat)
def test_quantized_operands_stand_for_the_raw_ones(operand_format: OperandFormat) -> None:
    given = raw()
    inputs = given.quantized(PROBLEM, operand_format)
    a, b = matrices(inputs, operand_format)
    product = a.double() @ b.double().T * inputs.alpha.double()
    want = given.activations.double() @ given.layer.weight.detach().double().T
    error = float((product - want).norm() / want.norm())
    # Two operands of four bits: each element is off by up to a sixth, on average by some 7 %.
    assert 0.02 < error < 0.2


@pytest.mark.parametrize("operand_format", OperandFormat)
def test_a_launch_gets_what_it_would_without(operand_format: OperandFormat) -> None:
    given = raw()
    router = EmulatedRouter(PROBLEM)

    def launch(*arguments: Tensor) -> None:
        *operands, bias, alpha, workspace, weights, ids = arguments
        read = matrices(Inputs(tuple(operands), bias, alpha), operand_format)
        router(*read, bias, alpha, workspace, weights, ids)

    candidate = Candidate(launch, PROBLEM, lambda m: 1, operand_format=operand_format)
    timed, before = (Outputs.poisoned(PROBLEM, M, 1, "cpu") for _ in range(2))
    quantize_and_launch(candidate, given, timed)
    launch_on(candidate, given.quantized(PROBLEM, operand_format), before)
    assert timed.written()
    assert torch.equal(timed.ids, before.ids)
    assert torch.equal(timed.weights, before.weights)
    inputs = given.quantized(PROBLEM, operand_format)
    a, b = matrices(inputs, operand_format)
    logits = a.double() @ b.double().T * inputs.alpha.double()
    weights, ids = route(logits, PROBLEM, given.bias)
    assert torch.equal(timed.ids.long(), ids.long())
    assert torch.allclose(timed.weights.double(), weights.double(), rtol=1e-4)


@pytest.mark.parametrize("operand_format", OperandFormat)
def test_quantization_by_other_bits_is_noticed(
    operand_format: OperandFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = raw()
    assert given.quantized_rightly(PROBLEM, operand_format)
    right = given.quantized(PROBLEM, operand_format)
    for place in range(len(right.operands) // 2 + 1):
        tensors = [tensor.clone() for tensor in (*right.operands, right.alpha)]
        wrong = tensors[-1 if place == len(right.operands) // 2 else place]
        wrong.view(torch.uint8).view(-1)[-1] ^= 1
        altered = Inputs(tuple(tensors[:-1]), right.bias, tensors[-1])
        monkeypatch.setattr(RawInputs, "quantized", lambda *_, altered=altered: altered)
        assert not given.quantized_rightly(PROBLEM, operand_format)
        monkeypatch.undo()


def test_a_timed_launch_does_not_dequantize_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    given = raw()

    def fail(*_: object) -> None:
        raise AssertionError("the weight is dequantized in a launch that is timed")

    monkeypatch.setattr("kernels.linear.dequantize_exact_bf16", fail)
    given.quantized(PROBLEM, OperandFormat.BF16)


def test_raw_sets_are_the_same_for_every_trial() -> None:
    cache = InputCache("cpu", 1 << 30)
    first = cache.raw_sets(PROBLEM, M, 2)
    assert not torch.equal(first[0].activations, first[1].activations)
    again = cache.raw_sets(PROBLEM, M, 1)
    assert again[0] is first[0]
    cache.raw_sets(PROBLEM, 1, 1)
    anew = cache.raw_sets(PROBLEM, M, 2)
    assert torch.equal(anew[1].activations, first[1].activations)
    assert torch.equal(anew[1].layer.weight, first[1].layer.weight)

"""How long the quantization of activations takes on this GPU: by kernels, and by the torch code they replace.

Times are of graphs of launches, as everywhere; activations lie where the operation before has left them, in
the L2 where they fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from harness.cuda_runner import DEVICE, CudaRunner
from harness.executor import DEFAULT_M_VALUES
from harness.graph_timer import time_launches
from harness.timing import summarize
from kernels.family import OperandFormat
from kernels.nvfp4 import (
    Nvfp4Tensor,
    dequantize_exact_bf16,
    gemm_alpha,
    quantize_activation_nvfp4,
    quantize_to_nvfp4,
)
from kernels.problem import DEFAULT_PRESET, preset
from kernels.quantize.operands import dequantized_operand, quantized_operand
from kernels.router import operand_format

SAMPLES = 20
WEIGHT_ROWS = 16  # the weight's global scale is all that is read of it


@dataclass(frozen=True)
class QuantizationTimes:
    """Median microseconds at `m` tokens.

    `dequantized_us`: of activations that come quantized, where kernels multiply bf16; otherwise None.
    `floor_us`: of reading the activations and writing the operand, once each, at the device's copy rate.
    """

    m: int
    kernels_us: float
    calibrated_us: float
    torch_us: float
    dequantized_us: float | None
    floor_us: float


def quantization_times(
    output: OperandFormat, device: str, copy_bytes_per_s: float, m_values: tuple[int, ...] = DEFAULT_M_VALUES
) -> list[QuantizationTimes]:
    """Times of the default problem's activations, quantized to `output`."""
    hidden = preset(DEFAULT_PRESET).hidden
    generator = torch.Generator(device).manual_seed(0)

    def normal(rows: int) -> torch.Tensor:
        return torch.randn(rows, hidden, generator=generator, device=device).bfloat16()

    weight = quantize_to_nvfp4(normal(WEIGHT_ROWS))
    times = []
    for m in m_values:
        x = normal(m)
        quantized = quantize_activation_nvfp4(x)
        by_kernels = partial(quantized_operand, x, weight.global_scale, output)
        operand, _ = by_kernels()
        before = partial(dequantized_operand, quantized, weight.global_scale)
        times.append(
            QuantizationTimes(
                m,
                kernels_us=_median_us(by_kernels),
                calibrated_us=_median_us(partial(by_kernels, quantized.global_scale)),
                torch_us=_median_us(partial(_by_torch, x, weight, output)),
                dequantized_us=_median_us(before) if output is OperandFormat.BF16 else None,
                floor_us=1e6 * sum(t.nbytes for t in (x, *operand)) / copy_bytes_per_s,
            )
        )
    return times


def _by_torch(x: torch.Tensor, weight: Nvfp4Tensor, output: OperandFormat) -> None:
    """What a call of the wrapper did before there were kernels for it."""
    quantized = quantize_activation_nvfp4(x)
    if output is OperandFormat.BF16:
        dequantize_exact_bf16(quantized)
    gemm_alpha(quantized, weight)


def quantization_report() -> list[str]:
    """A line of what was timed on this machine's GPU and a table of it; without one, a line that says so."""
    if not torch.cuda.is_available():
        return ["quantization of activations: not timed, there is no GPU"]
    output = operand_format(torch.device(DEVICE))
    runner = CudaRunner()
    times = quantization_times(output, DEVICE, runner.rates().copy_bytes_per_s)
    head = f"quantization of activations on {runner.device().name}, to {output}, us, warm:"
    return [head, *quantization_table(times)]


def quantization_table(times: Sequence[QuantizationTimes]) -> list[str]:
    """Aligned rows under a header; the last column is the ratio to torch's time."""
    rows = {
        "M": [at.m for at in times],
        "kernels": [at.kernels_us for at in times],
        "calibrated": [at.calibrated_us for at in times],
        "torch": [at.torch_us for at in times],
        "quantized before": np.array([at.dequantized_us for at in times], float),
        "floor": [at.floor_us for at in times],
        "torch / kernels": [f"{at.torch_us / at.kernels_us:.1f}" for at in times],
    }
    text: str = pd.DataFrame(rows).to_string(index=False, na_rep="", float_format="%.2f")
    return text.splitlines()


def _median_us(launch: Callable[[], object]) -> float:
    return summarize(time_launches([launch], SAMPLES)).median_us

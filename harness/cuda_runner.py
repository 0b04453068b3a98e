"""The runner for a CUDA device: the current one of its process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from harness.artifact import Artifact
from harness.device import DeviceMonitor
from harness.executor import MeasurePlan
from harness.graph_timer import time_launches
from harness.launcher import load_launcher
from harness.operands import InputCache, Inputs, Outputs, RawInputs, raw_inputs
from harness.record import Conditions, DeviceFacts, Measurement, Rates, Timing
from harness.runner import Candidate, Runner, WrongResultError
from harness.timing import (
    Attempt,
    bytes_moved,
    cold_sets,
    floor_us,
    flops,
    repeat_until_steady,
    summarize,
)
from kernels.family import OperandFormat
from kernels.problem import RouterProblem

DEVICE = "cuda"
RATE_SAMPLES = 10
COPY_BYTES = 1 << 30  # 20 times the largest L2: nothing of it is still there when it is read again
MATRIX_SIZE = 8192
# A throttled clock recovers in the idle time between two attempts.
PAUSE_BEFORE_REPEAT_S = 0.25
# Share of the device's memory that inputs of earlier trials may keep.
INPUT_CACHE_SHARE = 0.25
QUANTIZED_M = 131  # at which quantization is checked before it is timed: a tile of scales and a tail


class CudaRunner(Runner):
    """Checks and times candidates on the process's current CUDA device.

    Raises `RuntimeError` when torch cannot use one.
    """

    torch_device = DEVICE

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("torch finds no usable CUDA device: see `nvidia-smi` and torch's CUDA version")
        torch.ones(1, device=DEVICE).add_(1)
        torch.cuda.synchronize()  # whoever waits for this runner learns here whether the device works
        self._properties = torch.cuda.get_device_properties(DEVICE)
        self._monitor = DeviceMonitor(f"GPU-{self._properties.uuid}")
        self._max_sm_clock_mhz = self.device().max_sm_clock_mhz
        self._quantized_rightly: set[tuple[RouterProblem, OperandFormat]] = set()
        self._inputs = InputCache(DEVICE, int(INPUT_CACHE_SHARE * self._properties.total_memory))

    def device(self) -> DeviceFacts:
        properties = self._properties
        return self._monitor.facts(
            name=properties.name,
            uuid=f"GPU-{properties.uuid}",
            compute_capability=f"{properties.major}.{properties.minor}",
            cuda=torch.version.cuda or "",
            multiprocessors=properties.multi_processor_count,
            l2_bytes=properties.L2_cache_size,
            memory_bytes=properties.total_memory,
        )

    def rates(self) -> Rates:
        rates = Rates(_copy_bytes_per_s(), _matrix_flop_per_s(), _empty_launch_us())
        torch.cuda.empty_cache()
        return rates

    def load(self, artifact: Artifact) -> Candidate:
        return Candidate.of_manifest(artifact.manifest, load_launcher(artifact))

    def measure(self, candidate: Candidate, m: int, plan: MeasurePlan, rates: Rates) -> Measurement:
        problem, operand_format = candidate.problem, candidate.operand_format
        count = cold_sets(problem, m, self._properties.L2_cache_size, operand_format)
        outputs = Outputs.poisoned(problem, m, candidate.workspace_elements(m), DEVICE)
        launches: list[Callable[[], object]]
        if plan.quantize:
            self._require_right_quantization(problem, operand_format)
            raw_sets = self._inputs.raw_sets(problem, m, count)
            launches = [partial(quantize_and_launch, candidate, raw, outputs) for raw in raw_sets]
        else:
            sets = self._inputs.sets(problem, m, count, operand_format)
            launches = [partial(launch_on, candidate, inputs, outputs) for inputs in sets]

        def attempt(repeats: int) -> Attempt:
            if repeats:
                time.sleep(PAUSE_BEFORE_REPEAT_S)
            cold, while_cold = self._time(launches, plan.samples)
            warm, while_warm = self._time(launches[:1], plan.samples)
            reasons = dict.fromkeys((*while_cold.throttle_reasons, *while_warm.throttle_reasons))
            conditions = replace(while_cold, throttle_reasons=tuple(reasons))
            return Attempt(cold, warm, conditions, self._max_sm_clock_mhz)

        last, repeats, steady = repeat_until_steady(attempt, plan)
        if not outputs.written():
            raise WrongResultError(f"left outputs unwritten while it was timed at M = {m}")
        return Measurement(
            m=m,
            cold=last.cold,
            warm=last.warm,
            floor_us=floor_us(problem, m, rates, operand_format),
            bytes_moved=bytes_moved(problem, m, operand_format),
            flops=flops(problem, m),
            conditions=last.conditions,
            repeats=repeats,
            steady=steady,
            quantized=plan.quantize,
        )

    def _require_right_quantization(self, problem: RouterProblem, operand_format: OperandFormat) -> None:
        """Nothing unchecked is timed: raise `WrongResultError` for other bits than torch's."""
        if (problem, operand_format) in self._quantized_rightly:
            return
        generator = torch.Generator(DEVICE).manual_seed(QUANTIZED_M)
        if not raw_inputs(problem, QUANTIZED_M, DEVICE, generator).quantized_rightly(problem, operand_format):
            raise WrongResultError(f"activations are quantized otherwise than by torch, at M = {QUANTIZED_M}")
        self._quantized_rightly.add((problem, operand_format))

    def _time(self, launches: Sequence[Callable[[], object]], samples: int) -> tuple[Timing, Conditions]:
        conditions: list[Conditions] = []
        times = time_launches(launches, samples, during=lambda: conditions.append(self._monitor.conditions()))
        return summarize(times), conditions[0]


def launch_on(candidate: Candidate, inputs: Inputs, outputs: Outputs) -> None:
    """One launch, as its candidate takes it."""
    results = outputs.workspace, outputs.weights, outputs.ids
    candidate.launch(*inputs.operands, inputs.bias, inputs.alpha, *results)


def quantize_and_launch(candidate: Candidate, raw: RawInputs, outputs: Outputs) -> None:
    """What a call of the public wrapper with raw activations puts on the stream."""
    launch_on(candidate, raw.quantized(candidate.problem, candidate.operand_format), outputs)


def _median_us(launch: Callable[[], object]) -> float:
    return summarize(time_launches([launch], RATE_SAMPLES)).median_us


def _copy_bytes_per_s() -> float:
    """The better rate of a copy and of a kernel that moves as much; each byte is read and written.

    What a graph makes of a copy is the driver's choice: on an H200 it reached 2.71 TB/s (2026-11-28), 56 % of
    the data sheet's 4.8, where an H100's reached 73 %. A floor must not stand on a slow way to copy.
    """
    source = torch.randint(0, 255, (COPY_BYTES // 4,), dtype=torch.int32, device=DEVICE)
    target = torch.empty_like(source)
    copy_us = _median_us(lambda: target.copy_(source))
    kernel_us = _median_us(lambda: torch.bitwise_not(source, out=target))
    return 2 * COPY_BYTES / (1e-6 * min(copy_us, kernel_us))


def _matrix_flop_per_s() -> float:
    left, right = (
        torch.randn(MATRIX_SIZE, MATRIX_SIZE, dtype=torch.bfloat16, device=DEVICE) for _ in range(2)
    )
    product = torch.empty_like(left)
    return 2 * MATRIX_SIZE**3 / (1e-6 * _median_us(lambda: torch.mm(left, right, out=product)))


def _empty_launch_us() -> float:
    one = torch.ones(1, device=DEVICE)
    return _median_us(lambda: one.add_(1))

"""How long the simulator takes: one launch, a sweep's check of one candidate, and its modelled times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.cache import ArtifactCache
from harness.compile_pool import CompilePool
from harness.executor import DEFAULT_M_VALUES, MeasurePlan
from harness.pack_outputs import answer, inputs_at
from harness.simulator.runner import SimulatorRunner, Sm90aRunner, Sm100aRunner
from kernels.families import family
from kernels.problem import DEFAULT_PRESET, preset

RUNNERS: dict[str, type[SimulatorRunner]] = {"fused_sm90": Sm90aRunner, "fused_sm100": Sm100aRunner}
FAMILIES = {name: runner.target for name, runner in RUNNERS.items()}
M = 160  # a full tile and a tail


@dataclass(frozen=True)
class SimulatorCost:
    """CPU seconds on one core: a launch at M = 160, a check, and modelled times at seven M."""

    family: str
    launch_s: float
    check_s: float
    times_s: float


def simulator_cost(family_name: str) -> SimulatorCost:
    """The cost of the family's default config for M = 160 of the default problem; compiles it first."""
    kernels, target, problem = family(family_name), FAMILIES[family_name], preset(DEFAULT_PRESET)
    config = kernels.default_config(problem, M)
    torch.set_num_threads(1)  # the reference's, too
    with CompilePool(ArtifactCache(), workers=1) as pool:  # a process compiles for one target only
        result = pool.submit(kernels, problem, config, target).result()
    if result.artifact is None:
        raise RuntimeError(f"{family_name}: {result.reason}")
    runner = RUNNERS[family_name]()
    candidate = runner.load(result.artifact)
    inputs, plan, rates = inputs_at(candidate, M), MeasurePlan(DEFAULT_M_VALUES), runner.rates()
    return SimulatorCost(
        family_name,
        launch_s=_cpu_seconds(lambda: answer(candidate, inputs, M, "cpu")),
        check_s=_cpu_seconds(lambda: runner.check(candidate, seed=0)),
        times_s=_cpu_seconds(lambda: [runner.measure(candidate, m, plan, rates) for m in plan.m_values]),
    )


def _cpu_seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began

"""How long the simulator takes: one launch, a sweep's check of one candidate, and its modelled times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.cache import ArtifactCache
from harness.check import check_router
from harness.compile import compile_cached
from harness.executor import DEFAULT_M_VALUES, CheckDepth
from harness.pack_outputs import answer, inputs_at
from harness.runner import Candidate
from harness.simulator.model import Model
from harness.simulator.run import Program
from harness.simulator.runner import WEIGHTS, unread_arguments
from kernels.families import family
from kernels.problem import DEFAULT_PRESET, preset

FAMILIES = {"fused_sm90": "sm_90a", "fused_sm100": "sm_100a"}
M = 160  # a full tile and a tail


@dataclass(frozen=True)
class SimulatorCost:
    """CPU seconds on one core: one launch at M = 160, a brief check, and the modelled times at seven M."""

    family: str
    launch_s: float
    check_s: float
    times_s: float


def simulator_cost(family_name: str) -> SimulatorCost:
    """The cost of the family's default config for M = 160 of the default problem; compiles it first."""
    kernels, target, problem = family(family_name), FAMILIES[family_name], preset(DEFAULT_PRESET)
    config = kernels.default_config(problem, M)
    torch.set_num_threads(1)  # the reference's, too
    result = compile_cached(ArtifactCache().root, kernels, problem, config, target)
    if result.artifact is None:
        raise RuntimeError(f"{family_name}: {result.reason}")
    program = Program.of_folder(result.artifact.folder)
    candidate = Candidate.of_manifest(result.artifact.manifest, program)
    inputs = inputs_at(candidate, M)
    registers = {entry.kernel: entry.registers for entry in result.artifact.manifest.resources}
    model = Model(program, registers, weights=WEIGHTS[candidate.operand_format])
    return SimulatorCost(
        family_name,
        launch_s=_cpu_seconds(lambda: answer(candidate, inputs, M, "cpu")),
        check_s=_cpu_seconds(
            lambda: check_router(
                program,
                problem,
                candidate.workspace_elements,
                "cpu",
                seed=0,
                tail_unit=candidate.tile_m,
                operand_format=candidate.operand_format,
                depth=CheckDepth.BRIEF,
                together=program.together,
            )
        ),
        times_s=_cpu_seconds(
            lambda: [model.microseconds(unread_arguments(candidate, m)) for m in DEFAULT_M_VALUES]
        ),
    )


def _cpu_seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began

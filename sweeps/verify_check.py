"""Proving a config as a sweep does: the check of its candidates, in the simulator.

`harness.check` on all distributions, as deep as on a GPU or as briefly as in the simulator, then the search
for races. Every config is given the same inputs, where each of a sweep's candidates has its own: those of
one tile of tokens are drawn once and their reference computed once.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from harness.check import check_prepared, launched_once
from harness.check_bounds import Expected, expect
from harness.check_cases import Operands, generate
from harness.executor import CheckDepth
from harness.record import Outcome
from harness.runner import Candidate
from harness.simulator.errors import SimulationError
from harness.simulator.race_launch import search_races
from harness.simulator.run import Program
from kernels.family import KernelFamily, OperandFormat, ParamValue
from kernels.problem import RouterProblem
from sweeps.verify import SEED, Verified, compiled, not_executed


def check_config(
    kernels: KernelFamily,
    problem: RouterProblem,
    params: dict[str, ParamValue],
    target: str,
    cache: Path,
    depth: CheckDepth,
) -> Verified:
    """Compile one config and give it the check of a sweep's candidate in the simulator."""
    began = time.perf_counter()
    found, artifact = compiled(kernels, problem, params, target, cache)
    found = replace(found, check=depth)
    if artifact is None:
        return found
    once = launched_once(depth)
    try:
        program = Program.of_folder(artifact.folder)
        candidate = Candidate.of_manifest(artifact.manifest, program, kernels)
        check = check_prepared(
            program,
            problem,
            candidate.workspace_elements,
            SEED,
            _prepared(problem, candidate.operand_format, candidate.tile_m, depth),
            candidate.operand_format,
            once,
            program.together,
        )
        if check.passed:
            search_races(program, candidate, SEED)
    except SimulationError as error:
        _prepared.cache_clear()  # what a wrong kernel has overwritten is not known
        return not_executed(found, error)
    if not check.passed:
        _prepared.cache_clear()
    again = sum(case.m not in once for case in check.cases)
    return replace(
        found,
        outcome=Outcome.OK if check.passed else Outcome.WRONG_RESULT,
        reason=check.first_failure,
        launches=len(check.cases) + again + check.passed,
        races=check.passed,
        bf16_overlap=check.bf16_overlap,
        seconds=time.perf_counter() - began,
    )


@lru_cache(maxsize=8)
def _prepared(
    problem: RouterProblem, operand_format: OperandFormat, tile_m: int, depth: CheckDepth
) -> list[tuple[Operands, Expected]]:
    """The inputs of a check of tiles of `tile_m` tokens, with their reference."""
    drawn = generate(problem, SEED, torch.device("cpu"), tile_m, operand_format=operand_format, depth=depth)
    return [(operands, expect(operands, problem)) for operands in drawn]

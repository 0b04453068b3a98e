"""A fused config's answers against those of the two kernels that it replaces, the simulator executing both.

Both are within the check's bounds of one reference, so a different id is no error by itself: it can only be
one of two experts that the bounds do not tell apart. How many there are is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.check_cases import BASE_M, Operands
from harness.compile import compile_cached
from harness.simulator.run import Program
from kernels.families import family
from kernels.problem import RouterProblem
from kernels.router import FAMILIES
from sweeps.verify_on_gpu import Recorded, differences

Answer = tuple[Tensor, Tensor]  # weights fp32 [M, k], ids int32 [M, k]


@dataclass(frozen=True)
class Agreement:
    """How the answers to some launches differ from the two kernels'.

    Attributes:
        launches: how many were compared.
        ids_differ: of all ids of all launches.
        weight_error: the largest relative difference of a weight whose id is the same.
    """

    launches: int
    ids_differ: int
    weight_error: float


def two_kernel_answers(
    problem: RouterProblem, target: str, cache: Path, cases: Iterable[Operands]
) -> list[Answer]:
    """What the target's two kernels, in their default config, answer to every case at each of its M.

    Raises `RuntimeError` where they do not compile.
    """
    kernels = family(FAMILIES[target, "two_kernel"])
    config = kernels.default_config(problem, BASE_M)
    result = compile_cached(cache, kernels, problem, config, target)
    if result.artifact is None:
        raise RuntimeError(f"{kernels.name} does not compile: {result.reason}")
    calls = [
        (
            *operands.for_launch(m, kernels.operands),
            operands.bias,
            operands.alpha,
            torch.zeros(kernels.workspace_elements(problem, config, m)),
            torch.full((m, problem.top_k), torch.nan),
            torch.full((m, problem.top_k), -1, dtype=torch.int32),
        )
        for operands in cases
        for m in operands.m_values
    ]
    Program.of_folder(result.artifact.folder).together(calls)
    return [(weights, ids) for *_, weights, ids in calls]


def compare_with_two_kernels(recorded: Recorded, answers: Sequence[Answer]) -> Agreement:
    """Compare the recorded launches with the `answers` to the same cases, in the same order."""
    differ, error = 0, 0.0
    for (_, weights, ids), its in zip(recorded.answers, answers, strict=True):
        ids_differ, weight_error = differences((weights, ids), its)
        differ, error = differ + ids_differ, max(error, weight_error)
    return Agreement(len(answers), differ, error)

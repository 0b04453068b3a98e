"""The simulator's answers against a GPU's: the same artifact on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.artifact import Artifact
from harness.check_bench import Arguments
from harness.check_bounds import SMALLEST_NORMAL
from harness.launcher import load_launcher


@dataclass(frozen=True)
class OnGpu:
    """How a GPU's answers to some launches differ from the simulator's.

    Attributes:
        device: the GPU.
        launches: how many were compared.
        ids_differ: of all ids of all launches.
        weight_error: the largest relative difference of a weight whose id is the same, NaN against NaN
            counting as none.
    """

    device: str
    launches: int
    ids_differ: int
    weight_error: float


@dataclass
class Recorded:
    """Makes launches, and keeps the first ones with what they left."""

    together: Callable[[Sequence[Arguments]], Any]
    answers: list[tuple[Arguments, Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, calls: Sequence[Arguments]) -> None:
        self.together(calls)
        if not self.answers:
            self.answers = [(call, call[-2].clone(), call[-1].clone()) for call in calls]


def compare_on_gpu(artifact: Artifact, recorded: Recorded) -> OnGpu:
    """Make the recorded launches on the current CUDA device; raises `RuntimeError` where it fails."""
    launch = load_launcher(artifact)
    differ, error = 0, 0.0
    for (*operands, workspace, _, _), weights, ids in recorded.answers:
        # The workspace as the contract has it, zeroed: the simulator's holds what its launch has left.
        outputs = (torch.zeros_like(workspace), torch.full_like(weights, torch.nan), torch.full_like(ids, -1))
        on_gpu = [tensor.cuda() for tensor in (*operands, *outputs)]
        launch(*on_gpu)
        ids_differ, weight_error = differences((weights, ids), (on_gpu[-2].cpu(), on_gpu[-1].cpu()))
        differ, error = differ + ids_differ, max(error, weight_error)
    return OnGpu(torch.cuda.get_device_name(), len(recorded.answers), differ, error)


def differences(mine: tuple[Tensor, Tensor], its: tuple[Tensor, Tensor]) -> tuple[int, float]:
    """(ids that differ, the largest relative difference of a weight whose id is the same) of (weights, ids).

    A NaN in one of two weights is an infinite difference, in both it is none.
    """
    (weights, ids), (its_weights, its_ids) = mine, its
    same = (its_ids == ids) & ~(its_weights.isnan() & weights.isnan())
    scale = weights.abs().clamp(min=SMALLEST_NORMAL)
    errors = ((its_weights - weights).abs() / scale)[same]
    error = float(errors.nan_to_num(torch.inf).max()) if errors.numel() else 0.0
    return int((its_ids != ids).sum()), error

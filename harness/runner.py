"""The runner contract: what lives inside a worker process and touches the device.

A runner need not survive its candidates: the process around it is replaced after each one that ended badly.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from harness.artifact import Artifact, ArtifactManifest
from harness.executor import CheckDepth, MeasurePlan
from harness.record import CaseResult, CheckResult, DeviceFacts, Measurement, Rates
from kernels.families import family
from kernels.family import DEFAULT_TOKEN_TILE, KernelFamily, OperandFormat
from kernels.problem import RouterProblem

# launch(*operands, bias, alpha, workspace, weights, ids), see `kernels.family`
Launch = Callable[..., Any]
# The same for launches of which none needs what another leaves.
LaunchTogether = Callable[[Sequence[tuple[Any, ...]]], Any]


class WrongResultError(Exception):
    """A candidate passed the check and gave a wrong result afterwards; the message is one line."""


class BeyondRunnerError(Exception):
    """The candidate may be right, but this runner cannot run it; the message is one line that says why."""


class EndlessCandidateError(Exception):
    """The candidate does not end, as the runner has found without waiting for it; the message is one line."""


@dataclass(frozen=True)
class Candidate:
    """A loaded artifact, ready to be launched."""

    launch: Launch
    problem: RouterProblem
    workspace_elements: Callable[[int], int]  # of M
    tile_m: int = DEFAULT_TOKEN_TILE  # tokens of one tile, where the check looks for errors of tail tiles
    operand_format: OperandFormat = OperandFormat.BF16
    together: LaunchTogether | None = None  # several launches as one, where that saves time
    round_tokens: int | None = None  # as in `KernelFamily.round_tokens`

    @classmethod
    def of_manifest(
        cls, manifest: ArtifactManifest, launch: Launch, kernels: KernelFamily | None = None
    ) -> Candidate:
        """`kernels` is the manifest's family where that is not one of `kernels.families`.

        Raises `ValueError` for an unknown family, parameter or problem.
        """
        kernels = kernels or family(manifest.family)
        problem = msgspec.convert(manifest.problem, RouterProblem)
        config = kernels.config(manifest.config)
        return cls(
            launch,
            problem,
            workspace_elements=lambda m: kernels.workspace_elements(problem, config, m),
            tile_m=kernels.token_tile(config),
            operand_format=kernels.operands,
            round_tokens=kernels.round_tokens(config),
        )


class Runner(ABC):
    """Runs candidates on one device. Constructing one raises whatever keeps the device from being used."""

    check_depth = CheckDepth.FULL  # of a check that nobody asked more or less of

    @abstractmethod
    def device(self) -> DeviceFacts:
        """The device."""

    @abstractmethod
    def rates(self) -> Rates:
        """The device's copy bandwidth and matrix rate, measured now."""

    @abstractmethod
    def load(self, artifact: Artifact) -> Candidate:
        """Load a verified artifact."""

    @property
    @abstractmethod
    def torch_device(self) -> str:
        """Where the tensors of a launch live, as torch names it."""

    def check(self, candidate: Candidate, seed: int, depth: CheckDepth | None = None) -> CheckResult:
        """Compare the candidate with the reference on inputs drawn from `seed`."""
        from harness.check import check_router

        check = check_router(
            candidate.launch,
            candidate.problem,
            candidate.workspace_elements,
            self.torch_device,
            seed,
            candidate.tile_m,
            operand_format=candidate.operand_format,
            depth=depth or self.check_depth,
            together=candidate.together,
        )
        return replace(check, cases=tuple(map(_with_finite_numbers, check.cases)))

    @abstractmethod
    def measure(self, candidate: Candidate, m: int, plan: MeasurePlan, rates: Rates) -> Measurement:
        """Time a checked candidate at `m` tokens; raises `WrongResultError`."""


def _with_finite_numbers(case: CaseResult) -> CaseResult:
    """JSON knows no infinity: a ratio to an allowed gap of 0 becomes the largest float."""

    def finite(value: float) -> float:
        return value if math.isfinite(value) else sys.float_info.max

    return replace(
        case,
        worst_margin_ratio=finite(case.worst_margin_ratio),
        worst_weight_error=finite(case.worst_weight_error),
    )

"""Where tests run compiled kernels: on a GPU of their target where there is one, else in the simulator."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from harness.check import check_router
from harness.check_cases import DISTRIBUTIONS
from harness.compile_pool import CompilePool, CompileResult
from harness.executor import CheckDepth
from harness.runner import Candidate
from harness.simulator.errors import NotSimulatedError, SimulationError
from harness.simulator.race_launch import search_races
from harness.simulator.run import Program
from harness.toolchain import TARGETS
from kernels.family import KernelFamily
from kernels.problem import RouterProblem


class CompileError(Exception):
    """A kernel that does not compile; the compiler's message."""


class Kernels:
    """Compiled kernels of one target, as launches.

    Attributes:
        device: where their tensors live.
        depth: as much of the check as the device has time for.
    """

    def __init__(self, target: str, pool: CompilePool) -> None:
        self.target = target
        self._pool = pool
        self._begun: dict[tuple[str, RouterProblem, Any], Future[CompileResult]] = {}
        self.on_gpu = torch.cuda.is_available() and torch.cuda.get_device_capability() == TARGETS[target]
        self.device = "cuda" if self.on_gpu else "cpu"
        self.depth = CheckDepth.FULL if self.on_gpu else CheckDepth.BRIEF

    def prepare(self, family: KernelFamily, problem: RouterProblem, config: Any) -> None:
        """Begin to compile what `launch` will be asked for."""
        if not self.on_gpu:
            self._compile(family, problem, config)

    def _compile(self, family: KernelFamily, problem: RouterProblem, config: Any) -> Future[CompileResult]:
        key = (family.name, problem, config)
        if key not in self._begun:
            self._begun[key] = self._pool.submit(family, problem, config, self.target)
        return self._begun[key]

    def launch(self, family: KernelFamily, problem: RouterProblem, config: Any) -> Callable[..., object]:
        if self.on_gpu:
            compiled: Callable[..., object] = family.compile(problem, config, self.target)
            return compiled
        result = self._compile(family, problem, config).result()
        if result.artifact is None:
            raise CompileError(result.reason)
        return Program.of_folder(result.artifact.folder)

    def fault(
        self,
        family: KernelFamily,
        problem: RouterProblem,
        config: Any,
        seed: int,
        only: tuple[str, ...] = tuple(DISTRIBUTIONS),
    ) -> str:
        """What the compiler, the check, or the simulator has against a kernel; "" when it passes."""
        try:
            launch = self.launch(family, problem, config)
        except CompileError as error:
            return f"compiler: {error}"
        candidate = Candidate(
            launch,
            problem,
            lambda m: family.workspace_elements(problem, config, m),
            family.token_tile(config),
            family.operands,
            round_tokens=family.round_tokens(config),
        )
        try:
            result = check_router(
                launch,
                problem,
                candidate.workspace_elements,
                self.device,
                seed,
                candidate.tile_m,
                only,
                operand_format=family.operands,
                depth=self.depth,
                together=launch.together if isinstance(launch, Program) else None,
            )
            if isinstance(launch, Program) and result.passed:
                search_races(launch, candidate, seed)
        except NotSimulatedError:
            raise
        except SimulationError as error:
            return f"simulator: {error}"
        return "" if result.passed else f"check: {result.first_failure}"

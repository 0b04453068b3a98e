"""One config on its way to a record."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol

import optuna

from harness.compile_result import CompileResult
from harness.executor import Evaluation, Executor, MeasurePlan
from harness.record import ParamValue, TrialRecord
from harness.trial import RunFacts, TrialIdentity, assemble_record
from kernels.family import KernelFamily
from kernels.problem import RouterProblem


class Pool(Protocol):
    """What a sweep needs of `harness.compile_pool.CompilePool`."""

    @property
    def workers(self) -> int: ...

    def submit(
        self, family: KernelFamily, problem: RouterProblem, config: Any, target: str
    ) -> Future[CompileResult]: ...


@dataclass(frozen=True)
class Job:
    """One config on its way to a record. `trial` is None for a config that no sampler asked for."""

    family: KernelFamily
    params: dict[str, ParamValue]
    role: str
    seed: int  # of the check's inputs
    trial: optuna.Trial | None = None
    compiled: CompileResult | None = None


@dataclass(frozen=True)
class Workshop:
    """What all jobs of a run share. `executor` None runs nothing.

    `seed` is the sweep's; each job's own is added to it, so that every trial is checked on fresh inputs and
    a sweep repeated with its seed sees the same.
    """

    problem: RouterProblem
    target: str
    pool: Pool
    executor: Executor | None
    plan: MeasurePlan
    facts: RunFacts
    seed: int = 0

    def compile(self, job: Job) -> Future[CompileResult]:
        return self.pool.submit(job.family, self.problem, job.family.config(job.params), self.target)

    def measure(self, job: Job) -> Evaluation:
        """Check and time a compiled job; raises `ExecutorError` when the executor itself breaks."""
        assert self.executor is not None
        assert job.compiled is not None
        assert job.compiled.artifact is not None
        plan = replace(self.plan, seed=1_000_000 * self.seed + job.seed)
        return self.executor.evaluate(job.compiled.artifact, plan)

    def illegal_reason(self, job: Job) -> str | None:
        return job.family.illegal_reason(self.problem, job.family.config(job.params), self.target)

    def record(self, job: Job, evaluation: Evaluation | None = None, illegal: str = "") -> TrialRecord:
        """What became of `job` as far as it got."""
        identity = TrialIdentity.of(job.family.name, self.problem, job.params, self.target, job.role)
        return assemble_record(
            identity, self.facts, illegal=illegal, compiled=job.compiled, evaluation=evaluation
        )

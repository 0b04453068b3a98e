"""Bad candidates are swept along with good ones: each ends with its own outcome and the sweep finishes.

On the stand-in everywhere, and on a real GPU, where the fused kernel itself misbehaves, where there is one.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import optuna
import pytest

from harness.cache import ArtifactCache
from harness.compile_pool import CompilePool
from harness.executor import Executor, MeasurePlan
from harness.provenance import provenance
from harness.record import Outcome
from harness.trial import RunFacts
from kernels.family import KernelFamily
from kernels.problem import PRESETS, RouterProblem
from sweeps import store
from sweeps.driver import Driver, Ending
from sweeps.job import Workshop
from sweeps.objective import PENALTY
from sweeps.sampler import make_sampler
from sweeps.space import Space
from sweeps.spec import ConfirmSpec, SearchSpec, SweepSpec
from sweeps.stop import StopRequest
from tests.harness.faulty_family import FaultyFamily, faulty_executor
from tests.harness.standin import PROBLEM, TARGET, StandinFamily, StandinPool, standin_executor

M_VALUES = (1, 16)
BAD = {
    "out_of_bounds": {Outcome.WRONG_RESULT},
    "endless": {Outcome.TIMEOUT},
    "segfault": {Outcome.CRASHED},
    "wrong_id": {Outcome.WRONG_RESULT},
}
# A GPU also refuses 4 TiB, and may stop an access out of bounds itself before the guard zones are looked at.
BAD_ON_A_GPU = BAD | {
    "out_of_bounds": {Outcome.WRONG_RESULT, Outcome.CRASHED},
    "out_of_memory": {Outcome.CRASHED},
}


def sweep(
    path: Path,
    kernels: KernelFamily,
    problem: RouterProblem,
    restrictions: dict[str, tuple[Any, ...]],
    pool: Any,
    executor: Executor,
    timeout_s: float,
) -> optuna.Study:
    """Sweep the whole restricted space with the real driver."""
    space = Space(kernels, problem, TARGET, restrictions)
    spec = SweepSpec(
        problem=problem,
        family=kernels.name,
        m_values=M_VALUES,
        search=SearchSpec(sampler="exhaustive", trials=None),
        confirm=ConfirmSpec(finalists=1, rounds=1),
    )
    sampler = make_sampler(space, "exhaustive", seed=1, exhaustive_limit=100)
    info = store.StudyInfo(
        "bad",
        kernels.name,
        msgspec.to_builtins(problem),
        TARGET,
        executor.name,
        executor.source,
        M_VALUES,
        "cold",
        M_VALUES,
    )
    study = store.open_study(
        store.open_storage(str(path / "bad.db"), create=True), info, sampler, space.distributions()
    )
    plan = MeasurePlan(M_VALUES, samples=3, timeout_s=timeout_s)
    workshop = Workshop(problem, TARGET, pool, executor, plan, RunFacts.of(executor, provenance()))
    ending = Driver(spec, space, study, sampler, workshop, baselines=[], stop=StopRequest()).run()
    assert ending is Ending.EXHAUSTED
    return study


def judge(study: optuna.Study, bad: dict[str, set[Outcome]], copies: int) -> None:
    """Every candidate has its own outcome and is told to the sampler; the winner is a good one."""
    candidates = [record for record in store.records(study) if record.role == "candidate"]
    for record in candidates:
        print(f"{record.config['fault']:14} {record.outcome.value:13} {record.reason}")
    wanted = {"none": {Outcome.OK}} | bad
    assert Counter(record.config["fault"] for record in candidates) == dict.fromkeys(wanted, copies)
    for record in candidates:
        assert record.outcome in wanted[str(record.config["fault"])], record
        assert bool(record.measurements) == (record.outcome is Outcome.OK)
        assert bool(record.reason) == (record.outcome is not Outcome.OK)
    values = {trial.params["fault"]: trial.value for trial in study.get_trials() if trial.params}
    assert all(values[fault] == PENALTY for fault in bad)
    assert values["none"] < PENALTY
    confirmed = [record.config["fault"] for record in store.records(study) if record.role == "confirmation"]
    assert confirmed
    assert set(confirmed) == {"none"}


def test_bad_candidates_are_swept_along_with_good_ones(tmp_path: Path) -> None:
    restrictions = {"fault": ("none", *BAD), "tile": (32, 64)}
    with standin_executor() as executor:
        pool = StandinPool(tmp_path / "cache")
        study = sweep(tmp_path, StandinFamily(), PROBLEM, restrictions, pool, executor, timeout_s=5.0)
    judge(study, BAD, copies=2)


@pytest.mark.gpu
@pytest.mark.compiles
def test_bad_kernels_are_swept_along_with_good_ones_on_a_gpu(tmp_path: Path) -> None:
    restrictions = {"fault": ("none", *BAD_ON_A_GPU), "copy": (0, 1)}
    with faulty_executor() as executor, CompilePool(ArtifactCache(tmp_path / "cache")) as pool:
        study = sweep(
            tmp_path, FaultyFamily(), PRESETS["deepseek-v4-pro"], restrictions, pool, executor, timeout_s=20.0
        )
    judge(study, BAD_ON_A_GPU, copies=2)

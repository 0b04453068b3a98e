"""The simulator passes the executors' contract with compiled kernels that really misbehave, and is honest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from harness.artifact import Artifact
from harness.check_cases import DISTRIBUTIONS
from harness.executor import CheckDepth, Executor
from harness.record import Conditions, Outcome, Source
from kernels.problem import RouterProblem
from tests.harness.executor_contract import PLAN, Candidates, ExecutorContract
from tests.harness.faulty_family import FAULTS, FaultyConfig, compile_all, faulty_simulator

pytestmark = pytest.mark.compiles

# As small as the fused kernel allows: one tile of experts, few steps of K.
PROBLEM = RouterProblem("small", hidden=256, experts=64, top_k=4)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with faulty_simulator() as executor:
        yield executor


@pytest.fixture
def make() -> Callable[[], Executor]:
    return faulty_simulator


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    cache = tmp_path_factory.mktemp("cache")
    artifacts = compile_all(cache, [FaultyConfig(fault) for fault in FAULTS], PROBLEM)
    known: dict[str, Artifact] = dict(zip(FAULTS, artifacts, strict=True))
    return known.__getitem__


class TestContract(ExecutorContract):
    samples = 1


def test_an_access_out_of_bounds_names_the_instruction_and_the_tensor(
    executor: Executor, candidate: Candidates
) -> None:
    evaluation = executor.evaluate(candidate("out_of_bounds"), PLAN)
    assert evaluation.outcome is Outcome.CRASHED
    place = "SimulationError: lane 0 of warp 0 of CTA (0, 0, 0) of launch 0 at PTX line "
    assert evaluation.reason.startswith(place)
    assert "st.global" in evaluation.reason
    assert "outside every tensor, the nearest is 'argument 5', 1 bytes away" in evaluation.reason


def test_a_brief_check_meets_every_distribution_and_a_full_one_more_shapes(
    executor: Executor, candidate: Candidates
) -> None:
    cases = {}
    for depth in (None, CheckDepth.FULL):
        plan = replace(PLAN, m_values=(), check_depth=depth, timeout_s=60.0)
        check = executor.evaluate(candidate("none"), plan).check
        assert check is not None
        assert check.passed
        assert {case.name for case in check.cases} == set(DISTRIBUTIONS)
        cases[depth] = len(check.cases)
    assert cases[None] < 20 < cases[CheckDepth.FULL]


def test_modelled_times_say_what_they_are(executor: Executor, candidate: Candidates) -> None:
    assert executor.source is Source.MODELLED
    assert executor.device().name == "simulated sm_90a (H100 SXM model)"
    first, again = (executor.evaluate(candidate("none"), PLAN).measurements for _ in range(2))
    assert [(at.cold, at.warm) for at in first] == [(at.cold, at.warm) for at in again], "no noise"
    for at in first:
        assert at.cold.spread_us == at.warm.spread_us == 0.0
        assert at.floor_us < at.warm.median_us <= at.cold.median_us
        assert at.conditions == Conditions()

"""The process executor passes the contract on a real GPU, with candidates that really misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from harness.artifact import Artifact
from harness.executor import Executor
from tests.harness.executor_contract import PLAN, Candidates, ExecutorContract
from tests.harness.faulty_family import FAULTS, FaultyConfig, compile_all, faulty_executor

pytestmark = [pytest.mark.gpu, pytest.mark.compiles]


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with faulty_executor() as executor:
        yield executor


@pytest.fixture
def make() -> Callable[[], Executor]:
    return faulty_executor


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    artifacts = compile_all(tmp_path_factory.mktemp("cache"), [FaultyConfig(fault) for fault in FAULTS])
    known: dict[str, Artifact] = dict(zip(FAULTS, artifacts, strict=True))
    return known.__getitem__


class TestContract(ExecutorContract):
    pass


def test_quantization_is_in_the_time_when_asked_for(candidate: Candidates, executor: Executor) -> None:
    """Captured into the graphs that are timed, with a dozen kernels of torch's beside the candidate's own."""
    plain = executor.evaluate(candidate("none"), PLAN).measurements
    whole = executor.evaluate(candidate("none"), replace(PLAN, quantize=True)).measurements
    assert [each.m for each in whole] == [each.m for each in plain] == list(PLAN.m_values)
    for with_it, without in zip(whole, plain, strict=True):
        assert with_it.quantized
        assert not without.quantized
        assert with_it.cold.median_us > without.cold.median_us

"""The process executor passes the contract on a real GPU, with candidates that really misbehave."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness.artifact import Artifact
from harness.executor import Executor
from tests.harness.executor_contract import Candidates, ExecutorContract
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

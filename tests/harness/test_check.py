"""The check accepts a right kernel on every problem and rejects every planted fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.check import check_router
from harness.check_cases import DISTRIBUTIONS, TAIL_M
from harness.executor import CheckDepth
from harness.record import CaseResult, CheckResult
from kernels.problem import PRESETS, RouterProblem, Score, preset
from tests.harness.emulated_router import (
    MUTATIONS,
    SOFTMAX_MUTATIONS,
    EmulatedRouter,
    ScaleOffByOneUlp,
    TieToTheHighestId,
)

PRO = preset("deepseek-v4-pro")


def check(launch: EmulatedRouter, seed: int, **options: object) -> CheckResult:
    return check_router(
        launch,
        launch.problem,
        launch.workspace_elements,
        device="cpu",
        seed=seed,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("seed", [0, 1, 20260])
@pytest.mark.parametrize("name", PRESETS)
def test_right_kernel_passes(name: str, seed: int) -> None:
    problem = replace(preset(name), hidden=256)
    result = check(EmulatedRouter(problem), seed)
    assert result.passed, result.first_failure
    assert {case.name for case in result.cases} == set(DISTRIBUTIONS)
    assert result.bf16_overlap is not None
    assert 0.7 < result.bf16_overlap < 1.0
    assert max(case.worst_margin_ratio for case in result.cases) <= 1.0
    assert 0.0 < max(case.worst_weight_error for case in result.cases) < 1e-4


def test_right_kernel_passes_at_full_size() -> None:
    result = check(EmulatedRouter(PRO), seed=3)
    assert result.passed, result.first_failure


@pytest.mark.parametrize("k", [1, 8])
@pytest.mark.parametrize("experts", [8, 200, 512])
@pytest.mark.parametrize("score", list(Score))
def test_right_kernel_passes_on_odd_problems(experts: int, k: int, score: Score) -> None:
    biased = score is not Score.SOFTMAX
    problem = RouterProblem(
        "odd",
        hidden=48,
        experts=experts,
        top_k=k,
        score=score,
        bias=biased,
        renorm=score is not Score.SIGMOID,
    )
    result = check(EmulatedRouter(problem), seed=experts + k, tail_unit=64)
    assert result.passed, result.first_failure


def test_there_are_at_least_twenty_mutations() -> None:
    assert len(MUTATIONS) >= 20


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_is_rejected(name: str, seed: int) -> None:
    result = check(MUTATIONS[name](replace(PRO, hidden=512)), seed)
    assert not result.passed
    assert not result.cases[-1].passed
    assert result.cases[-1].detail
    assert result.cases[-1].name in result.first_failure


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_brief_check_rejects_every_mutation_too(name: str) -> None:
    result = check(MUTATIONS[name](replace(PRO, hidden=256)), seed=1, depth=CheckDepth.BRIEF)
    assert not result.passed
    assert result.cases[-1].detail


@pytest.mark.parametrize("seed", range(4))
def test_a_brief_check_tries_few_shapes_and_launches_some_twice(seed: int) -> None:
    launches: Counter[int] = Counter()

    class Counts(EmulatedRouter):
        def __call__(self, *tensors: Tensor) -> None:
            launches[len(tensors[0])] += 1
            super().__call__(*tensors)

    result = check(Counts(replace(PRO, hidden=64)), seed, tail_unit=64, depth=CheckDepth.BRIEF)
    assert result.passed, result.first_failure
    assert {case.name for case in result.cases} == set(DISTRIBUTIONS)
    assert launches[160] >= len(DISTRIBUTIONS)
    assert launches[1] >= 2
    assert launches[131] >= 2, "a third row tile"
    assert launches.total() <= len(DISTRIBUTIONS) + 2 * 3


def test_launches_made_together_give_the_same_verdicts_as_one_by_one() -> None:
    launch = EmulatedRouter(replace(PRO, hidden=64))
    together: list[int] = []

    def all_at_once(launches: Sequence[tuple[Tensor, ...]]) -> None:
        # Of each workspace at most one: none of them needs what another leaves.
        assert len({arguments[4].data_ptr() for arguments in launches}) == len(launches)
        together.append(len(launches))
        for arguments in reversed(launches):
            launch(*arguments)

    one_by_one = check(launch, seed=3)
    at_once = check(launch, seed=3, together=all_at_once)

    def in_order(result: CheckResult) -> list[CaseResult]:
        return sorted(result.cases, key=lambda case: (case.name, case.m))

    assert in_order(at_once) == in_order(one_by_one)
    assert at_once.bf16_overlap == one_by_one.bf16_overlap
    assert together == [len(one_by_one.cases)] * 2


@pytest.mark.parametrize("name", SOFTMAX_MUTATIONS)
def test_every_softmax_mutation_is_rejected(name: str) -> None:
    result = check(SOFTMAX_MUTATIONS[name](replace(preset("qwen3-moe"), hidden=512)), seed=1)
    assert not result.passed
    assert result.first_failure


@pytest.mark.parametrize(("expert", "block"), [(0, 0), (127, 200), (383, 447)])
def test_one_scale_of_any_expert_is_noticed_in_nvfp4_data_at_full_size(expert: int, block: int) -> None:
    launch = ScaleOffByOneUlp(PRO)
    launch.expert, launch.block = expert, block
    result = check(launch, seed=expert, only=("nvfp4_every_expert",))
    assert "the weight of expert" in result.first_failure


def test_ties_are_rejected_for_the_tie_alone() -> None:
    """The gap is 0 and nothing else is wrong: only the rule about equal keys can see it."""
    result = check(TieToTheHighestId(replace(PRO, hidden=512)), seed=4, only=("ties",))
    assert "the gap allowed is 0" in result.first_failure
    assert result.cases[-1].ids_differ > 0


@pytest.mark.parametrize("seed", range(3))
def test_every_tail_shape_is_run(seed: int) -> None:
    result = check(EmulatedRouter(replace(PRO, hidden=16)), seed, tail_unit=32)
    assert {*TAIL_M, 31, 32, 33, 67} <= {case.m for case in result.cases}


def test_same_seed_same_verdict_and_other_seed_other_inputs() -> None:
    def errors(seed: int) -> list[float]:
        result = check(EmulatedRouter(replace(PRO, hidden=64)), seed, only=("normal",))
        return [case.worst_weight_error for case in result.cases]

    assert errors(5) == errors(5)
    assert errors(5) != errors(6)


def test_what_the_kernel_raises_is_passed_on() -> None:
    class Raises(EmulatedRouter):
        def store(self, values: Tensor, found: Tensor, weights: Tensor, ids: Tensor) -> None:
            raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        check(Raises(replace(PRO, hidden=64)), seed=1)


def test_workspace_has_at_least_the_size_asked_for_each_m() -> None:
    sizes = {}

    class Records(EmulatedRouter):
        def __call__(self, *tensors: Tensor) -> None:
            sizes[len(tensors[0])] = len(tensors[4])
            super().__call__(*tensors)

    launch = Records(replace(PRO, hidden=64))
    result = check_router(launch, launch.problem, lambda m: 3 * m + 1, "cpu", seed=1, only=("normal",))
    assert result.passed, result.first_failure
    assert set(sizes) == {case.m for case in result.cases}
    assert all(size >= 3 * m + 1 for m, size in sizes.items())


def test_a_nan_where_none_belongs_is_rejected() -> None:
    class YieldsNan(EmulatedRouter):
        def store(self, values: Tensor, found: Tensor, weights: Tensor, ids: Tensor) -> None:
            values[0, 0] = torch.nan
            super().store(values, found, weights, ids)

    result = check(YieldsNan(replace(PRO, hidden=64)), seed=1)
    assert "is nan, want 0." in result.first_failure

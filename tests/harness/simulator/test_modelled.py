"""Modelled times of persistent kernels: rounds left out would have taken what is charged for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.artifact import Artifact
from harness.compile_pool import CompilePool
from harness.runner import Candidate
from harness.simulator.model import Model
from harness.simulator.modelled import PERIOD, SIMULATED_ROUNDS, ModelledTimes, unread_arguments
from harness.simulator.run import Program
from harness.simulator.target import Target, target_named
from kernels.problem import RouterProblem
from kernels.sm100.config import Sm100Config
from kernels.sm100.families import FusedSm100

pytestmark = pytest.mark.compiles

PROBLEM = RouterProblem("modelled", hidden=1024, experts=256, top_k=4)
FAMILY = FusedSm100()
CONFIGS = {
    "split": Sm100Config(mma_n=64, stages=2, expert_split=4, split_k=4),
    "one accumulator": Sm100Config(mma_n=128, stages=3, acc_stages=1, expert_split=2, grid_split=1),
    "reversed": Sm100Config(mma_n=256, stages=3, acc_stages=1, early_release=True),
    "pair": Sm100Config(mma_m=256, cta_group=2, cluster_m=2, mma_n=128, grid_split=2),
}


@pytest.fixture(scope="module")
def compiled(compile_pool: CompilePool) -> dict[str, Artifact]:
    begun = {}
    for name, config in CONFIGS.items():
        assert FAMILY.illegal_reason(PROBLEM, config, "sm_100a") is None, name
        begun[name] = compile_pool.submit(FAMILY, PROBLEM, config, "sm_100a")
    found = {}
    for name, one in begun.items():
        result = one.result()
        assert result.artifact is not None, result.reason
        found[name] = result.artifact
    return found


def modelled(artifact: Artifact, target: Target | None = None) -> ModelledTimes:
    program = Program.of_folder(artifact.folder)
    return ModelledTimes(Model(program, target=target), Candidate.of_manifest(artifact.manifest, program))


def simulated_us(times: ModelledTimes, m: int) -> float:
    """A launch of `m` tokens, none of its rounds left out."""
    return times.model.microseconds(unread_arguments(times.candidate, m))


def round_tokens(times: ModelledTimes) -> int:
    """Tokens of a round of all clusters of a large launch."""
    assert times.candidate.round_tokens is not None
    return times.model.columns(unread_arguments(times.candidate, 10**5)) * times.candidate.round_tokens


FEWEST_ROUNDS = SIMULATED_ROUNDS + PERIOD  # of which some are left out


@pytest.mark.parametrize(
    ("name", "rounds"), [*((name, FEWEST_ROUNDS + 3) for name in CONFIGS), ("reversed", FEWEST_ROUNDS)]
)
def test_many_rounds_take_as_long_as_all_of_them_simulated(
    compiled: dict[str, Artifact], name: str, rounds: int
) -> None:
    times = modelled(compiled[name])
    tokens = round_tokens(times)
    m = rounds * tokens - tokens // 2 + 1
    assert times.us(m) == pytest.approx(simulated_us(times, m), rel=0.01)


def test_few_rounds_are_simulated_whole(compiled: dict[str, Artifact]) -> None:
    times = modelled(compiled["pair"])
    for m in (1, 300, 2_000, (FEWEST_ROUNDS - 1) * round_tokens(times)):
        assert times.us(m) == simulated_us(times, m)


def test_a_launch_that_several_times_need_is_simulated_once(
    compiled: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = modelled(compiled["split"])
    tokens = round_tokens(times)
    cold = [times.us(rounds * tokens + 5) for rounds in (1, 3, 9)]
    monkeypatch.delattr(Model, "microseconds")
    assert [times.us(rounds * tokens + 5) for rounds in (1, 3, 9)] == cold
    assert times.us(11 * tokens + 5) > cold[-1]
    with pytest.raises(AttributeError):
        times.us(tokens + 5, warm=True)


def test_what_does_not_fit_into_the_l2_is_not_warm(
    compiled: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = target_named("sm_100a")
    times = modelled(
        compiled["split"], replace(table, chip=table.chip | {"l2_capacity_bytes": PROBLEM.hidden * 256})
    )
    assert times.us(64, warm=True) < times.us(64)
    cold = times.us(2048)
    monkeypatch.delattr(Model, "microseconds")
    assert times.us(2048, warm=True) == cold

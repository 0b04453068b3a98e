"""Modelled times of persistent kernels: rounds left out would have taken what is charged for them."""

from __future__ import annotations

import pytest

from harness.artifact import Artifact
from harness.compile_pool import CompilePool
from harness.runner import Candidate
from harness.simulator.model import Model
from harness.simulator.modelled import PERIOD, SIMULATED_ROUNDS, modelled_us, unread_arguments
from harness.simulator.run import Program
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


@pytest.mark.parametrize("name", CONFIGS)
def test_many_rounds_take_as_long_as_all_of_them_simulated(compiled: dict[str, Artifact], name: str) -> None:
    program = Program.of_folder(compiled[name].folder)
    candidate, model = Candidate.of_manifest(compiled[name].manifest, program), Model(program)
    assert candidate.round_tokens is not None
    columns = model.columns(unread_arguments(candidate, 10**5))
    tokens = columns * candidate.round_tokens
    m = (SIMULATED_ROUNDS + PERIOD + 3) * tokens - tokens // 2 + 1
    whole = model.microseconds(unread_arguments(candidate, m))
    assert modelled_us(model, candidate, m) == pytest.approx(whole, rel=0.01)


def test_few_rounds_are_simulated_whole(compiled: dict[str, Artifact]) -> None:
    program = Program.of_folder(compiled["pair"].folder)
    candidate, model = Candidate.of_manifest(compiled["pair"].manifest, program), Model(program)
    for m in (1, 300, 2_000):
        assert modelled_us(model, candidate, m) == model.microseconds(unread_arguments(candidate, m))

"""Fused routers of both targets against the float64 reference, on a small set that covers what they compute.

Every preset's experts, k, score and bias, with a smaller hidden size; the pairs of score and k that no preset
has; tails of tokens; a persistent kernel's second round. Each on plain data, on ties and with NaN and
infinities. On a GPU of the target where there is one, else in the simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.check_bounds import expect
from harness.check_cases import Operands, generate
from harness.check_rule import compare
from harness.compile_pool import CompilePool
from kernels.families import family
from kernels.family import KernelFamily
from kernels.problem import PRESETS, RouterProblem, Score
from kernels.sm90.config import Schedule, Sm90Config, TwoKernelConfig
from kernels.sm100.config import Sm100Config
from tests.kernels.executors import Kernels
from tests.kernels.hopper_configs import CONFIGS, SMALL

pytestmark = pytest.mark.compiles

TARGETS = {"sm_90a": family("fused_sm90"), "sm_100a": family("fused_sm100")}
HIDDEN = 512
SEED = 7


def paired(score: Score, top_k: int) -> RouterProblem:
    bias = score is not Score.SOFTMAX
    return RouterProblem(f"{score}-{top_k}", HIDDEN, experts=160, top_k=top_k, score=score, bias=bias)


def smaller(preset: str) -> RouterProblem:
    return replace(PRESETS[preset], hidden=HIDDEN)


# (problem, tokens); a config of the family's own choice.
CASES: dict[str, tuple[RouterProblem, int]] = {
    "deepseek-v4-pro": (smaller("deepseek-v4-pro"), 127),
    "deepseek-v4-flash": (smaller("deepseek-v4-flash"), 300),
    "deepseek-v4.1-flash": (smaller("deepseek-v4.1-flash"), 1),
    "kimi-k2": (smaller("kimi-k2"), 128),
    "qwen3-moe": (smaller("qwen3-moe"), 160),
    "sqrt_softplus-8": (paired(Score.SQRT_SOFTPLUS, 8), 160),
    "sigmoid-6": (paired(Score.SIGMOID, 6), 127),
    "softmax-6": (paired(Score.SOFTMAX, 6), 128),
}
# Three clusters of 48 CTAs, 128 tokens each, fill the chip: more than 384 tokens take a second round.
DEEP = RouterProblem("deep", hidden=2048, experts=384, top_k=6)
SECOND_ROUND = Sm100Config(mma_n=64, stages=2, epi_n=16, grid_split=3, expert_split=2, split_k=8)
LARGE_TILES = {
    "sm_90a": Sm90Config(tile_m=128, tile_n=64, stages=3, warpgroups=1),
    "sm_100a": Sm100Config(mma_m=256, mma_n=128, cta_group=2, cluster_m=2, stages=2, early_release=True),
}

LOGITS = {
    "rows_over_warpgroups": (SMALL, TwoKernelConfig(tile_m=128, tile_n=48)),
    "columns_over_warpgroups": (
        SMALL,
        TwoKernelConfig(tile_m=64, tile_n=96, schedule=Schedule.COOPERATIVE_N.value),
    ),
    "pingpong": (SMALL, TwoKernelConfig(tile_m=64, tile_n=32, schedule=Schedule.PINGPONG.value)),
    "padded_tile": (SMALL, TwoKernelConfig(tile_m=8, tile_n=32, stages=3, warpgroups=1)),
    "split_k": (replace(SMALL, hidden=1024), TwoKernelConfig(tile_m=64, tile_n=96, split_k=2, warpgroups=1)),
    "odd": (replace(SMALL, experts=71), TwoKernelConfig(tile_m=64, tile_n=48, warpgroups=1)),
}


def config_of(target: str, name: str) -> Any:
    problem, tokens = CASES[name]
    return TARGETS[target].default_config(problem, tokens)


@pytest.fixture(scope="module", params=TARGETS)
def kernels(request: pytest.FixtureRequest, compile_pool: CompilePool) -> Kernels:
    return Kernels(request.param, compile_pool)


def mismatches(
    kernels: Kernels,
    problem: RouterProblem,
    config: Any,
    tokens: int,
    only: tuple[str, ...],
    kernel: KernelFamily | None = None,
) -> list[str]:
    """What is wrong with the outputs on each distribution in `only`; [] when nothing is.

    `kernel`: of which family; None: the target's fused one.
    """
    kernel = kernel or TARGETS[kernels.target]
    launch: Callable[..., object] = kernels.launch(kernel, problem, config)
    workspace = torch.zeros(kernel.workspace_elements(problem, config, tokens), device=kernels.device)
    wrong = []
    drawn = generate(
        problem, SEED, torch.device(kernels.device), 300, only=only, operand_format=kernel.operands
    )
    for operands in drawn:
        rows = min(tokens, operands.m_values[-1])
        weights = torch.full((rows, problem.top_k), float("nan"), device=kernels.device)
        ids = torch.full_like(weights, -1, dtype=torch.int32)
        numbers = (operands.bias, operands.alpha, workspace, weights, ids)
        launch(*operands.for_launch(rows, kernel.operands), *numbers)
        detail = compare(ids, weights, expected(operands, rows, problem), problem).detail
        if detail:
            wrong.append(f"{operands.name} at M = {rows}: {detail}")
    return wrong


def expected(operands: Operands, rows: int, problem: RouterProblem) -> Any:
    return expect(operands, problem).rows(slice(rows))


@pytest.mark.parametrize("name", CASES)
def test_every_preset_score_and_k(name: str, kernels: Kernels) -> None:
    problem, tokens = CASES[name]
    only = ("normal", "ties", "non_finite")
    assert not mismatches(kernels, problem, config_of(kernels.target, name), tokens, only)


@pytest.mark.parametrize("tokens", [1, 127, 300])
def test_tails_of_large_tiles(tokens: int, kernels: Kernels) -> None:
    config = LARGE_TILES[kernels.target]
    assert not mismatches(kernels, smaller("deepseek-v4-pro"), config, tokens, ("normal",))


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if config is not None])
def test_every_kind_of_hopper_config(name: str, compile_pool: CompilePool) -> None:
    kernels = Kernels("sm_90a", compile_pool)
    assert not mismatches(kernels, SMALL, CONFIGS[name], 65, ("normal",))


def test_a_second_round_of_a_persistent_kernel(compile_pool: CompilePool) -> None:
    kernels = Kernels("sm_100a", compile_pool)
    assert not mismatches(kernels, DEEP, SECOND_ROUND, 450, ("normal",))


@pytest.mark.parametrize("name", LOGITS)
def test_logits_of_every_fragment_are_stored(name: str, compile_pool: CompilePool) -> None:
    """In pairs of columns, or one by one where the experts' number is odd."""
    problem, config = LOGITS[name]
    kernels, two_kernel = Kernels("sm_90a", compile_pool), family("two_kernel_sm90")
    assert two_kernel.illegal_reason(problem, config, "sm_90a") is None
    assert not mismatches(kernels, problem, config, 65, ("normal",), two_kernel)

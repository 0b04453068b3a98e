"""The rules of the Blackwell space: each reads what it says and refuses what it is for; defaults obey."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.family import KernelFamily, OperandFormat, ParamValue, Rule
from kernels.problem import PRESETS, RouterProblem, Score
from kernels.sm100.config import (
    COUNTERS,
    EXCLUSIVE_SMEM_BYTES,
    RULES,
    SMEM_BYTES,
    SMS,
    SPACE,
    TMEM_COLUMNS,
    TWO_KERNEL_RULES,
    Sm100Config,
    workspace_elements,
)
from kernels.sm100.families import FusedSm100, TwoKernelSm100
from sweeps.space import Space

TARGET = "sm_100a"
FUSED, TWO_KERNEL = FusedSm100(), TwoKernelSm100()
PRO = PRESETS["deepseek-v4-pro"]  # K 7168, E 384, k 6
PLAIN_SOFTMAX = replace(PRESETS["qwen3-moe"], renorm=False)
PAIR: dict[str, Any] = {"mma_m": 256, "cta_group": 2, "cluster_m": 2}


def configs(space: dict[str, tuple[ParamValue, ...]]) -> st.SearchStrategy[Sm100Config]:
    return st.builds(Sm100Config, **{name: st.sampled_from(choices) for name, choices in space.items()})


@st.composite
def problems(draw: st.DrawFn) -> RouterProblem:
    experts = draw(st.integers(2, 512))
    score = draw(st.sampled_from(Score))
    return RouterProblem(
        "drawn",
        hidden=32 * draw(st.integers(1, 512)),
        experts=experts,
        top_k=draw(st.integers(1, min(8, experts))),
        score=score,
        bias=score is not Score.SOFTMAX and draw(st.booleans()),
        renorm=draw(st.booleans()),
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.reason.__name__)
@given(problem=st.sampled_from([*PRESETS.values()]) | problems(), config=configs(SPACE))
def test_a_rule_reads_nothing_but_the_parameters_it_names(
    rule: Rule, problem: RouterProblem, config: Sm100Config
) -> None:
    verdict = rule.reason(problem, config)
    for name in set(SPACE) - set(rule.reads):
        for choice in SPACE[name]:
            assert rule.reason(problem, replace(config, **{name: choice})) == verdict, (name, choice)


def test_rules_name_parameters_of_the_space() -> None:
    assert {name for rule in RULES for name in rule.reads} == set(SPACE)


@pytest.mark.parametrize("problem", PRESETS.values(), ids=PRESETS)
def test_enumerating_by_rules_finds_what_filtering_the_product_finds(problem: RouterProblem) -> None:
    choices = SPACE | {
        "mma_n": (64, 256),
        "cluster_m": (1, 2),
        "expert_split": (1, 2),
        "split_k": (1, 4),
        "grid_split": (1, 3),
        "stages": (2, 6),
        "epi_n": (32,),
    }
    every = [dict(zip(SPACE, values, strict=True)) for values in product(*choices.values())]
    legal = [params for params in every if not FUSED.illegal_reason(problem, Sm100Config(**params), TARGET)]
    found = Space(FUSED, problem, TARGET, choices)
    assert 0 < len(legal) < found.size == len(every)
    assert [found.params(index) for index in range(len(found))] == legal


@given(problem=problems(), config=configs(SPACE))
def test_a_config_is_illegal_for_the_first_rule_that_refuses_it_in_one_line(
    problem: RouterProblem, config: Sm100Config
) -> None:
    refusals = [reason for rule in RULES if (reason := rule.reason(problem, config)) is not None]
    assert FUSED.illegal_reason(problem, config, TARGET) == (refusals[0] if refusals else None)
    assert all(reason and "\n" not in reason for reason in refusals)


# A legal config, the change that makes it illegal, and the only refusal that it meets. One for each reason
# that a rule can give.
REFUSED: list[tuple[RouterProblem, dict[str, Any], dict[str, Any], str]] = [
    (PRO, {}, {"mma_m": 256}, "mma_m = 256 with cta_group = 1: this kernel gives a CTA 128 rows"),
    (PRO, PAIR, {"mma_m": 128}, "mma_m = 128 with cta_group = 2: this kernel gives a CTA 128 rows"),
    (PRO, PAIR, {"cluster_m": 1}, "cta_group = 2 pairs CTAs along cluster_m, which is 1"),
    (
        PRO,
        {"mma_n": 64, "expert_split": 3, "split_k": 4},
        {"cluster_m": 2},
        "a cluster of 24 CTAs: at most 16",
    ),
    (
        PRO,
        {"mma_n": 64, "swap_operands": True},
        {"cluster_m": 2},
        "swap_operands is for few tokens: with cta_group = 1 and cluster_m = 1",
    ),
    (
        PRO,
        {"expert_split": 3},
        {"expert_split": 2},
        "tiles of 128 experts for 2 CTAs leave a whole tile without an expert",
    ),
    (
        PRO,
        {"mma_n": 192},
        {"grid_split": 3},
        "tiles of 192 experts for 3 CTAs leave a whole tile without an expert",
    ),
    (
        PRO,
        {},
        {"multicast_a": True},
        "multicast_a shares the tokens among the CTAs of an expert split, and there is none",
    ),
    (
        PRO,
        {"expert_split": 3},
        {"multicast_a": True},
        "multicast divides a stage's 4 scale atoms, not among 3 CTAs",
    ),
    (
        replace(PRO, hidden=256 * 6),
        {"split_k": 2, "stages": 2, "mma_n": 64},
        {"split_k": 4},
        "6 K tiles cannot be divided among 4 CTAs",
    ),
    (replace(PRO, hidden=256 * 4), {"stages": 4}, {"stages": 5}, "5 stages for 4 K tiles"),
    (
        PRO,
        {"mma_n": 256, "stages": 3, "acc_stages": 1},
        {"acc_stages": 2},
        "560 columns of tensor memory: there are 512",
    ),
    (
        PRO,
        {"mma_n": 64, "epi_n": 64},
        {"epi_warpgroups": 2},
        "64 columns in subtiles of 64 for 2 epilogue warpgroups",
    ),
    (
        PRO,
        {"mma_n": 64, "split_k": 2},
        {"early_release": True},
        "early_release: staging an accumulator in shared memory returns it at once, there is no choice",
    ),
    (
        PRO,
        {"mma_n": 64, "swap_operands": True, "expert_split": 3, "split_k": 4, "stages": 2},
        {"epi_warpgroups": 2},
        "48 partial lists of a row: a warp merges at most 32",
    ),
    (PRO, {}, {"stages": 7}, "260096 bytes of shared memory: a block has 231424"),
]


@pytest.mark.parametrize(("problem", "legal", "change", "reason"), REFUSED, ids=[row[3] for row in REFUSED])
def test_what_is_just_legal_and_what_is_not(
    problem: RouterProblem, legal: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    def refusals(config: Sm100Config) -> list[str]:
        return [reason for rule in RULES if (reason := rule.reason(problem, config)) is not None]

    assert refusals(Sm100Config(**legal)) == []
    assert refusals(Sm100Config(**legal | change)) == [reason]


def test_rows_that_tma_cannot_address_are_refused() -> None:
    problem = replace(PRO, hidden=7168 + 16)
    assert FUSED.illegal_reason(problem, Sm100Config(), TARGET) == (
        "hidden = 7184: a row of e2m1 must be a multiple of 16 bytes for TMA"
    )


@pytest.mark.parametrize("mma_n", [192, 256])
def test_swapped_operands_want_a_thread_for_each_token(mma_n: int) -> None:
    config = Sm100Config(mma_n=mma_n, swap_operands=True, acc_stages=1, stages=2)
    assert FUSED.illegal_reason(PRO, config, TARGET) == (
        f"swap_operands gives each of {mma_n} tokens a thread of a warpgroup: mma_n = 64 or 128"
    )


def test_softmax_without_renormalization_is_for_the_two_kernel_path() -> None:
    config = TWO_KERNEL.default_config(PLAIN_SOFTMAX, 64)
    assert TWO_KERNEL.illegal_reason(PLAIN_SOFTMAX, config, TARGET) is None
    assert FUSED.illegal_reason(PLAIN_SOFTMAX, Sm100Config(), TARGET) == (
        "softmax without renormalization needs a sum over all experts: only the two-kernel path forms it"
    )
    assert [rule for rule in RULES if rule not in TWO_KERNEL_RULES] == [RULES[0]]


@pytest.mark.parametrize(
    ("config", "target", "reason"),
    [
        (Sm100Config(), "sm_90a", "target sm_90a: this kernel is for sm_100a, sm_103a"),
        (Sm100Config(mma_n=32), TARGET, "mma_n = 32 is not one of 64, 128, 192, 256"),
        (Sm100Config(epi_n=8), "sm_103a", "epi_n = 8 is not one of 16, 32, 64"),
    ],
)
def test_only_the_spaces_choices_on_its_targets_are_legal(
    config: Sm100Config, target: str, reason: str
) -> None:
    assert FUSED.illegal_reason(PRO, config, target) == reason


@given(problem=st.sampled_from([*PRESETS.values()]) | problems(), config=configs(SPACE))
def test_a_legal_config_fits_the_chip(problem: RouterProblem, config: Sm100Config) -> None:
    if FUSED.illegal_reason(problem, config, TARGET) is None:
        assert config.tmem_columns <= config.tmem_allocation <= TMEM_COLUMNS
        assert EXCLUSIVE_SMEM_BYTES < config.smem_bytes(problem) <= SMEM_BYTES


# Tensor memory by hand: accumulators, then 4 columns for each 128 rows of scales of each of 4 MMAs.
@pytest.mark.parametrize(
    ("config", "columns", "allocation"),
    [
        (Sm100Config(mma_n=64, acc_stages=1), 64 + 16 + 16, 128),
        (Sm100Config(mma_n=64), 128 + 16 + 16, 256),
        (Sm100Config(mma_n=128), 256 + 16 + 16, 512),
        (Sm100Config(mma_n=192), 384 + 16 + 32, 512),
        (Sm100Config(mma_n=256, acc_stages=1), 256 + 16 + 32, 512),
        (Sm100Config(mma_n=256, acc_stages=1, early_release=True), 2 * 256 - 48 + 48, 512),
        (Sm100Config(mma_n=256, acc_stages=1, early_release=True, **PAIR), 2 * 256 - 48 + 48, 512),
    ],
)
def test_tensor_memory_columns(config: Sm100Config, columns: int, allocation: int) -> None:
    assert (config.tmem_columns, config.tmem_allocation) == (columns, allocation)


@pytest.mark.parametrize("epi_n", [16, 32, 64])
@pytest.mark.parametrize("epi_warpgroups", [1, 2])
@pytest.mark.parametrize(("mma_n", "acc_stages"), [(64, 1), (128, 2), (192, 2), (256, 1)])
def test_early_release_waits_for_the_columns_that_the_next_accumulator_takes(
    mma_n: int, acc_stages: int, epi_warpgroups: int, epi_n: int
) -> None:
    config = Sm100Config(
        mma_n=mma_n,
        acc_stages=acc_stages,
        epi_warpgroups=epi_warpgroups,
        epi_n=epi_n,
        early_release=True,
        stages=2,
    )
    if FUSED.illegal_reason(PRO, config, TARGET) is not None:
        assert (mma_n, epi_n, epi_warpgroups) in {(64, 64, 2), (192, 64, 2)}
        return
    assert config.iter_acc_early_release is not None
    read = (config.iter_acc_early_release + 1) * epi_n * epi_warpgroups
    taken = 2 * mma_n - config.accumulator_columns if config.overlaps else mma_n
    # All of them, and no subtile too many.
    assert taken <= read < taken + epi_n * epi_warpgroups
    assert replace(config, early_release=False).iter_acc_early_release is None


@pytest.mark.parametrize("family", [FUSED, TWO_KERNEL], ids=lambda family: family.name)
@given(problem=st.sampled_from([*PRESETS.values()]) | problems(), m=st.integers(1, 1 << 20))
def test_the_default_is_legal_for_any_problem_and_m(
    family: KernelFamily, problem: RouterProblem, m: int
) -> None:
    if family is FUSED and problem.score is Score.SOFTMAX and not problem.renorm:
        problem = replace(problem, renorm=True)
    config = family.default_config(problem, m)
    assert isinstance(config, family.config_type)
    assert family.illegal_reason(problem, config, TARGET) is None
    assert family.workspace_elements(problem, config, m) >= 1


def test_workspace_of_the_fused_kernel() -> None:
    assert workspace_elements(PRO, Sm100Config(), 4096) == 1
    # Counters, then 3 lists of 6 triples for each of 100 tokens.
    assert workspace_elements(PRO, Sm100Config(grid_split=3), 100) == COUNTERS + 3 * 3 * 100 * 6


def test_workspace_of_the_two_kernel_path_is_the_logits() -> None:
    assert TWO_KERNEL.workspace_elements(PRO, TWO_KERNEL.default_config(PRO, 1), 100) == 100 * 384


@pytest.mark.parametrize("m", [1025, 2048, 2049, 4096])
@pytest.mark.parametrize("name", ["deepseek-v4-pro", "deepseek-v4-flash"])
def test_defaults_for_some_thousand_tokens_fill_one_wave(name: str, m: int) -> None:
    config = FUSED.default_config(PRESETS[name], m)
    ctas = -(-m // config.token_tile) * config.expert_split * config.split_k * config.grid_split
    assert SMS // 3 < ctas <= SMS
    assert config.epi_warpgroups == 2


def test_more_tokens_than_a_grid_split_can_count_are_refused() -> None:
    config = Sm100Config(mma_n=64, expert_split=2, split_k=4, grid_split=3)
    # 8192 tiles of 128 tokens by 8 CTAs are as many as there are counters.
    assert workspace_elements(PRO, config, 1 << 20) == COUNTERS + 3 * 3 * (1 << 20) * 6
    with pytest.raises(ValueError, match=r"M = 1048577 in tiles of 128 needs over 65536 counters: set grid"):
        workspace_elements(PRO, config, (1 << 20) + 1)


def test_the_families_take_nvfp4_and_name_the_tokens_of_a_tile() -> None:
    assert FUSED.operands is TWO_KERNEL.operands is OperandFormat.NVFP4
    assert FUSED.token_tile(Sm100Config()) == 128
    assert FUSED.token_tile(Sm100Config(**PAIR)) == 256
    assert FUSED.token_tile(Sm100Config(mma_n=64, swap_operands=True)) == 64

"""The rules of the Hopper space: each reads what it says, refuses what it is for, and defaults obey them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.family import KernelFamily, ParamValue, Rule
from kernels.problem import PRESETS, RouterProblem, Score
from kernels.sm90.config import COUNTERS, RULES, SPACE, TWO_KERNEL_RULES, Sm90Config, workspace_elements
from kernels.sm90.families import FusedSm90, TwoKernelSm90
from sweeps.space import Space

TARGET = "sm_90a"
FUSED, TWO_KERNEL = FusedSm90(), TwoKernelSm90()
PRO = PRESETS["deepseek-v4-pro"]  # K 7168, E 384, k 6


def configs(space: dict[str, tuple[ParamValue, ...]]) -> st.SearchStrategy[Sm90Config]:
    return st.builds(Sm90Config, **{name: st.sampled_from(choices) for name, choices in space.items()})


@st.composite
def problems(draw: st.DrawFn) -> RouterProblem:
    experts = draw(st.integers(2, 512))
    score = draw(st.sampled_from(Score))
    return RouterProblem(
        "drawn",
        hidden=16 * draw(st.integers(1, 1024)),
        experts=experts,
        top_k=draw(st.integers(1, min(8, experts))),
        score=score,
        bias=score is not Score.SOFTMAX and draw(st.booleans()),
        renorm=draw(st.booleans()),
    )


# Rules are about more tiles than the space has choices: no choice of tile_n meets `_multicast_b` yet.
ANY_TILES = SPACE | {"tile_n": tuple(range(8, 392, 8))}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.reason.__name__)
@given(problem=st.sampled_from([*PRESETS.values()]) | problems(), config=configs(ANY_TILES))
def test_a_rule_reads_nothing_but_the_parameters_it_names(
    rule: Rule, problem: RouterProblem, config: Sm90Config
) -> None:
    verdict = rule.reason(problem, config)
    for name in set(SPACE) - set(rule.reads):
        for choice in ANY_TILES[name]:
            assert rule.reason(problem, replace(config, **{name: choice})) == verdict, (name, choice)


def test_rules_name_parameters_of_the_space() -> None:
    assert {name for rule in RULES for name in rule.reads} == set(SPACE)


@pytest.mark.parametrize("problem", PRESETS.values(), ids=PRESETS)
def test_enumerating_by_rules_finds_what_filtering_the_product_finds(problem: RouterProblem) -> None:
    choices = SPACE | {
        "tile_m": (16, 64, 128),
        "tile_n": (48, 192),
        "tile_k": (128,),
        "stages": (3, 8),
        "expert_split": (1, 4),
        "split_k": (1, 4),
        "grid_split": (1, 2),
    }
    every = [dict(zip(SPACE, values, strict=True)) for values in product(*choices.values())]
    legal = [params for params in every if not FUSED.illegal_reason(problem, Sm90Config(**params), TARGET)]
    found = Space(FUSED, problem, TARGET, choices)
    assert 0 < len(legal) < found.size == len(every)
    assert [found.params(index) for index in range(len(found))] == legal


@given(problem=problems(), config=configs(SPACE))
def test_a_config_is_illegal_for_the_first_rule_that_refuses_it_in_one_line(
    problem: RouterProblem, config: Sm90Config
) -> None:
    refusals = [reason for rule in RULES if (reason := rule.reason(problem, config)) is not None]
    assert FUSED.illegal_reason(problem, config, TARGET) == (refusals[0] if refusals else None)
    assert all(reason and "\n" not in reason for reason in refusals)


PLAIN_SOFTMAX = replace(PRESETS["qwen3-moe"], renorm=False)
ONE_GROUP: dict[str, Any] = {"tile_m": 64, "warpgroups": 1}
SHARED_EXPERTS: dict[str, Any] = {"expert_split": 4, "split_k": 4, "tile_n": 96, "tile_m": 64}
OVERLAID: dict[str, Any] = {
    "tile_n": 256,
    "expert_split": 2,
    "split_k": 8,
    "stages": 4,
    "schedule": "cooperative_n",
}
REDUCED: dict[str, Any] = {"tile_m": 64, "tile_n": 48, "expert_split": 8, "schedule": "cooperative_n"}

# A legal config, the change that makes it illegal, and the only refusal that it meets. One for each reason
# that a rule can give.
REFUSED: list[tuple[RouterProblem, dict[str, Any], dict[str, Any], str]] = [
    (
        PRO,
        {},
        {"expert_split": 2},
        "tile_n = 128 for each of 2 CTAs leaves a whole tile without an expert",
    ),
    (
        PRO,
        {"tile_n": 48, "expert_split": 8, **ONE_GROUP, "cluster_m": 2},
        {"split_k": 2},
        "a cluster of 32 CTAs: at most 16",
    ),
    (
        PRO,
        {"tile_n": 24, **ONE_GROUP},
        {"cluster_m": 2},
        "multicast gives each of 2 CTAs a part of B's 24 rows in units of 8",
    ),
    (
        PRO,
        {},
        {"multicast_a": True},
        "multicast_a shares A among the CTAs of an expert split, and there is none",
    ),
    (
        PRO,
        {"expert_split": 3},
        {"multicast_a": True},
        "multicast gives each of 3 CTAs a part of A's 128 rows in units of 8",
    ),
    (
        replace(PRO, hidden=64 * 6),
        {"expert_split": 3, "stages": 3, "split_k": 2},
        {"split_k": 4},
        "6 K tiles cannot be divided among 4 CTAs",
    ),
    (replace(PRO, hidden=64 * 5), {"stages": 4}, {"stages": 6}, "6 stages for 5 K tiles"),
    (PRO, {"schedule": "pingpong"}, {"warpgroups": 1}, "pingpong alternates two warpgroups, not 1"),
    (
        PRO,
        {},
        {"early_release": True},
        "early_release belongs to the pingpong schedule: elsewhere nobody waits for the tensor cores",
    ),
    (
        PRO,
        {"schedule": "pingpong"},
        {"expert_split": 3},
        "pingpong needs at least two expert tiles in a CTA",
    ),
    (
        PRO,
        {"schedule": "cooperative_n"},
        {"warpgroups": 1},
        "one warpgroup has nobody to share columns with: use cooperative_m",
    ),
    (PRO, {}, {"tile_m": 64}, "tile_m = 64 has not 64 rows for each of 2 warpgroups"),
    (
        PRO,
        {"schedule": "cooperative_n", "tile_n": 32},
        {"tile_n": 16},
        "8 columns for a warpgroup: multiples of 8 from 16 to 256",
    ),
    (
        PRO,
        {"stages": 3, "tile_n": 256},
        {"tile_n": 384},
        "384 columns for a warpgroup: multiples of 8 from 16 to 256",
    ),
    (
        PRO,
        {**SHARED_EXPERTS, "schedule": "cooperative_n", "warpgroups": 2},
        {"warpgroups": 3},
        "48 partial lists of a row: a warp merges at most 32",
    ),
    (
        PRO,
        {"grid_split": 3, "split_k": 2},
        {"grid_split": 1},
        "split_k reduces a single expert tile per CTA: raise tile_n, expert_split or grid_split",
    ),
    (
        replace(PRO, experts=96),
        {**REDUCED, "expert_split": 2, "split_k": 4},
        {"split_k": 8},
        "24 columns cannot be reduced in pairs by 8 CTAs",
    ),
    (PRO, {"stages": 6}, {"stages": 8}, "282112 bytes of shared memory: a block has 231424"),
    (PRO, OVERLAID, {"stages": 3}, "150528 bytes of partial results do not fit over 147456 bytes of stages"),
    (
        PRO,
        {"tile_n": 192},
        {"warpgroups": 1},
        "at least 242 registers a thread: 1 consumer warpgroups leave 240",
    ),
]


@pytest.mark.parametrize(("problem", "legal", "change", "reason"), REFUSED, ids=[row[3] for row in REFUSED])
def test_what_is_just_legal_and_what_is_not(
    problem: RouterProblem, legal: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    def refusals(config: Sm90Config) -> list[str]:
        return [reason for rule in RULES if (reason := rule.reason(problem, config)) is not None]

    assert refusals(Sm90Config(**legal)) == []
    assert refusals(Sm90Config(**legal | change)) == [reason]


def test_softmax_without_renormalization_is_for_the_two_kernel_path() -> None:
    config = TWO_KERNEL.default_config(PLAIN_SOFTMAX, 64)
    assert TWO_KERNEL.illegal_reason(PLAIN_SOFTMAX, config, TARGET) is None
    assert FUSED.illegal_reason(PLAIN_SOFTMAX, Sm90Config(), TARGET) == (
        "softmax without renormalization needs a sum over all experts: only the two-kernel path forms it"
    )
    with pytest.raises(ValueError, match=r"qwen3-moe: no default config is legal \(softmax without"):
        FUSED.default_config(PLAIN_SOFTMAX, 64)
    assert [rule for rule in RULES if rule not in TWO_KERNEL_RULES] == [RULES[0]]


@pytest.mark.parametrize(
    ("config", "target", "reason"),
    [
        (Sm90Config(), "sm_100a", "target sm_100a: this kernel is for sm_90a"),
        (Sm90Config(tile_k=32), TARGET, "tile_k = 32 is not one of 64, 128"),
        (
            Sm90Config(schedule="solo"),
            TARGET,
            "schedule = solo is not one of cooperative_m, cooperative_n, pingpong",
        ),
        (Sm90Config(tile_n=0), TARGET, "tile_n = 0 is not one of 16, 32, 48, 64, 96, 128, 192, 256, 384"),
    ],
)
def test_only_the_spaces_choices_on_its_target_are_legal(
    config: Sm90Config, target: str, reason: str
) -> None:
    assert FUSED.illegal_reason(PRO, config, target) == reason


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
    assert workspace_elements(PRO, Sm90Config(), 4096) == 1
    split = Sm90Config(tile_m=16, tile_n=32, grid_split=12, warpgroups=1)
    # Counters, then 12 lists of 6 triples for each of 100 tokens.
    assert workspace_elements(PRO, split, 100) == COUNTERS + 3 * 12 * 100 * 6


def test_workspace_of_the_two_kernel_path_is_the_logits() -> None:
    assert TWO_KERNEL.workspace_elements(PRO, TWO_KERNEL.default_config(PRO, 1), 100) == 100 * 384


def test_more_tokens_than_a_grid_split_can_count_are_refused() -> None:
    config = Sm90Config(tile_m=8, cluster_m=2, expert_split=8, grid_split=2, warpgroups=1)
    # 4096 pairs of tiles of 8 tokens by 8 CTAs are as many as there are counters.
    assert workspace_elements(PRO, config, 65_536) == COUNTERS + 3 * 2 * 65_536 * 6
    with pytest.raises(ValueError, match=r"M = 65537 in tiles of 8 needs over 65536 counters: raise tile_m"):
        workspace_elements(PRO, config, 65_537)

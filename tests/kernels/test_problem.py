"""Router problems: the presets of the design and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from kernels.problem import DEFAULT_PRESET, PRESETS, RouterProblem, Score, preset

# DESIGN.md's table: K, E, k, score, routed scale.
TABLE = {
    "deepseek-v4-pro": (7168, 384, 6, Score.SQRT_SOFTPLUS, 2.5),
    "deepseek-v4-flash": (4096, 256, 6, Score.SQRT_SOFTPLUS, 1.5),
    "deepseek-v4.1-flash": (5120, 384, 6, Score.SQRT_SOFTPLUS, 1.5),
    "kimi-k2": (7168, 384, 8, Score.SIGMOID, 2.827),
    "qwen3-moe": (4096, 128, 8, Score.SOFTMAX, 1.0),
}


def test_presets_are_those_of_the_design() -> None:
    found = {p.name: (p.hidden, p.experts, p.top_k, p.score, p.routed_scale) for p in PRESETS.values()}
    assert found == TABLE
    assert DEFAULT_PRESET == "deepseek-v4-pro"
    assert [name for name, p in PRESETS.items() if not p.bias] == ["qwen3-moe"]


def test_unknown_preset_names_the_known_ones() -> None:
    assert preset("kimi-k2") is PRESETS["kimi-k2"]
    with pytest.raises(ValueError, match=r"unknown preset 'kimi': known are deepseek-v4-pro, .*qwen3-moe"):
        preset("kimi")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 100}, "hidden = 100: must be a positive multiple of 16"),
        ({"hidden": 0}, "hidden = 0"),
        ({"top_k": 0}, "top_k = 0: must be from 1 to 8"),
        ({"top_k": 9}, "top_k = 9"),
        ({"experts": 513}, "experts = 513: must be from top_k = 2 to 512"),
        ({"experts": 1}, "experts = 1"),
        ({"score": Score.SOFTMAX}, "softmax scores take no selection bias"),
        ({"score": "softmax"}, "softmax scores take no selection bias"),
        ({"score": "relu"}, "score = 'relu': must be one of sqrt_softplus, sigmoid, softmax"),
        ({"score": None}, "score = None: must be one of"),
    ],
)
def test_impossible_problems_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RouterProblem(**{"name": "bad", "hidden": 64, "experts": 8, "top_k": 2, **change})


@pytest.mark.parametrize("score", list(Score))
def test_a_score_by_name_is_the_score(score: Score) -> None:
    arguments: dict[str, Any] = {"hidden": 64, "experts": 8, "top_k": 2, "bias": False}
    named = RouterProblem("named", score=score.value, **arguments)
    assert named.score is score
    assert named == RouterProblem("named", score=score, **arguments)

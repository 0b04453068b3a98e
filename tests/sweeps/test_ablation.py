"""The ablation: equal searches within what each variant allows, winners checked, nothing tried twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from harness.ablation_record import (
    ALL,
    FUSED,
    TWO_KERNEL_PATH,
    VARIANTS,
    Tried,
    allowed,
    best,
    read_tried,
    released,
)
from harness.record import Outcome, RecordError
from kernels.problem import preset
from results.plot_ablation import (
    best_table,
    config_table,
    design_table,
    draw_ablation,
    release_table,
    searched_m,
)
from sweeps.ablation import FACTORS, Ablation

M = (1, 1024)
CANDIDATES = 6


@pytest.fixture
def ablation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ablation:
    """An ablation whose times are invented: splitting makes a config faster."""

    def modelled(self: Ablation, found: Tried, m_values: list[int]) -> Tried:
        splits = int(found.config["expert_split"]) * int(found.config["split_k"])
        return replace(found, us={**found.us, **{m: 100.0 / splits + m for m in m_values}})

    monkeypatch.setattr(Ablation, "_modelled", modelled)
    monkeypatch.setattr(Ablation, "check", lambda self, one: self._keep(replace(one, checked=True)))
    return Ablation(preset("deepseek-v4-pro"), M, tmp_path / "not there yet" / "ablation.jsonl", tmp_path)


@pytest.mark.filterwarnings("ignore:fused_sm100")
def test_every_variant_tries_as_many_configs_as_the_others(ablation: Ablation) -> None:
    for variant in (*VARIANTS, TWO_KERNEL_PATH):
        found = list(ablation.search(variant, CANDIDATES, seed=0))
        if variant != TWO_KERNEL_PATH:
            assert all(allowed(one.config, variant) for one in found)
        assert len({str(one.config) for one in found}) == len(found) <= CANDIDATES
    numbers = Counter(one.search for one in read_tried(ablation.out))
    assert numbers[ALL] == numbers[TWO_KERNEL_PATH] == CANDIDATES
    tried = read_tried(ablation.out)
    for m in M:
        free = best(tried, ALL, m)
        assert free is not None
        assert all(free.us[m] <= one.us[m] for v in VARIANTS if (one := best(tried, v, m)) is not None)
    again = Ablation(ablation.problem, M, ablation.out, ablation.cache)
    assert len(again.tried) == len(tried)
    assert not list(again.search(ALL, CANDIDATES, seed=0))


@pytest.mark.filterwarnings("ignore:fused_sm100")
def test_the_design_has_every_combination_once(ablation: Ablation) -> None:
    found = list(ablation.design(seed=0))
    combinations = {tuple(one.config[name] for name in FACTORS) for one in found}
    assert len(combinations) == len(found)
    assert (True, 3, 4, 1) in combinations
    assert (False, 1, 1, 1) in combinations
    assert "| False | 1 | 6 |" in design_table(found)


@pytest.mark.filterwarnings("ignore:fused_sm100")
def test_a_combination_that_a_search_tried_before_is_in_the_designs_table(ablation: Ablation) -> None:
    list(ablation.design(seed=0))
    tried = read_tried(ablation.out)
    renamed = [replace(one, search=ALL) if number % 2 else one for number, one in enumerate(tried)]
    assert design_table(renamed) == design_table(tried)
    assert design_table(tried).count("\n") > 10


@pytest.mark.filterwarnings("ignore:fused_sm100")
def test_winners_are_checked_until_all_have_passed(
    ablation: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(ablation.search(ALL, CANDIDATES, seed=0))
    first = best(ablation.tried.values(), ALL, M[0])
    assert first is not None
    wrong = first.config

    def check(self: Ablation, one: Tried) -> Tried:
        outcome = Outcome.WRONG_RESULT if one.config == wrong else Outcome.OK
        return self._keep(replace(one, checked=True, outcome=outcome))

    monkeypatch.setattr(Ablation, "check", check)
    assert list(ablation.check_winners([ALL]))
    for m in M:
        winner = best(read_tried(ablation.out), ALL, m)
        assert winner is not None
        assert winner.checked
        assert winner.config != wrong


@pytest.mark.filterwarnings("ignore:fused_sm100")
def test_tables_and_picture_come_from_the_file(ablation: Ablation, tmp_path: Path) -> None:
    for variant in (*VARIANTS, TWO_KERNEL_PATH):
        list(ablation.search(variant, 3, seed=0))
    ablation.pairs_of_early_release(lambda one: None)
    tried = read_tried(ablation.out)
    assert searched_m(tried) == list(M)
    assert best_table(tried).count("\n") == len(VARIANTS) + 2
    assert "not checked" in config_table(tried)
    pairs = released(tried, 4096)
    assert pairs
    assert all(not one.config["early_release"] and two.config["early_release"] for one, two in pairs)
    assert "+0.0%" in release_table(tried)
    draw_ablation(tried).savefig(tmp_path / "ablation.png")


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ablation.jsonl"
    path.write_text(
        '{"schema": "other/1", "family": "fused_sm100", "target": "sm_100a", "problem": "p", "search": "s",'
        ' "number": 0, "config": {}, "provenance": {"date": "", "commit": "", "host": "", "python": "",'
        ' "torch": "", "dsl": ""}}\n'
    )
    with pytest.raises(RecordError, match="schema"):
        read_tried(path)


def test_configs_of_another_problem_are_not_taken_for_its_own(ablation: Ablation) -> None:
    list(ablation.search(ALL, 1, seed=0))
    contents = ablation.out.read_bytes()
    with pytest.raises(RecordError, match=f"holds configs of {ablation.problem.name}, not of kimi-k2: name"):
        Ablation(preset("kimi-k2"), M, ablation.out, ablation.cache)
    assert ablation.out.read_bytes() == contents
    assert FUSED == "fused_sm100"

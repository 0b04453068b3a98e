"""Proving a space in the simulator: what is compiled is executed, what is known is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.record import Outcome
from kernels.families import family
from kernels.problem import RouterProblem
from sweeps import verify
from sweeps.covering import covering_order
from sweeps.space import Space
from sweeps.verify import Verified, read_verified, table, verify_space

PROBLEM = RouterProblem("tiny", hidden=512, experts=128, top_k=6)
RESTRICTED = {"cluster_m": (1,), "expert_split": (1, 2), "split_k": (1,), "grid_split": (1,), "epi_n": (16,)}


def space() -> Space:
    return Space(family("fused_sm100"), PROBLEM, "sm_100a", RESTRICTED)


def test_an_order_covers_all_configs_and_every_choice_early() -> None:
    whole = space()
    order = list(covering_order(whole, 3))
    assert sorted(map(str, order)) == sorted(str(whole.params(i)) for i in range(len(whole)))
    seen = {item for params in order[:12] for item in params.items()}
    assert seen == {item for params in order for item in params.items()}
    assert order == list(covering_order(whole, 3))


@pytest.mark.compiles
def test_a_config_is_executed_and_the_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "BASE_CASES", ("ties",))
    out, options = tmp_path / "verified.jsonl", {"minutes": None, "shard": (0, 1), "cache": tmp_path}
    (first,) = verify_space(space(), out, configs=1, **options)  # type: ignore[arg-type]
    assert first.outcome is Outcome.OK, first.reason
    assert first.launches == 2 * 6
    assert first.resources[0].tmem_columns > 0
    assert read_verified(out) == [first]
    assert list(verify_space(space(), out, configs=1, **options)) == []  # type: ignore[arg-type]


def test_a_table_counts_outcomes_by_choice(tmp_path: Path) -> None:
    found = [
        Verified("f", "sm_100a", "p", 512, {"stages": 2}, Outcome.OK, launches=12),
        Verified("f", "sm_100a", "p", 512, {"stages": 3}, Outcome.WRONG_RESULT, "row 1", launches=2),
    ]
    lines = table(found, 9).splitlines()
    assert lines[0] == "2 of 9 legal configs, 14 launches: 1 ok, 1 wrong_result; 0 spill registers."
    assert "| stages | 3 | 1 | 0 | 1 |" in lines
    assert lines[-1] == "- wrong_result: row 1 ({'stages': 3})"

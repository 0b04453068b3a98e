"""An installed table takes nothing away: no other family's, nor the M that the new one was not tuned at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernels.dispatch_table import (
    DispatchTable,
    DispatchTableError,
    TableEntry,
    TableProvenance,
    load_table,
    save_table,
)
from kernels.problem import PRESETS, RouterProblem
from sweeps.places import best_file, install_best

PROBLEM = PRESETS["deepseek-v4-pro"]
CUSTOM = RouterProblem("custom", hidden=256, experts=64, top_k=4)
ALL_M = (1, 16, 64, 512, 16384)
SMALL_M = (1, 4, 16, 32, 64)


def entry(m: int, key: str) -> TableEntry:
    return TableEntry(m, {"tile_m": 64}, 10.0, 9.0, 12.0, 2.0, key, tie=False)


def table(*m_values: int, key: str = "new", **changes: Any) -> DispatchTable:
    made = DispatchTable(
        PROBLEM,
        "fused_sm90",
        "sm_90a",
        "measured",
        "NVIDIA H200",
        "cold",
        tuple(entry(m, key) for m in m_values),
        TableProvenance(
            f"2026-0{1 + (key == 'new')}-01", f"commit-{key}", f"sweep {key}", {"torch": key}, key, 60
        ),
    )
    return replace(made, **changes)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "best"
    monkeypatch.setenv("ROUTERTUNE_BEST", str(place))
    return place


def contents(folder: Path) -> list[DispatchTable]:
    return [load_table(path) for path in sorted(folder.iterdir())]


def test_a_name_is_of_one_problem_family_target_and_source() -> None:
    ways = [
        table(1),
        table(1, family="two_kernel_sm90"),
        table(1, target="sm_100a"),
        table(1, source="modelled"),
        table(1, problem=CUSTOM),
        table(1, problem=replace(CUSTOM, experts=32)),
        table(1, problem=replace(PROBLEM, top_k=8)),
    ]
    assert len({best_file(each) for each in ways}) == len(ways)
    assert best_file(table(1)) == "deepseek-v4-pro-fused_sm90-sm_90a.json"
    assert best_file(table(1, source="modelled")) == "deepseek-v4-pro-fused_sm90-sm_90a-modelled.json"


@pytest.mark.parametrize(
    "changes",
    [{"family": "two_kernel_sm90"}, {"source": "modelled"}, {"problem": replace(PROBLEM, top_k=8)}],
    ids=["family", "source", "problem"],
)
def test_a_table_for_something_else_is_installed_beside(changes: dict[str, Any], folder: Path) -> None:
    fused, other = table(*ALL_M), table(*ALL_M, **changes)
    install_best(fused)
    assert install_best(other).kept == ()
    assert len(contents(folder)) == 2
    assert fused in contents(folder)
    assert other in contents(folder)


def test_two_problems_without_a_name_are_installed_beside_each_other(folder: Path) -> None:
    for problem in (CUSTOM, replace(CUSTOM, experts=32)):
        install_best(table(1, problem=problem))
    assert len(contents(folder)) == 2


def test_a_table_of_few_tokens_leaves_the_entries_of_many(folder: Path) -> None:
    install_best(table(*ALL_M, key="old"))
    assert install_best(table(*SMALL_M)).kept == (512, 16384)
    (joined,) = contents(folder)
    assert [(each.m, each.artifact_key) for each in joined.entries] == [
        *((m, "new") for m in SMALL_M),
        (512, "old"),
        (16384, "old"),
    ]
    assert joined.provenance == TableProvenance(
        "2026-02-01", "commit-old, commit-new", "sweep old; sweep new", {"torch": "new"}, "old, new", 120
    )
    install_best(table(*SMALL_M))
    assert contents(folder) == [joined], "installing it again changes nothing"


def test_a_table_that_covers_the_installed_one_replaces_it(folder: Path) -> None:
    install_best(table(*SMALL_M, key="old", device="NVIDIA H100 80GB HBM3"))
    assert install_best(table(*ALL_M)).kept == ()
    assert contents(folder) == [table(*ALL_M)]


@pytest.mark.parametrize("changes", [{"device": "NVIDIA H100 80GB HBM3"}, {"objective": "warm"}])
def test_entries_that_cannot_stay_are_not_lost(changes: dict[str, Any], folder: Path) -> None:
    old = table(*ALL_M, **changes)
    install_best(old)
    with pytest.raises(
        DispatchTableError, match=r"covers M = 512, 16384, which the new table does not, "
    ) as e:
        install_best(table(*SMALL_M))
    assert "\n" not in str(e.value)
    assert contents(folder) == [old]


def test_an_installed_table_is_found_by_what_it_is_of(folder: Path) -> None:
    """A table that was installed under the name of an earlier version must not stay in force beside it."""
    save_table(table(*ALL_M, key="old"), folder / "deepseek-v4-pro-sm_90a.json")
    assert install_best(table(*ALL_M)).path == folder / "deepseek-v4-pro-sm_90a.json"
    assert contents(folder) == [table(*ALL_M)]


def test_what_the_wrapper_could_not_read_is_replaced(folder: Path) -> None:
    folder.mkdir()
    (folder / best_file(table(1))).write_text("{")
    install_best(table(1))
    assert contents(folder) == [table(1)]


def test_a_file_of_a_table_for_something_else_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.json"
    monkeypatch.setenv("ROUTERTUNE_BEST", str(path))
    install_best(table(1))
    with pytest.raises(
        DispatchTableError, match=r"mine\.json: is of fused_sm90 for deepseek-v4-pro on sm_90a"
    ):
        install_best(table(1, family="two_kernel_sm90"))
    assert load_table(path) == table(1)

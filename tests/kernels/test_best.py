"""Which table's config is used: the places in their order, and what makes a table unfit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from kernels import best
from kernels.dispatch_table import (
    DispatchTable,
    DispatchTableError,
    TableEntry,
    TableProvenance,
    save_table,
)
from kernels.problem import PRESETS
from kernels.sm90.config import Sm90Config
from kernels.sm90.families import FusedSm90

FAMILY = FusedSm90()
PROBLEM = PRESETS["deepseek-v4-pro"]
TARGET = "sm_90a"
DEFAULT = FAMILY.default_config(PROBLEM, 64)
# Legal, and none of them a default.
NAMED, USERS, SHIPPED = (Sm90Config(tile_n=tile_n, stages=3) for tile_n in (128, 96, 48))


def chosen(m: int = 64) -> Sm90Config:
    config = best.best_known_config(FAMILY, PROBLEM, TARGET, m)
    assert isinstance(config, Sm90Config)
    return config


def table(*configs: tuple[int, Sm90Config], **changes: Any) -> DispatchTable:
    entries = tuple(
        TableEntry(m, asdict(config), 10.0, 9.0, 12.0, 2.0, f"key-{m}", tie=False) for m, config in configs
    )
    made = DispatchTable(
        PROBLEM,
        FAMILY.name,
        TARGET,
        "measured",
        "NVIDIA H100 80GB HBM3",
        "cold",
        entries,
        TableProvenance("2026-01-01T00:00:00Z", "abc1234", "make sweep", {}, "study", 60),
    )
    return replace(made, **changes)


def save(folder: Path, *configs: tuple[int, Sm90Config], name: str = "table", **changes: Any) -> Path:
    path = folder / f"{name}.json"
    save_table(table(*configs, **changes), path)
    return path


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """Empty folders for the three places, and none of what an earlier test has read."""
    places = {name: tmp_path / name for name in ("named", "user", "shipped")}
    for place in places.values():
        place.mkdir()
    monkeypatch.delenv(best.BEST_VARIABLE, raising=False)
    monkeypatch.setattr(best, "USER_TABLES", places["user"])
    monkeypatch.setattr(best, "SHIPPED_TABLES", places["shipped"])
    _forget()
    yield places
    _forget()


def _forget() -> None:
    for kept in (best._chosen, best._warn_of_modelled, best._named_tables, best._found_tables):
        kept.cache_clear()


def test_without_a_table_the_familys_default_is_used(folders: dict[str, Path]) -> None:
    assert chosen() == DEFAULT
    assert DEFAULT not in (NAMED, USERS, SHIPPED)


@pytest.mark.parametrize("present", [("shipped",), ("user", "shipped"), ("named", "user", "shipped")])
@pytest.mark.parametrize("as_folder", [False, True])
def test_the_first_place_with_a_table_wins(
    present: tuple[str, ...], as_folder: bool, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = {"named": NAMED, "user": USERS, "shipped": SHIPPED}
    for place in present:
        path = save(folders[place], (64, configs[place]))
        if place == "named":
            monkeypatch.setenv(best.BEST_VARIABLE, str(path.parent if as_folder else path))
    assert chosen() == configs[present[0]]


def test_the_tables_of_one_folder_are_taken_by_name(folders: dict[str, Path]) -> None:
    save(folders["user"], (64, USERS), name="b")
    save(folders["user"], (64, NAMED), name="a")
    assert chosen() == NAMED


def test_a_measured_table_comes_before_any_modelled_one(folders: dict[str, Path]) -> None:
    save(folders["user"], (64, USERS), source="modelled", device="simulated sm_90a")
    save(folders["shipped"], (64, SHIPPED))
    assert chosen() == SHIPPED


def test_a_modelled_table_is_launched_with_a_warning_that_says_so(folders: dict[str, Path]) -> None:
    """Once for each M. Who only asks for it, as a sweep does to begin with it, is not warned."""
    save(folders["user"], (64, USERS), source="modelled", device="simulated sm_90a")
    with warnings.catch_warnings(action="error"):
        assert chosen() == USERS
    with pytest.warns(UserWarning, match=r"at M = 64: the config was chosen by modelled times, no GPU"):
        assert best.config_to_launch(FAMILY, PROBLEM, TARGET, 64) == USERS
    with warnings.catch_warnings(action="error"):
        assert best.config_to_launch(FAMILY, PROBLEM, TARGET, 64) == USERS


def test_what_a_gpu_measured_is_launched_without_a_warning(folders: dict[str, Path]) -> None:
    save(folders["user"], (64, USERS))
    with warnings.catch_warnings(action="error"):
        assert best.config_to_launch(FAMILY, PROBLEM, TARGET, 64) == USERS


def test_an_empty_variable_names_nothing(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders["named"])
    save(folders["named"], (64, NAMED))
    monkeypatch.setenv(best.BEST_VARIABLE, "")
    assert chosen() == DEFAULT


def test_another_variable_in_the_same_process_is_noticed(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen() == DEFAULT
    monkeypatch.setenv(best.BEST_VARIABLE, str(save(folders["named"], (64, NAMED))))
    assert chosen() == NAMED


def test_a_corrupt_table_that_was_found_is_skipped_with_a_warning(folders: dict[str, Path]) -> None:
    (folders["user"] / "a.json").write_text("{")
    save(folders["user"], (64, USERS), name="b")
    with pytest.warns(UserWarning, match=r"ignored: .*a\.json: not JSON") as caught:
        assert chosen() == USERS
    assert [warning.filename for warning in caught] == [__file__], "the warning points at the caller"


def test_a_corrupt_table_that_was_named_is_an_error(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folders["named"] / "mine.json"
    path.write_text("{")
    save(folders["user"], (64, USERS))
    monkeypatch.setenv(best.BEST_VARIABLE, str(path))
    with pytest.raises(DispatchTableError, match=r"mine\.json: not JSON"):
        chosen()
    monkeypatch.setenv(best.BEST_VARIABLE, str(folders["named"] / "absent.json"))
    with pytest.raises(DispatchTableError, match=r"absent\.json: No such file"):
        chosen()


@pytest.mark.parametrize(
    "changes",
    [
        {"problem": replace(PROBLEM, top_k=8)},
        {"problem": replace(PROBLEM, experts=256)},
        {"family": "two_kernel_sm90"},
        {"target": "sm_100a"},
    ],
    ids=["top_k", "experts", "family", "target"],
)
def test_a_table_for_something_else_is_ignored(changes: dict[str, Any], folders: dict[str, Path]) -> None:
    save(folders["user"], (64, USERS), **changes)
    assert chosen() == DEFAULT
    save(folders["shipped"], (64, SHIPPED))
    _forget()
    assert chosen() == SHIPPED


def test_a_table_is_for_what_is_computed_whatever_its_name(folders: dict[str, Path]) -> None:
    save(folders["user"], (64, USERS), problem=replace(PROBLEM, name="mine"))
    assert chosen() == USERS


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(asdict(Sm90Config(tile_m=64, warpgroups=2)), id="refused by a rule"),
        pytest.param(asdict(Sm90Config(tile_m=100)), id="no choice of the space"),
        pytest.param({"tile_m": 64, "tile_of_another_version": 1}, id="of another version"),
    ],
)
def test_a_config_that_is_not_legal_here_is_passed_over(
    config: dict[str, Any], folders: dict[str, Path]
) -> None:
    (entry,) = table((64, USERS)).entries
    save(folders["user"], (64, USERS), entries=(replace(entry, config=config),))
    assert chosen() == DEFAULT


def test_the_nearest_tuned_m_is_used(folders: dict[str, Path]) -> None:
    save(folders["user"], (1, NAMED), (64, USERS), (1024, SHIPPED))
    assert [chosen(m) for m in (1, 8, 9, 64, 256, 257, 2048)] == [
        *(NAMED, NAMED),
        *(USERS, USERS, USERS),
        *(SHIPPED, SHIPPED),
    ]

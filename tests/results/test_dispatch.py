"""What an exported table is used for: M near what it was tuned at, by configs that can serve it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from kernels import best
from kernels.dispatch_table import (
    CROWDED_M,
    REACH,
    DispatchTable,
    TableEntry,
    TableProvenance,
    load_table,
    save_table,
)
from kernels.problem import PRESETS
from kernels.sm90.config import Sm90Config
from kernels.sm90.families import FusedSm90

FAMILY = FusedSm90()
PROBLEM = PRESETS["deepseek-v4-pro"]
TARGET = "sm_90a"
# Legal, and none of them a default.
SMALL = Sm90Config(tile_m=8, tile_n=32, tile_k=128, stages=8, split_k=4, grid_split=12, warpgroups=1)
LARGE = Sm90Config(tile_n=96, stages=3)


def table(config: Sm90Config, *m_values: int) -> DispatchTable:
    return DispatchTable(
        PROBLEM,
        FAMILY.name,
        TARGET,
        "measured",
        "NVIDIA H200",
        "cold",
        tuple(TableEntry(m, asdict(config), 10.0, 9.0, 12.0, 2.0, f"key-{m}", tie=False) for m in m_values),
        TableProvenance("2026-01-01T00:00:00Z", "abc1234", "make sweep", {}, "study", 60),
    )


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder for the user's tables and one, "shipped", beside it; nothing read by earlier tests."""
    monkeypatch.delenv(best.BEST_VARIABLE, raising=False)
    monkeypatch.setattr(best, "USER_TABLES", tmp_path / "user")
    monkeypatch.setattr(best, "SHIPPED_TABLES", tmp_path / "shipped")
    kept = (best._chosen, best._named_tables, best._found_tables)
    for each in kept:
        each.cache_clear()
    yield tmp_path / "user"
    for each in kept:
        each.cache_clear()


def chosen(m: int) -> Sm90Config:
    config = best.best_known_config(FAMILY, PROBLEM, TARGET, m)
    assert isinstance(config, Sm90Config)
    return config


def test_a_table_serves_what_is_near_its_m_and_all_above_where_time_grows_as_m_does() -> None:
    few = table(SMALL, 16, 64)
    assert [few.serves(m) for m in (7, 8, 40, 64 * REACH, 64 * REACH + 1, 1 << 20)] == [
        *(False, True, True),
        *(True, False, False),
    ]
    assert table(LARGE, 1, CROWDED_M).serves(1 << 24)
    assert not table(LARGE, CROWDED_M).serves(CROWDED_M // REACH - 1)


def test_many_tokens_are_not_served_by_a_table_of_few(user: Path) -> None:
    """The next table is, and without one the default."""
    save_table(table(SMALL, 1, 64), user / "small.json")
    assert [chosen(m) for m in (1, 64, 128)] == [SMALL] * 3
    assert chosen(16384) == FAMILY.default_config(PROBLEM, 16384)
    for each in (best._chosen, best._found_tables):
        each.cache_clear()
    save_table(table(LARGE, 1, 16384), user.with_name("shipped") / "all.json")
    assert [chosen(m) for m in (64, 129, 16384, 1 << 20)] == [SMALL, LARGE, LARGE, LARGE]


def test_so_many_tokens_that_the_config_cannot_serve_them_go_to_the_next(user: Path) -> None:
    """Tiles of 8 tokens with four CTAs each have counters for 131,072."""
    save_table(table(SMALL, 64, CROWDED_M), user / "best.json")
    assert FAMILY.illegal_reason(PROBLEM, SMALL, TARGET) is None
    assert chosen(131_072) == SMALL
    with pytest.raises(ValueError, match="needs over 65536 counters"):
        FAMILY.workspace_elements(PROBLEM, SMALL, 131_073)
    assert chosen(131_073) == FAMILY.default_config(PROBLEM, 131_073)
    assert FAMILY.workspace_elements(PROBLEM, chosen(131_073), 131_073) >= 1


@pytest.mark.parametrize("path", sorted(best.SHIPPED_TABLES.glob("*.json")), ids=lambda path: path.stem)
def test_a_shipped_table_serves_any_m(path: Path) -> None:
    shipped = load_table(path)
    assert all(shipped.serves(m) for m in (1, 3, 100, 16384, 1 << 20))

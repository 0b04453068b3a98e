"""The dispatch table: what was saved is what is loaded, what is wrong is one line, and the dispatch rule."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.dispatch_table import (
    DISPATCH_TABLE_SCHEMA,
    DispatchTable,
    DispatchTableError,
    TableEntry,
    TableProvenance,
    load_table,
    save_table,
    write_atomically,
)
from kernels.problem import PRESETS

times = st.floats(min_value=1e-3, max_value=1e9)
configs = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.integers(-(2**31), 2**31) | st.booleans() | st.text(max_size=8),
    max_size=4,
)


def entry(m: int, **changes: Any) -> TableEntry:
    made = TableEntry(m, {"tile_m": 64}, 10.0, 9.0, 12.0, 2.0, f"key-{m}", tie=False)
    return replace(made, **changes)


def table(m_values: tuple[int, ...] = (1, 16, 1024), **changes: Any) -> DispatchTable:
    made = DispatchTable(
        PRESETS["deepseek-v4-pro"],
        family="fused-sm90",
        target="sm_90a",
        source="measured",
        device="NVIDIA H100 80GB HBM3",
        objective="cold",
        entries=tuple(entry(m) for m in m_values),
        provenance=TableProvenance(
            "2026-01-01T00:00:00Z", "abc1234", "make sweep", {"torch": "2.13.0"}, "s", 60
        ),
    )
    return replace(made, **changes)


@st.composite
def tables(draw: st.DrawFn) -> DispatchTable:
    m_values = sorted(draw(st.sets(st.integers(1, 1 << 20), min_size=1, max_size=6)))
    entries = tuple(
        TableEntry(
            m,
            draw(configs),
            draw(times),
            draw(times),
            draw(st.none() | times),
            draw(times),
            draw(st.text()),
            draw(st.booleans()),
        )
        for m in m_values
    )
    return table(
        problem=draw(st.sampled_from(sorted(PRESETS.values(), key=lambda problem: problem.name))),
        source=draw(st.sampled_from(["measured", "modelled"])),
        objective=draw(st.sampled_from(["cold", "warm"])),
        entries=entries,
    )


@given(made=tables())
def test_a_saved_table_loads_equal(made: DispatchTable, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("table") / "best.json"
    save_table(made, path)
    assert load_table(path) == made


@given(made=tables(), m=st.integers(1, 1 << 21))
def test_dispatch_takes_the_nearest_m_in_log2_and_the_smaller_of_two(made: DispatchTable, m: int) -> None:
    chosen = made.best_for(m)
    distances = {other.m: abs(math.log2(m) - math.log2(other.m)) for other in made.entries}
    assert distances[chosen.m] <= min(distances.values()) + 1e-9


@pytest.mark.parametrize(
    ("m", "tuned"), [(1, 1), (3, 1), (4, 1), (5, 16), (16, 16), (128, 16), (129, 1024), (1 << 40, 1024)]
)
def test_dispatch_between_tuned_m(m: int, tuned: int) -> None:
    # 4 is the geometric mean of 1 and 16, and 128 that of 16 and 1024: both go to the smaller.
    assert table().best_for(m).m == tuned


def test_dispatch_refuses_no_tokens() -> None:
    with pytest.raises(ValueError, match="m = 0"):
        table().best_for(0)


def test_a_table_matches_what_is_computed_not_what_it_is_called() -> None:
    problem = PRESETS["deepseek-v4-pro"]
    assert table().matches(replace(problem, name="mine"), "sm_90a")
    assert not table().matches(problem, "sm_100a")
    for changed in (
        replace(problem, hidden=4096),
        replace(problem, experts=256),
        replace(problem, top_k=4),
        replace(problem, bias=False),
        replace(problem, renorm=False),
        replace(problem, routed_scale=1.0),
    ):
        assert not table().matches(changed, "sm_90a")


def edited(**changes: Any) -> bytes:
    raw = json.loads(msgspec.json.encode(table()))
    return json.dumps(raw | changes).encode()


def edited_entry(**changes: Any) -> bytes:
    raw = json.loads(msgspec.json.encode(table()))
    raw["entries"][1] |= changes
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (msgspec.json.encode(table())[:-9], "not JSON"),
        (b"[]", "schema 'list'"),
        (edited(schema="routertune.best/9"), "routertune.best/9"),
        (edited(entries=[]), "there are none"),
        (edited(source="guessed"), "guessed"),
        (edited(problem={"name": "x", "hidden": 7, "experts": 8, "top_k": 1}), "hidden = 7"),
        (edited_entry(m=0), "m = 0"),
        (edited_entry(m=1), "does not ascend"),
        (edited_entry(cold_us=-1.0), "cold_us = -1.0"),
        (edited_entry(floor_us=None), "floor_us"),
        (edited_entry(config={"tile_m": 1.5}), "config"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    path.write_bytes(data)
    with pytest.raises(DispatchTableError) as caught:
        load_table(path)
    message = str(caught.value)
    assert str(path) in message
    assert says in message
    assert "\n" not in message


def test_a_missing_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DispatchTableError, match=r"absent\.json: No such file"):
        load_table(tmp_path / "absent.json")


def test_the_schema_is_in_the_file(tmp_path: Path) -> None:
    save_table(table(), tmp_path / "deep" / "best.json")
    assert json.loads((tmp_path / "deep" / "best.json").read_text())["schema"] == DISPATCH_TABLE_SCHEMA


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.json"
    write_atomically(path, b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]

"""Tables of targets: every target has one, every entry a source, and one may be like another."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.simulator import target as target_module
from harness.simulator.errors import SimulationError
from harness.simulator.target import SECTIONS, SOURCES, target_named
from harness.toolchain import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_every_entry_has_a_source(name: str) -> None:
    table = target_named(name)
    entries = {f"{section}.{key}" for section in SECTIONS for key in getattr(table, section)}
    assert entries == set(table.sources)
    assert all(source.startswith(SOURCES) for source in table.sources.values())


def test_a_b300_is_a_b200_but_for_what_its_table_says() -> None:
    b200, b300 = target_named("sm_100a"), target_named("sm_103a")
    differing = {
        f"{section}.{key}"
        for section in SECTIONS
        for key, value in getattr(b300, section).items()
        if value != getattr(b200, section)[key]
    }
    assert differing == {
        "chip.sms", "chip.clock_mhz", "chip.dram_bytes", "chip.l2_bytes", "chip.gpc_bytes", "issue.ex2"
    }  # fmt: skip
    assert b300.issue_of("ex2.approx.ftz.f32") == b200.issue_of("ex2.approx.ftz.f32") / 2
    assert b300.sources["issue.ex2"] != b200.sources["issue.ex2"]
    assert b300.sources["issue.lg2"] == b200.sources["issue.lg2"]
    for table in (b200, b300):  # nine tenths of 8 TB/s
        assert table.chip["dram_bytes"] * table.clock_mhz == pytest.approx(7.2e6, rel=0.005)


def test_an_entry_without_a_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "TABLES", tmp_path)
    (tmp_path / "sm_1.toml").write_text('[chip]\nsms = { value = 1, source = "somebody" }\n')
    with pytest.raises(SimulationError, match=r"sm_1\.toml: chip\.sms names no source of measured, "):
        target_named("sm_1")
    with pytest.raises(SimulationError, match="no table for target 'sm_2': known are sm_1"):
        target_named("sm_2")

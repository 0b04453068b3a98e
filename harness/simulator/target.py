"""What a target's hardware is like, for the simulator's clock: one table per target, every entry with source.

`tables/<target>.toml` holds `name = { value = ..., source = "measured | published | guessed: ..." }` in four
sections: `chip` (sizes and rates) and, by the beginning of the opcode, `latency` (cycles until a result can
be used), `issue` (cycles during which a scheduler can issue nothing else) and `stall` (cycles during which
the warp itself goes no further, while its scheduler serves others). A table may say which other one it is
`like`, and only what differs.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from harness.simulator.errors import SimulationError

TABLES = Path(__file__).with_name("tables")
SECTIONS = ("chip", "latency", "issue", "stall")
SOURCES = ("measured", "published", "calibrated", "guessed")


@dataclass(frozen=True)
class Target:
    """A target's table. Rates are in bytes or operations per SM cycle, latencies in cycles."""

    name: str
    chip: dict[str, float]
    latency: dict[str, float]
    issue: dict[str, float]
    stall: dict[str, float]
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def sms(self) -> int:
        return int(self.chip["sms"])

    @property
    def clock_mhz(self) -> float:
        return self.chip["clock_mhz"]

    def latency_of(self, opcode: str) -> float:
        """Cycles, from the entry that shares the longest beginning with `opcode`."""
        return _longest(self.latency, opcode)

    def issue_of(self, opcode: str) -> float:
        return _longest(self.issue, opcode)

    def stall_of(self, opcode: str) -> float:
        return _longest(self.stall, opcode)

    def with_values(self, values: dict[str, float]) -> Target:
        """The table with some entries, named `section.entry`, replaced: how a calibration tries values."""
        sections = {name: dict(getattr(self, name)) for name in SECTIONS}
        for key, value in values.items():
            section, _, entry = key.partition(".")
            if entry not in sections.get(section, {}):
                raise SimulationError(f"{self.name}: no table entry {key!r}")
            sections[section][entry] = value
        return replace(
            self,
            chip=sections["chip"],
            latency=sections["latency"],
            issue=sections["issue"],
            stall=sections["stall"],
        )


def _longest(table: dict[str, float], opcode: str) -> float:
    parts = opcode.split(".")
    for length in range(len(parts), 0, -1):
        value = table.get(".".join(parts[:length]))
        if value is not None:
            return value
    return table["default"]


@cache
def target_named(name: str) -> Target:
    """The table of `name`; raises `SimulationError` for a target without one."""
    path = TABLES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in TABLES.glob("*.toml")))
        raise SimulationError(f"no table for target {name!r}: known are {known}")
    raw = tomllib.loads(path.read_text())
    like = target_named(raw["like"]) if "like" in raw else None
    sections: dict[str, Any] = {}
    sources = dict(like.sources) if like else {}
    for section in SECTIONS:
        entries = raw.get(section, {})
        sections[section] = dict(getattr(like, section)) if like else {}
        sections[section] |= {key: float(entry["value"]) for key, entry in entries.items()}
        for key, entry in entries.items():
            if not entry["source"].startswith(SOURCES):
                raise SimulationError(f"{path.name}: {section}.{key} names no source of {', '.join(SOURCES)}")
            sources[f"{section}.{key}"] = entry["source"]
    return Target(name, sources=sources, **sections)

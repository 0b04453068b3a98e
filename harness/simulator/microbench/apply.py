"""Writing measured entries into a target's table, each with its micro as the source."""

from __future__ import annotations

import re
from pathlib import Path

from harness.simulator.microbench.catalogue import catalogue
from harness.simulator.microbench.entries import ENTRIES, Direct, Shifted
from harness.simulator.microbench.results import Results
from harness.simulator.target import Target

# An entry's shift changes what others are embedded in: twice over all of them, and nothing moves any more.
ROUNDS = 2


def measured_values(results: Results, target: Target) -> dict[str, float]:
    """Every entry's value: the direct ones, then the shifted ones in a table that has those."""
    values = {entry.entry: entry.value(results) for entry in ENTRIES if isinstance(entry, Direct)}
    shifted = [entry for entry in ENTRIES if isinstance(entry, Shifted)]
    if not shifted:
        return values
    from harness.simulator.microbench.simulate import Simulated

    micros = {micro.name: micro for micro in catalogue()}
    simulated = {entry.micro: Simulated(micros[entry.micro]) for entry in shifted}
    table = with_entries(target, values)
    for _ in range(ROUNDS):
        for entry in shifted:
            run = next(one for one in micros[entry.micro].runs if one.name == entry.run)
            here = simulated[entry.micro].cycles(run, table, entry.column)
            there = results.cycles(entry.micro, entry.run, entry.column)
            section, _, name = entry.entry.partition(".")
            old = getattr(table, section)[name]
            values[entry.entry] = max(0.0, old + (there - here) / entry.events)
            table = with_entries(table, {entry.entry: values[entry.entry]})
    return values


def with_entries(target: Target, values: dict[str, float]) -> Target:
    """The table with these entries, new ones too."""
    for key, value in values.items():
        section, _, name = key.partition(".")
        getattr(target, section).setdefault(name, value)
    return target.with_values(values)


def rewrite(path: Path, values: dict[str, float], source: str) -> None:
    """Replace the entries of a table's file, or add them at the end of their section."""
    lines = path.read_text().splitlines()
    micros = {entry.entry: entry.micro for entry in ENTRIES}
    for key, value in values.items():
        section, _, name = key.partition(".")
        _put(lines, section, name, f'{{ value = {value:.4g}, source = "measured: {source} {micros[key]}" }}')
    path.write_text("\n".join(lines) + "\n")


def _put(lines: list[str], section: str, name: str, entry: str) -> None:
    first = lines.index(f"[{section}]") + 1
    end = next((i for i in range(first, len(lines)) if lines[i].startswith("[")), len(lines))
    pattern = re.compile(rf'"?{re.escape(name)}"? = ')
    written = f'"{name}" = {entry}' if section != "chip" and name != "default" else f"{name} = {entry}"
    for number in range(first, end):
        if pattern.match(lines[number]):
            lines[number] = written
            return
    while not lines[end - 1].strip() or lines[end - 1].startswith("#"):
        end -= 1
    lines.insert(end, written)

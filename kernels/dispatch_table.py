"""The best configuration per M of one problem, as a JSON file that the public wrapper dispatches on.

A table (`routertune.best/1`) holds, for one problem, kernel family and target, the config that won at each
tuned M with the times that made it win, all from **one** source on **one** device, and where they come from.
Its own consistency is checked when it is built, so a table that exists can be dispatched on; `load_table`
raises `DispatchTableError`, one line naming the file, for anything else.

This module imports neither torch nor the DSL: a host without either can read and write tables.
"""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec

from kernels.family import ParamValue
from kernels.problem import RouterProblem

DISPATCH_TABLE_SCHEMA = "routertune.best/1"

# How far outside its tuned M a table serves. On an H200 (measured, 2026-11-28, deepseek-v4-pro) the best
# config at one M took 1.2 to 1.5 times as long as the best at twice or half as many tokens, 1.3 to 2.6 times
# at a factor of 4 and 32 times at 1024, while the untuned defaults took at most 1.13 times as long.
REACH = 2
# With so many tokens all multiprocessors have tiles of their own, and time grows as M does: what is best
# there serves any larger M.
CROWDED_M = 16384


class DispatchTableError(ValueError):
    """A dispatch table that cannot be read, or must not be replaced; the message is one line for a person."""


@dataclass(frozen=True)
class TableEntry:
    """The winner at one M. Times are medians in microseconds per launch, on the table's device.

    Attributes:
        m: the number of tokens it was tuned at.
        config: the winning config's parameters.
        cold_us: with inputs that have left the L2.
        warm_us: with inputs that are in the L2, where they fit.
        baseline_us: the two-kernel path under the table's objective; None where it was not measured.
        floor_us: what the device's own copy and matrix rates allow.
        artifact_key: the compiled artifact that was timed.
        tie: whether other configs were as fast within the noise, and the fixed rule chose this one.
    """

    m: int
    config: dict[str, ParamValue]
    cold_us: float
    warm_us: float
    baseline_us: float | None
    floor_us: float
    artifact_key: str
    tie: bool

    def __post_init__(self) -> None:
        if self.m < 1:
            raise ValueError(f"m = {self.m}: must be at least 1")
        for name in ("cold_us", "warm_us", "baseline_us", "floor_us"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} = {value} at m = {self.m}: must be positive and finite")


@dataclass(frozen=True)
class TableProvenance:
    """Where a table comes from: the sweep that measured it, not the export."""

    date: str  # when the newest of the runs that measured the winners began; ISO 8601, UTC
    commit: str  # of the project, "-dirty" appended when the tree differed; "" when unknown
    command: str
    versions: dict[str, str]
    study: str  # or those that an installed table was joined from, as commit and command are
    trials: int  # trials of the study, whatever became of them


@dataclass(frozen=True)
class DispatchTable:
    """The best config per M. Raises `ValueError` when empty, or when M does not ascend strictly."""

    problem: RouterProblem
    family: str
    target: str
    source: Literal["measured", "modelled"]
    device: str
    objective: Literal["cold", "warm"]
    entries: tuple[TableEntry, ...]
    provenance: TableProvenance
    schema: str = DISPATCH_TABLE_SCHEMA

    def __post_init__(self) -> None:
        if self.schema != DISPATCH_TABLE_SCHEMA:
            raise ValueError(f"schema {self.schema!r} is not {DISPATCH_TABLE_SCHEMA!r}")
        if not self.entries:
            raise ValueError("entries: there are none")
        tokens = [entry.m for entry in self.entries]
        if any(low >= high for low, high in pairwise(tokens)):
            raise ValueError(f"entries: m = {tokens} does not ascend strictly")

    def matches(self, problem: RouterProblem, target: str) -> bool:
        """Whether the table was tuned for what `problem` computes, on `target`; names do not matter."""
        return target == self.target and replace(problem, name=self.problem.name) == self.problem

    def serves(self, m: int) -> bool:
        """Whether `m` tokens are near enough to what was tuned: between the tuned M, `REACH` times outside of
        them, and above them without a limit where they go up to `CROWDED_M`."""
        low, high = self.entries[0].m, self.entries[-1].m
        return low <= REACH * m and (m <= REACH * high or high >= CROWDED_M)

    def best_for(self, m: int) -> TableEntry:
        """The entry to use at `m` tokens: the tuned M nearest in log2, the smaller where two are as near.

        Below the smallest and above the largest tuned M, that M's entry. Log distance, because the time of
        a router is flat and then linear in M, so what matters is the factor between two M, not the gap.
        Raises `ValueError` when `m` is not positive.
        """
        if m < 1:
            raise ValueError(f"m = {m}: must be at least 1")
        best = self.entries[0]
        for entry in self.entries[1:]:
            # m is nearer to the larger of two M iff it is above their geometric mean; integers are exact.
            if m * m > best.m * entry.m:
                best = entry
        return best


def load_table(path: Path) -> DispatchTable:
    """The table in the file `path`; raises `DispatchTableError`."""
    try:
        raw: Any = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise DispatchTableError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DispatchTableError(f"{path}: not JSON ({error}); export it again") from None
    found = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
    if found != DISPATCH_TABLE_SCHEMA:
        raise DispatchTableError(
            f"{path}: schema {found!r} is not {DISPATCH_TABLE_SCHEMA!r}; export it again with this version"
        )
    try:
        return msgspec.convert(raw, DispatchTable)
    except msgspec.ValidationError as error:
        raise DispatchTableError(f"{path}: {error}") from None


def save_table(table: DispatchTable, path: Path) -> None:
    """Write `table` as indented JSON that `load_table` reads back equal; raises `OSError`."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(table), indent=2) + b"\n")


def write_atomically(path: Path, data: bytes) -> None:
    """Make `data` the contents of `path`: a reader, or a crash, sees the old file or the whole new one.

    Missing parent folders are created. Raises `OSError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's files are private; results are for every reader
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

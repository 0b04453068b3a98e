"""What `measure.py` brought back: cycles by micro and run."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.simulator.errors import SimulationError
from harness.simulator.microbench.launches import SPIN_CYCLES

SCHEMA = "routertune.microbench/1"


@dataclass(frozen=True)
class Results:
    """The numbers of one device."""

    raw: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises `SimulationError` for a file that is none."""
        try:
            raw = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise SimulationError(f"{path} is not readable: {error}") from None
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            raise SimulationError(
                f"{path}: schema is not {SCHEMA!r}: measure.py of a pack writes such a file"
            )
        return cls(raw)

    def run(self, micro: str, run: str | None = None) -> dict[str, Any]:
        """A run's record; `run` may be left out where there is only one."""
        runs = self.raw["results"].get(micro)
        if runs is None:
            raise SimulationError(f"no results of {micro}: measure a pack of this version")
        found: dict[str, Any] = runs[run] if run is not None else next(iter(runs.values()))
        if "error" in found:
            raise SimulationError(f"{micro}: {found['error']}")
        return found

    def cycles(self, micro: str, run: str | None = None, column: int = 0) -> float:
        """Of the slowest CTA, the median over the repeats."""
        repeats = self.run(micro, run)["repeats"]
        # One row [column][CTA] of a few CTAs; minimum, median and maximum [column] over many.
        slowest = [max(repeat[0][column]) if len(repeat) == 1 else repeat[-1][column] for repeat in repeats]
        return float(statistics.median(slowest))

    @property
    def mhz(self) -> float:
        """The SM clock during the measurements."""
        begin, end, first, last, *_ = self.run("clock", "clock")["ctas"][0]
        return float(1e3 * (end - begin) / (last - first))

    def beyond_spin(self, run: str) -> float:
        """Cycles of a launch of `spin` beyond those that its CTAs spin."""
        return float(self.run("spin", run)["us"]) * self.mhz - SPIN_CYCLES

    def gap_between_ctas(self) -> float:
        """From the last clock that a CTA reads to the first one that the next on its SM reads: the median."""
        of_sm: dict[int, list[tuple[int, int]]] = {}
        for begin, end, _, _, sm in self.run("spin", "waves")["ctas"]:
            of_sm.setdefault(sm, []).append((begin, end))
        gaps = []
        for times in of_sm.values():
            ordered = sorted(times)
            gaps += [after[0] - before[1] for before, after in pairwise(ordered)]
        return statistics.median(gaps)

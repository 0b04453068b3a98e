"""What a person sees of a sweep: a bar with the outcomes and the best so far, and a table at the end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tqdm import tqdm

from harness.record import Outcome, Source, TrialRecord, two_kernel_records
from sweeps.objective import PENALTY, Metric


class Progress:
    """A progress bar over the trials of a sweep, and a line for each that is better than all before; on
    anything but a terminal there is no bar. `known` are the candidates of earlier runs with their values."""

    def __init__(self, total: int, known: Sequence[tuple[TrialRecord, float | None]]) -> None:
        self._bar = tqdm(total=total, initial=len(known), unit="trial", disable=None, dynamic_ncols=True)
        self._outcomes = Counter[str](record.outcome for record, _ in known)
        good = [value for _, value in known if value is not None and value < PENALTY]
        self._best = min(good, default=None)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.write(line, file=sys.stderr)

    def count(self, record: TrialRecord, value: float | None) -> None:
        """A candidate ended."""
        self._outcomes[record.outcome] += 1
        if value is not None and value < PENALTY and (self._best is None or value < self._best):
            self._best = value
            self.say(f"config {self._outcomes.total()}: {record.source} best so far, {value:.3f} x floor")
        best = "" if self._best is None else f"{record.source} best {self._best:.3f} x floor, "
        counts = " ".join(f"{outcome}={count}" for outcome, count in self._outcomes.items())
        self._bar.set_postfix_str(best + counts, refresh=False)
        self._bar.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def summary(records: Sequence[TrialRecord], metric: Metric, m_values: Sequence[int]) -> str:
    """Outcomes of the candidates, then the best candidate, the baseline and the floor at each M, in us.

    The two-kernel path counts as measured where a stopped sweep has it only beside the finalists.
    """
    candidates = [record for record in records if record.role == "candidate"]
    outcomes = Counter(record.outcome for record in candidates)
    lines = [f"{len(candidates)} configs: " + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items())]
    baselines = two_kernel_records(records)
    rows = []
    for m in m_values:
        best = _fastest(candidates, m, metric)
        if best is not None:
            baseline = _fastest(baselines, m, metric)
            floor = next(at.floor_us for record in candidates if (at := record.at(m)))
            shown = f"{baseline:10.2f} {baseline / best:9.2f}" if baseline else f"{'-':>10} {'-':>9}"
            rows.append(f"{m:7d} {best:11.2f} {shown} {floor:10.2f}")
    modelled = any(record.source is Source.MODELLED for record in candidates)
    title = "MODELLED us" if modelled else "best us"
    source = ", all MODELLED by the simulator, not measured" * modelled
    if rows:
        lines += [
            f"{'M':>7} {title:>11} {'two us':>10} {'times':>9} {'floor us':>10}   ({metric}{source})",
            *rows,
        ]
    return "\n".join(lines)


def _fastest(records: Sequence[TrialRecord], m: int, metric: Metric) -> float | None:
    """The smallest median at `m`, in us; the results room decides winners with their noise."""
    timed = [at for record in records if record.outcome is Outcome.OK and (at := record.at(m))]
    return min((at.cold if metric == "cold" else at.warm).median_us for at in timed) if timed else None

"""Records as pandas tables, one idea per table; the columns are documented where they are made.

Tables keep `source` and `device` as columns and mix nothing by themselves: whoever aggregates speeds calls
`results.study.timed_group` on the records first.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from scipy.stats import gmean

from harness.record import Outcome, TrialRecord
from results.study import CONFIG_PREFIX, Study, device_name, timed_group, usable


def _identity(trial: int, record: TrialRecord) -> dict[str, object]:
    config = {f"{CONFIG_PREFIX}{name}": value for name, value in record.config.items()}
    known = bool(record.resources)
    return {
        "trial": trial,
        "role": record.role,
        "family": record.family,
        "target": record.target,
        "outcome": str(record.outcome),
        "reason": record.reason,
        "source": str(record.source),
        "device": device_name(record),
        "artifact_key": record.artifact_key,
        # Of the launch's kernels, the one that uses most; missing where nothing was compiled.
        "registers": max(used.registers for used in record.resources) if known else None,
        "spill_bytes": max(used.local_bytes for used in record.resources) if known else None,
        "smem_bytes": max(used.static_smem_bytes + used.dynamic_smem_bytes for used in record.resources)
        if known
        else None,
        "tmem_columns": max(used.tmem_columns for used in record.resources) if known else None,
        "compile_s": record.compile_s,
        "run_s": record.run_s,
        **config,
    }


def trials_frame(records: Sequence[TrialRecord]) -> pd.DataFrame:
    """One row per trial: its place among the records, identity, outcome, resources and config.

    Config columns are `config.<parameter>`; registers are per thread, `spill_bytes` a thread's stack frame.
    """
    return pd.DataFrame([_identity(trial, record) for trial, record in enumerate(records)])


def to_frame(records: Sequence[TrialRecord]) -> pd.DataFrame:
    """One row per (trial, M) that was timed: the columns of `trials_frame`, and

    m, cold_us, cold_spread_us, warm_us, warm_spread_us (medians and interquartile ranges), floor_us,
    floor_share (floor / cold), tokens_per_s, tflop_per_s, gb_per_s (from the cold median), steady, repeats,
    sm_clock_mhz, temperature_c, power_w.
    """
    rows = [
        {
            **_identity(trial, record),
            "m": at.m,
            "cold_us": at.cold.median_us,
            "cold_spread_us": at.cold.spread_us,
            "warm_us": at.warm.median_us,
            "warm_spread_us": at.warm.spread_us,
            "floor_us": at.floor_us,
            "floor_share": at.floor_us / at.cold.median_us,
            "tokens_per_s": at.m / at.cold.median_us * 1e6,
            "tflop_per_s": at.flops / at.cold.median_us * 1e-6,
            "gb_per_s": at.bytes_moved / at.cold.median_us * 1e-3,
            "steady": at.steady,
            "repeats": at.repeats,
            "sm_clock_mhz": at.conditions.sm_clock_mhz,
            "temperature_c": at.conditions.temperature_c,
            "power_w": at.conditions.power_w,
        }
        for trial, record in enumerate(records)
        for at in record.measurements
    ]
    return pd.DataFrame(rows)


def outcomes(records: Sequence[TrialRecord]) -> pd.DataFrame:
    """How many trials ended how: `outcome`, `trials`, `share`; outcomes that did not occur are left out.

    Every record is in exactly one row, so `trials` sums to `len(records)`.
    """
    counts = [(str(outcome), sum(record.outcome is outcome for record in records)) for outcome in Outcome]
    rows = [(outcome, count, count / len(records)) for outcome, count in counts if count]
    return pd.DataFrame(rows, columns=["outcome", "trials", "share"])


def slowdowns(study: Study, m: int | None = None) -> pd.DataFrame:
    """What each ok candidate loses to the best: one row per candidate, its config columns and `slowdown`.

    `slowdown` is objective time / the best candidate's at `m`; without `m`, the geometric mean of that ratio
    over the objective's M, for the candidates that have them all. Raises `ResultsError` for mixed groups.
    """
    timed_group(study.candidates)
    m_values = study.info.minimized_over if m is None else (m,)
    found = [[usable(record, at) for at in m_values] for record in study.candidates]
    times = pd.DataFrame(
        [[getattr(at, study.info.objective).median_us if at else None for at in row] for row in found],
        columns=list(m_values),
        dtype=float,
    )
    ratios = (times / times.min()).dropna()
    configs = trials_frame(study.candidates).filter(like=CONFIG_PREFIX).loc[ratios.index]
    return configs.assign(slowdown=gmean(ratios.to_numpy(), axis=1))

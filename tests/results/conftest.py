"""Synthetic studies, made from a seed: what a sweep would store, without a GPU or a compiler.

The times follow a plain model (a floor, a fixed cost, a factor per parameter) with noise, so that which
config is best at which M is known to the tests; nothing here is a claim about a real kernel.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import optuna
import pytest

from harness.record import (
    CaseResult,
    CheckResult,
    Conditions,
    DeviceFacts,
    Measurement,
    Outcome,
    ParamValue,
    Provenance,
    Rates,
    Resources,
    Source,
    Timing,
    TrialRecord,
    to_json,
)
from kernels.problem import PRESETS
from results.stats import timing
from results.study import Study, StudyInfo

M_VALUES = (1, 16, 64, 512, 1024, 4096, 16384)
PROBLEM = asdict(PRESETS["deepseek-v4-pro"])
H100 = DeviceFacts(
    "NVIDIA H100 80GB HBM3", uuid="GPU-0", compute_capability="9.0", driver="580.65", cuda="13.0"
)
RATES = Rates(copy_bytes_per_s=2.6e12, matrix_flop_per_s=8.0e14, empty_launch_us=1.2)
SPACE: dict[str, tuple[ParamValue, ...]] = {
    "tile_m": (64, 128),
    "tile_n": (128, 192, 384),
    "tile_k": (64, 128),
    "stages": (3, 4, 6),
    "cluster_n": (1, 2, 3),
    "early_release": (False, True),
}
FIRST = {name: choices[0] for name, choices in SPACE.items()}
FAILURES = (
    (
        Outcome.WRONG_RESULT,
        "ties at M = 65: expert 12 where the reference has 11, gap 3.1 of the allowed gap",
    ),
    (Outcome.WRONG_RESULT, "nan at M = 17: expert 384 is outside [0, 384)"),
    (Outcome.COMPILE_ERROR, "ptxas: too many resources requested for launch"),
    (Outcome.CRASHED, "CUDA error 700: an illegal memory access was encountered"),
    (Outcome.TIMEOUT, "no result of the check within 60 s"),
    (Outcome.UNSTABLE, "cold spread 9 % at M = 512 after 2 repeats: SW power cap"),
)
PROVENANCE = Provenance(
    date="2026-01-15T12:00:00Z",
    commit="0123456789abcdef",
    host="gpu-host",
    command="routertune sweep default",
    versions={"nvidia-cutlass-dsl": "4.8.1", "torch": "2.13.0"},
)


def noisy(rng: random.Random, median_us: float, noise: float = 0.01, count: int = 20) -> Timing:
    """`count` samples around `median_us`, skewed to the slow side as real ones are."""
    return timing([median_us * (1 + noise * abs(rng.gauss(0, 1))) for _ in range(count)])


def flops_and_bytes(m: int) -> tuple[int, int]:
    k, e = PROBLEM["hidden"], PROBLEM["experts"]
    return 2 * m * k * e, 2 * (m * k + e * k) + m * PROBLEM["top_k"] * 8


def model_us(config: dict[str, ParamValue], m: int) -> float:
    """Small M wants small tiles and clusters, large M the contrary; early release always pays 3 %."""
    flops, moved = flops_and_bytes(m)
    body = max(moved / RATES.copy_bytes_per_s, flops / RATES.matrix_flop_per_s) * 1e6
    large = m >= 1024
    config = FIRST | config
    factor = 1.0
    factor *= 1.25 if (config["tile_m"] == 128) != large else 1.0
    factor *= {128: 1.0, 192: 1.1, 384: 1.3}[int(config["tile_n"])]
    factor *= 1.12 if config["tile_k"] == 128 and not large else 1.0
    factor *= {3: 1.15, 4: 1.05, 6: 1.0}[int(config["stages"])]
    factor *= {1: 1.1, 2: 1.04, 3: 1.0}[int(config["cluster_n"])] if not large else 1.0
    factor *= 1.0 if config["early_release"] else 1.03
    return (4.5 + 1.25 * body) * factor


def measurement(rng: random.Random, m: int, cold_us: float) -> Measurement:
    flops, moved = flops_and_bytes(m)
    return Measurement(
        m=m,
        cold=noisy(rng, cold_us),
        warm=noisy(rng, cold_us * 0.9),
        floor_us=max(moved / RATES.copy_bytes_per_s, flops / RATES.matrix_flop_per_s) * 1e6
        + RATES.empty_launch_us,
        bytes_moved=moved,
        flops=flops,
        conditions=Conditions(sm_clock_mhz=1980, memory_clock_mhz=2619, temperature_c=45, power_w=300.0),
    )


def make_record(
    config: dict[str, ParamValue] | None = None,
    *,
    cold_us: Callable[[int], float] | None = None,
    seed: int = 0,
    m_values: Sequence[int] = M_VALUES,
    **changes: Any,
) -> TrialRecord:
    """An ok record of `config`, with the model's times or those of `cold_us(m)`; `changes` replace fields."""
    rng = random.Random(seed)
    config = config or FIRST
    registers = 96 + int(config.get("tile_n", 128)) // 4 + 8 * int(config.get("stages", 3))
    made = TrialRecord(
        family="fused-sm90",
        problem=PROBLEM,
        target="sm_90a",
        config=config,
        outcome=Outcome.OK,
        source=Source.MEASURED,
        artifact_key=f"key{seed}",
        resources=(Resources("router", registers, 64 if registers > 232 else 0, 1024, 150_000),),
        check=CheckResult(True, (CaseResult("normal", 1, seed, True),), bf16_overlap=0.93),
        measurements=tuple(
            measurement(rng, m, (cold_us or (lambda at: model_us(config, at)))(m)) for m in m_values
        ),
        device=H100,
        rates=RATES,
        provenance=PROVENANCE,
        compile_s=1.2,
        run_s=3.4,
    )
    return replace(made, **changes)


def baseline_us(m: int) -> float:
    return 9.5 + 1.5 * (flops_and_bytes(m)[1] / RATES.copy_bytes_per_s * 1e6)


def make_baseline(seed: int = 1000, **changes: Any) -> TrialRecord:
    return make_record(
        {"tile_m": 128}, cold_us=baseline_us, seed=seed, family="two-kernel-sm90", role="baseline", **changes
    )


def failed(record: TrialRecord, outcome: Outcome, reason: str) -> TrialRecord:
    timed = record.measurements if outcome is Outcome.UNSTABLE else ()
    return replace(record, outcome=outcome, reason=reason, measurements=timed)


def make_study(trials: int = 64, seed: int = 0, failing: float = 0.2, **changes: Any) -> Study:
    """`trials` distinct candidates, a share `failing` of them failures, and one baseline among them."""
    rng = random.Random(seed)
    configs = [dict(zip(SPACE, values, strict=True)) for values in itertools.product(*SPACE.values())]
    records = [
        make_record(config, seed=seed * 10_000 + trial)
        for trial, config in enumerate(rng.sample(configs, min(trials, len(configs))))
    ]
    records = [failed(each, *rng.choice(FAILURES)) if rng.random() < failing else each for each in records]
    info = StudyInfo(
        name="synthetic",
        family="fused-sm90",
        problem=PROBLEM,
        target="sm_90a",
        executor="cuda",
        source=Source.MEASURED,
        m_values=M_VALUES,
        created="2026-01-15T11:00:00Z",
        command="routertune sweep default",
        space_size=len(configs),
        legal_size=len(configs) - 20,
    )
    return Study(replace(info, **changes), (make_baseline(), *records), without_record=3)


def make_compiled_study(trials: int = 40, seed: int = 0) -> Study:
    """What a sweep leaves on a machine without a GPU."""
    study = make_study(trials, seed, failing=0.0)
    rng = random.Random(seed)
    records = tuple(
        replace(
            record,
            outcome=Outcome.COMPILED,
            source=Source.NONE,
            measurements=(),
            device=None,
            rates=None,
            check=None,
            resources=(replace(record.resources[0], local_bytes=rng.choice((0, 0, 0, 32, 128))),),
        )
        for record in study.records
    )
    return Study(replace(study.info, source=Source.NONE, executor="none"), records)


def store(study: Study, storage: str | optuna.storages.BaseStorage) -> None:
    """Write `study` as a sweep does: records as JSON text, and trials without one."""
    made = optuna.create_study(storage=storage, study_name=study.info.name)
    made.set_user_attr("study", msgspec.to_builtins(study.info))
    for record in study.records:
        ok = record.outcome is Outcome.OK
        made.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if ok else optuna.trial.TrialState.FAIL,
                value=1.0 if ok else None,
                user_attrs={"record": to_json(record).decode()},
            )
        )
    for _ in range(study.without_record):
        made.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))


class Synthetic:
    """The generator, as one fixture."""

    record = staticmethod(make_record)
    baseline = staticmethod(make_baseline)
    study = staticmethod(make_study)
    compiled_study = staticmethod(make_compiled_study)
    failed = staticmethod(failed)
    store = staticmethod(store)
    noisy = staticmethod(noisy)
    m_values = M_VALUES
    space = SPACE


@pytest.fixture(scope="session")
def synthetic() -> type[Synthetic]:
    return Synthetic


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"

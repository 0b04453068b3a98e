"""Run a sweep from its description: open everything, drive it, say what came out."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import msgspec

from harness.cache import ArtifactCache
from harness.compile_pool import CompilePool
from harness.executor import CheckDepth, Executor, MeasurePlan
from harness.executors import make_executor
from harness.passwords import without_passwords
from harness.provenance import provenance
from harness.record import ParamValue, Source
from harness.trial import RunFacts
from kernels.best import best_known_config
from kernels.families import family
from kernels.family import KernelFamily
from sweeps import store
from sweeps.comparable import require_comparable
from sweeps.driver import Driver, Ending
from sweeps.job import Workshop
from sweeps.objective import lesson
from sweeps.places import Place, place_for
from sweeps.progress import summary
from sweeps.sampler import make_sampler
from sweeps.space import Space, config_params
from sweeps.spec import SweepSpec
from sweeps.stop import stop_on_signal

COMPILED_ONLY = """\
Nothing was run, as asked. The configs are compiled, and nothing is known of their speed. To measure them on a
GPU host, copy this folder there and run `make sweep`; or, where it has no network or compiler,
  `routertune pack --spec {spec} --output PACK` here, `python3 PACK/measure.py --out records.jsonl` there,
  and `routertune collect records.jsonl --spec {spec}` here again."""

# A check takes seconds on an idle core, and a sweep's cores are not idle.
SIMULATOR_TIMEOUT_S = 600.0

MODELLED = """\
{device}: every candidate's compiled code is executed and checked by the simulator.
Its times are MODELLED, not measured: they rank configs, and only a GPU can confirm them."""


def run_sweep(
    spec: SweepSpec,
    *,
    spec_name: str,
    storage: str | None,
    study: str | None,
    executor: str,
    workers: int | None,
    cache: str | None,
    check_depth: CheckDepth | None = None,
) -> tuple[Place, bool]:
    """Sweep, and print what came out; where it is kept, and whether it was stopped before its end.

    `executor` is one of `harness.executors.EXECUTORS`, or "none" to compile only. `check_depth` None leaves
    it to the executor.
    """
    space = Space(family(spec.family), spec.problem, spec.target, spec.parameters)
    # What is wrong without any executor is said before one is started, which takes seconds.
    artifact_cache = ArtifactCache(cache)
    place = place_for(spec, storage, study, source=Source.NONE)
    if storage is not None:
        store.require_usable(storage)
    if executor == "none":
        ending = drive(spec, space, place, None, workers=workers, cache=artifact_cache)
        print(COMPILED_ONLY.format(spec=spec_name))
        return place, ending is Ending.STOPPED
    with make_executor(executor, spec.target) as opened:
        place = place_for(spec, storage, study, source=opened.source)
        if opened.source is Source.MODELLED:
            spec = spec.for_simulator()
            print(MODELLED.format(device=opened.device().name))
        ending = drive(
            spec, space, place, opened, workers=workers, cache=artifact_cache, check_depth=check_depth
        )
    return place, ending is Ending.STOPPED


def drive(
    spec: SweepSpec,
    space: Space,
    place: Place,
    executor: Executor | None,
    *,
    workers: int | None,
    cache: ArtifactCache,
    check_depth: CheckDepth | None = None,
) -> Ending:
    """Run the sweep in the study at `place`; everything that can be refused is, before any compile.

    Raises `StudyError` when the study is about something else, or its trials would not compare with new ones.
    """
    kernels = space.family
    modelled = executor is not None and executor.source is Source.MODELLED
    baselines = baseline_configs(spec)
    sampler = make_sampler(
        space,
        spec.search.sampler,
        seed=spec.search.seed,
        exhaustive_limit=spec.search.exhaustive_limit,
        first=map(config_params, known_configs(kernels, spec)),
        lessons=len(spec.objective_m_values),
        lesson=lesson(spec.objective.metric, spec.objective_m_values),
    )
    origin = provenance()
    pool = CompilePool(cache, workers=workers)
    # Last: a store that a failed start left behind would be the one that is looked at when none is named.
    storage = store.open_storage(place.storage, create=True)
    with (
        pool,
        store.sole_sweeper(place.storage, place.study or spec.name),
        stop_on_signal() as stop,
        store.in_one_line(f"{place.storage}: what was told is stored, and no more can be"),
    ):
        runs = (executor.name, executor.source) if executor else ("none", Source.NONE)
        info = study_info(spec, place, *runs, space, created=origin.date, command=origin.command)
        study = store.open_study(storage, info, sampler, space.distributions())
        require_comparable(study, executor, spec.target)
        print(f"{info.name}: {len(space)} legal of {space.size} configs of {space.family.name}")
        workshop = Workshop(
            problem=spec.problem,
            target=spec.target,
            pool=pool,
            executor=executor,
            plan=MeasurePlan(
                m_values=spec.m_values,
                timeout_s=SIMULATOR_TIMEOUT_S if modelled else MeasurePlan.timeout_s,
                check_depth=check_depth,
                quantize=spec.quantize,
            ),
            facts=RunFacts.of(executor, origin),
            seed=spec.search.seed,
        )
        driver = Driver(spec, space, study, sampler, workshop, baselines=baselines, stop=stop)
        ending = driver.run()
    print(f"{without_passwords(place.storage)}: {ending}")
    print(summary(store.records(study), spec.objective.metric, spec.m_values))
    return ending


def known_configs(kernels: KernelFamily, spec: SweepSpec) -> list[Any]:
    """The best known and the default configs for all M; none for a problem that no default config suits."""
    try:
        default = [kernels.default_config(spec.problem, m) for m in spec.m_values]
    except ValueError:
        return []
    return [best_known_config(kernels, spec.problem, spec.target, m) for m in spec.m_values] + default


def baseline_configs(spec: SweepSpec) -> list[tuple[KernelFamily, dict[str, ParamValue]]]:
    """What to measure beside the candidates: the configured one, or the family's defaults for all M, so that
    at each M the candidates meet what somebody would really use there. Says why one of them cannot be."""
    if not spec.baseline.enabled:
        return []
    kernels = family(spec.baseline.family)
    legal: list[Any] = []
    reasons: list[str] = []
    try:
        for config in _wanted_baselines(kernels, spec):
            reason = kernels.illegal_reason(spec.problem, config, spec.target)
            if reason is None:
                legal.append(config)
            else:
                reasons.append(reason)
    except ValueError as error:  # no default config is legal
        reasons.append(str(error))
    for reason in dict.fromkeys(reasons):
        print(f"the sweep goes without a baseline of {kernels.name}: {reason}", file=sys.stderr)
    return [(kernels, config_params(config)) for config in legal]


def _wanted_baselines(kernels: KernelFamily, spec: SweepSpec) -> list[Any]:
    if spec.baseline.config:
        return [kernels.config(spec.baseline.config)]
    return list(dict.fromkeys(kernels.default_config(spec.problem, m) for m in spec.m_values))


def study_info(
    spec: SweepSpec, place: Place, executor: str, source: Source, space: Space, *, created: str, command: str
) -> store.StudyInfo:
    """What the study of a sweep is about; `executor` is the name of what runs it, "none" to compile only."""
    return store.StudyInfo(
        name=place.study or spec.name,
        family=spec.family,
        problem=msgspec.to_builtins(asdict(spec.problem)),
        target=spec.target,
        executor=executor,
        source=source,
        m_values=spec.m_values,
        objective=spec.objective.metric,
        objective_m_values=spec.objective_m_values,
        quantize=spec.quantize,
        created=created,
        command=command,
        space_size=space.size,
        legal_size=len(space),
    )

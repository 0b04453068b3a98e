"""Compile here, measure elsewhere: packs of a sweep's configs, and the records that come back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from harness.artifact import Artifact
from harness.cache import ArtifactCache
from harness.compile_pool import CompilePool
from harness.executor import Executor, MeasurePlan
from harness.executors import make_executor
from harness.pack import PackError, PackSummary, write_pack
from harness.pack_measure import measure_pack
from harness.provenance import provenance
from harness.record import Outcome, RecordError, Source, TrialRecord
from harness.records import read_records
from kernels.families import family
from sweeps import store
from sweeps.comparable import count_by_kernels
from sweeps.driver import Ending
from sweeps.errors import StudyError
from sweeps.objective import told_value
from sweeps.places import Place, place_for
from sweeps.run import drive, study_info
from sweeps.sampler import make_sampler
from sweeps.space import Space
from sweeps.spec import SweepSpec


def pack_sweep(
    spec: SweepSpec, out: Path, *, study: str | None = None, workers: int | None, cache: str | None
) -> PackSummary:
    """Compile the sweep's configs as a sweep without a GPU does, and pack them into the new folder `out`.

    Raises `PackError` when `out` exists, nothing compiled, the sweep was stopped, or it times quantization,
    whose kernels a host without a compiler lacks, and `StudyError` when what is in the study of compiled
    configs is of something else.
    """
    if spec.quantize:
        raise PackError(
            "quantize = true: a pack holds no kernels that quantize; sweep on the GPU host itself"
        )
    if out.exists():
        raise PackError(f"{out} exists: name a new folder")
    space = Space(family(spec.family), spec.problem, spec.target, spec.parameters)
    place = place_for(spec, None, study, source=Source.NONE)
    artifact_cache = ArtifactCache(cache)
    if drive(spec, space, place, None, workers=workers, cache=artifact_cache) is Ending.STOPPED:
        raise PackError("stopped: nothing is packed; the same command goes on from here")
    records = store.records(store.read_study(store.open_storage(place.storage), place.study))
    artifacts: dict[str, list[Artifact]] = {"candidate": [], "baseline": []}
    with CompilePool(artifact_cache, workers=workers) as pool:
        for record in records:
            if record.outcome is Outcome.COMPILED:
                kernels = family(record.family)
                config = kernels.config(record.config)
                # From the cache, where nobody has emptied it meanwhile.
                compiled = pool.submit(kernels, spec.problem, config, spec.target).result()
                if compiled.artifact is not None:
                    artifacts[record.role].append(compiled.artifact)
    plan = MeasurePlan(m_values=spec.m_values, seed=spec.search.seed)
    return write_pack(out, artifacts["candidate"], plan, baselines=artifacts["baseline"])


def measure_on_gpu(pack: Path, out: Path) -> int:
    """Measure a pack on this host's GPU; returns how many records were added to `out`."""
    with tqdm(desc="measuring", unit="config", disable=None, dynamic_ncols=True) as bar:

        def report(record: TrialRecord, done: int, total: int) -> None:
            bar.total = total
            bar.n = done
            bar.set_postfix_str(record.outcome)

        return measure_pack(pack, out, _open_cuda, report=report)


@dataclass(frozen=True)
class Collected:
    """What became of the records of a file."""

    place: Place
    added: int
    known: int


def collect_records(path: Path, spec: SweepSpec, storage: str | None, study: str | None) -> Collected:
    """Add the records in `path` to the study of a sweep on a GPU, those that it does not have.

    A record is known by its artifact, role and device. Raises `RecordError` for a file that cannot be read
    and `StudyError`, having added nothing, when the records are not of this sweep, of several devices, or
    some of them of the present kernels and others not. This machine need not have the device.
    """
    records = read_records(path)
    if not records:
        raise RecordError(f"{path}: holds no records")
    space = Space(family(spec.family), spec.problem, spec.target, spec.parameters)
    place = place_for(spec, storage, study, source=Source.MEASURED)
    sampler = make_sampler(space, "random", seed=spec.search.seed, exhaustive_limit=0)
    origin = provenance()
    info = study_info(
        spec, place, "cuda", Source.MEASURED, space, created=origin.date, command=origin.command
    )
    for record in records:
        _require_fitting(record, info, space)
    _require_comparable(records)  # before there is a store
    distributions = space.distributions()
    opened = store.open_storage(place.storage, create=True)
    with store.sole_sweeper(place.storage, info.name):
        found = store.open_study(opened, info, sampler, distributions)
        existing = store.records(found)
        _require_comparable([*existing, *records])
        known = {_identity(record) for record in existing}
        added = [record for record in records if _identity(record) not in known]
        for record in added:
            if record.role == "candidate":
                value = told_value(record, spec.objective.metric, spec.objective_m_values)
                store.add(found, record, value, distributions)
            else:
                store.add(found, record)
    return Collected(place, len(added), len(records) - len(added))


def _open_cuda(target: str) -> Executor:
    return make_executor("cuda", target)


def _identity(record: TrialRecord) -> tuple[str, str, str]:
    return record.artifact_key, record.role, record.device.uuid if record.device else ""


def _require_fitting(record: TrialRecord, info: store.StudyInfo, space: Space) -> None:
    for what, found, wanted in (
        ("target", record.target, info.target),
        ("problem", store.computed(record.problem), store.computed(info.problem)),
        ("source", record.source, info.source),
    ):
        if found != wanted:
            raise StudyError(f"a record has {what} {found}, the sweep {wanted}: name the sweep with --spec")
    if record.role == "candidate":
        if record.family != info.family:
            raise StudyError(f"a candidate is of {record.family}, the sweep of {info.family}")
        if space.index(record.config) is None:
            raise StudyError(f"a candidate's config is not in the sweep's space: {record.config}")
    timed = [measured.m for measured in record.measurements]
    if record.outcome in (Outcome.OK, Outcome.UNSTABLE) and timed != list(info.m_values):
        raise StudyError(f"a record was measured at M = {timed}, the sweep at {list(info.m_values)}")


def _require_comparable(records: list[TrialRecord]) -> None:
    """Raises `StudyError` for records of several devices or states of the kernels."""
    _require_one_device(records)
    _require_one_state_of_the_kernels(records)


def _require_one_device(records: list[TrialRecord]) -> None:
    names = sorted({record.device.name for record in records if record.device})
    if len(names) > 1:
        raise StudyError(f"records of {' and '.join(names)} do not compare: keep them apart with --study")


def _require_one_state_of_the_kernels(records: list[TrialRecord]) -> None:
    present, others = count_by_kernels(records)
    if present and others:
        raise StudyError(
            f"{present} records of kernels with the present sources and {others} of others do not compare: "
            "keep them apart with --study"
        )

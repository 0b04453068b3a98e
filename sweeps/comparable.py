"""Whether what a sweep adds to a study compares with what is there: one device, one state of the kernels and,
where times are modelled, one table of the simulator.

The kernels need no note: a record's artifact key is a hash of the sources that it was compiled from, so it is
made anew from the present ones. That holds for records that were measured elsewhere and for the studies of
earlier versions, too. The table leaves no trace in a record: a study notes its digest while it is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

import msgspec
import optuna

from harness.cache import artifact_key
from harness.executor import Executor
from harness.record import Source, TrialRecord
from harness.simulator.target import SECTIONS, target_named
from harness.toolchain import COMPILER_DISTRIBUTIONS, version_of
from kernels.families import family
from kernels.problem import RouterProblem
from sweeps import store
from sweeps.errors import StudyError

MODEL_ATTR = "model"
MODEL_SCHEMA = "routertune.model/1"


@dataclass(frozen=True)
class ModelNote:
    """What the modelled times of a study stand on: the digest of the simulator's table."""

    table: str
    schema: str = MODEL_SCHEMA


def require_comparable(study: optuna.Study, executor: Executor | None, target: str) -> None:
    """Raises `StudyError` when trials on `executor` with the present kernels do not compare with the study's.

    Versions of the compiler may differ: records say theirs.
    """
    found = store.records(study)
    if executor is not None:
        _require_device(study, found, executor.device().name)
    _, others = count_by_kernels(found)
    if others:
        raise _refusal(study, f"has {others} trials of kernels with other sources than the present ones")
    if executor is not None and executor.source is Source.MODELLED:
        _require_table(study, found, table_digest(target))


def count_by_kernels(records: Iterable[TrialRecord]) -> tuple[int, int]:
    """How many records are of kernels with the present sources, and how many of others.

    One without a key, of a config that was illegal, is neither.
    """
    present = {name: version_of(name) for name in COMPILER_DISTRIBUTIONS}
    judged = [_is_of_present_sources(record, present) for record in records if record.artifact_key]
    return sum(judged), len(judged) - sum(judged)


def table_digest(target: str) -> str:
    """Digest of the numbers that the simulator's clock goes by, wherever they are known from."""
    table = target_named(target)
    numbers = {section: getattr(table, section) for section in SECTIONS}
    return sha256(msgspec.json.encode(numbers, order="deterministic")).hexdigest()[:32]


def _is_of_present_sources(record: TrialRecord, present: Mapping[str, str]) -> bool:
    """Whether the record's key is that of its config under the present sources.

    The compiler is the record's; or the present one, because a host that measures a pack may have installed
    versions of its own, which its records then name.
    """
    versions = record.provenance.versions if record.provenance else {}
    recorded = {name: versions.get(name, "") for name in COMPILER_DISTRIBUTIONS}
    try:
        kernels = family(record.family)
        config = kernels.config(record.config)
        problem = msgspec.convert(record.problem, RouterProblem)
    except (ValueError, msgspec.ValidationError):
        return False  # no longer a family, a parameter or a problem
    return any(
        artifact_key(kernels, problem, config, record.target, toolchain) == record.artifact_key
        for toolchain in (recorded, present)
    )


def _require_device(study: optuna.Study, found: Iterable[TrialRecord], present: str) -> None:
    others = sorted({record.device.name for record in found if record.device} - {present})
    if others:
        raise _refusal(study, f"has trials on {' and '.join(others)}, not {present}")


def _require_table(study: optuna.Study, found: Iterable[TrialRecord], present: str) -> None:
    noted = study.user_attrs.get(MODEL_ATTR)
    if noted is None and not any(record.measurements for record in found):
        study.set_user_attr(MODEL_ATTR, msgspec.to_builtins(ModelNote(present)))
    elif noted is None:
        raise _refusal(study, "does not say which table of the simulator its times are from")
    elif noted != msgspec.to_builtins(ModelNote(present)):
        raise _refusal(study, "has times from another table of the simulator")


def _refusal(study: optuna.Study, what: str) -> StudyError:
    return StudyError(f"study {study.study_name!r} {what}: choose another name with --study")

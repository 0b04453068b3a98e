"""A pack: compiled candidates with all that a GPU host without network or compiler needs to measure them.

    measure.py             `python3 PACK/measure.py --out records.jsonl`: needs Python, torch and a driver
    pack.json              PackManifest
    artifacts/<key>/       the launchers (cubin and PTX stay behind: the launcher holds the device code)
    source/                the project's own `kernels` and `harness`
    wheels/<python>/       wheels of the TVM FFI, msgspec and NVML's binding, for each Python version
    lib/*.so.gz            the DSL's runtime library

The host's own torch and numpy are used. `harness.pack_measure` does the measuring, `harness.records` reads
what comes back.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import msgspec

from harness.artifact import LAUNCHER, MANIFEST, Artifact
from harness.executor import MeasurePlan
from harness.oneline import one_line
from harness.provenance import PROJECT_ROOT, git_commit
from harness.toolchain import runtime_library, version_of

PACK_SCHEMA = "routertune.pack/1"
PACK_MANIFEST = "pack.json"
BOOTSTRAP = "measure.py"
PYTHONS = ("3.11", "3.12")
# What measuring imports besides torch and numpy.
DISTRIBUTIONS = ("apache-tvm-ffi", "msgspec", "nvidia-ml-py")
PLATFORMS = tuple(f"manylinux{version}_x86_64" for version in ("_2_28", "_2_27", "_2_24", "_2_17", "2014"))
# People carry packs through channels with this limit.
MAX_BYTES = 64 * 2**20


class PackError(RuntimeError):
    """A pack that cannot be written or read; the message is one line for a person."""


@dataclass(frozen=True)
class PackEntry:
    """One artifact of a pack. `role` is the record's: "candidate" or "baseline"."""

    key: str
    role: str = "candidate"


@dataclass(frozen=True)
class PackManifest:
    """What a pack holds. `digests` maps each file's path in the pack to the sha256 of its bytes."""

    target: str
    commit: str
    plan: MeasurePlan
    entries: tuple[PackEntry, ...]
    digests: dict[str, str]
    schema: str = PACK_SCHEMA


@dataclass(frozen=True)
class PackSummary:
    """What `write_pack` wrote."""

    folder: Path
    artifacts: int
    size_bytes: int


def write_pack(
    out: Path,
    artifacts: Sequence[Artifact],
    plan: MeasurePlan,
    *,
    baselines: Sequence[Artifact] = (),
    pythons: Sequence[str] = PYTHONS,
) -> PackSummary:
    """Write a pack into the new folder `out`, whole or not at all.

    Downloads the wheels with pip: this needs the network, or pip's own cache or index.

    Raises:
        PackError: nothing to pack, artifacts of several targets, `out` exists, wheels that cannot be had, or
            more than `MAX_BYTES`.
    """
    entries = [*((artifact, "candidate") for artifact in artifacts), *((b, "baseline") for b in baselines)]
    targets = sorted({artifact.manifest.target for artifact, _ in entries})
    if len(targets) != 1:
        raise PackError(f"a pack is for one target: these artifacts are for {', '.join(targets) or 'none'}")
    if out.exists():
        raise PackError(f"{out} exists: name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            folder = Path(scratch) / "pack"
            folder.mkdir()
            _fill(folder, [artifact for artifact, _ in entries], pythons)
            manifest = PackManifest(
                target=targets[0],
                commit=git_commit(),
                plan=plan,
                entries=tuple(PackEntry(artifact.key, role) for artifact, role in entries),
                digests=_digests(folder),
            )
            (folder / PACK_MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
            size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if size_bytes > MAX_BYTES:
                raise PackError(
                    f"the pack would be {size_bytes / 2**20:.0f} MiB, over the limit of "
                    f"{MAX_BYTES / 2**20:.0f}: pack fewer of the {len(entries)} artifacts"
                )
            folder.rename(out)
    except OSError as error:
        raise PackError(f"cannot write the pack {out}: {error}") from None
    return PackSummary(out, len(entries), size_bytes)


def read_pack(folder: Path) -> PackManifest:
    """The manifest of the pack in `folder`, every file verified; raises `PackError`."""
    try:
        raw = msgspec.json.decode((folder / PACK_MANIFEST).read_bytes())
        if not isinstance(raw, dict) or raw.get("schema") != PACK_SCHEMA:
            raise PackError(f"{folder / PACK_MANIFEST}: schema is not {PACK_SCHEMA!r}")
        manifest = msgspec.convert(raw, PackManifest)
        for name, digest in manifest.digests.items():
            if sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise PackError(f"{folder / name}: altered since it was packed: carry the pack over again")
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise PackError(f"{folder} is not a readable pack: {error}") from None
    return manifest


def artifact_folder(folder: Path, key: str) -> Path:
    """Where the artifact `key` lies in the pack in `folder`."""
    return folder / "artifacts" / key


def _fill(folder: Path, artifacts: Sequence[Artifact], pythons: Sequence[str]) -> None:
    for artifact in artifacts:
        place = artifact_folder(folder, artifact.key)
        place.mkdir(parents=True)
        shutil.copy(artifact.launcher, place / LAUNCHER)
        digests = {LAUNCHER: artifact.manifest.digests[LAUNCHER]}
        (place / MANIFEST).write_bytes(msgspec.json.encode(replace(artifact.manifest, digests=digests)))
    add_runtime(folder, pythons)
    shutil.copy(Path(__file__).with_name("pack_bootstrap.py"), folder / BOOTSTRAP)


def add_runtime(folder: Path, pythons: Sequence[str]) -> None:
    """Put into `folder` what `pack_bootstrap.unpack` takes from it: sources, wheels, the runtime library."""
    for room in ("kernels", "harness"):
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(PROJECT_ROOT / room, folder / "source" / room, ignore=ignore)
    library = runtime_library()
    (folder / "lib").mkdir()
    with library.open("rb") as source, gzip.open(folder / "lib" / f"{library.name}.gz", "wb", 6) as packed:
        shutil.copyfileobj(source, packed)
    for python in pythons:
        _download_wheels(folder / "wheels" / python, python)


def _download_wheels(folder: Path, python: str) -> None:
    # The very versions that compiled the artifacts: the launchers call into them.
    requirements = [f"{name}=={version_of(name)}" for name in DISTRIBUTIONS]
    platforms = [argument for platform in PLATFORMS for argument in ("--platform", platform)]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python),
        *(*platforms, "--dest", str(folder), *requirements),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackError(f"pip cannot download wheels for Python {python}: {one_line(done.stderr[-300:])}")


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}

"""The content-addressed artifact cache, safe with many processes.

    <root>/artifacts/<key>/    a published artifact (see `harness.artifact`)
    <root>/failures/<key>.json a compile that failed: not compiled again until its key changes
    <root>/scratch/            artifacts being written; a crash leaves its folder here, never above
    <root>/corrupt/            entries that failed verification, moved aside
    <root>/locks/<key>.lock    held by whoever compiles that key

An entry is written into `scratch`, synced, and renamed into place, so it is there whole or not at all. It is
verified whenever it is looked up; one that does not verify is moved aside with a warning and never used.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock

from harness.artifact import (
    ARTIFACT_SCHEMA,
    MANIFEST,
    Artifact,
    ArtifactError,
    ArtifactManifest,
    load_artifact,
)
from harness.compile_result import FAILURE_SCHEMA, CompileFailure
from kernels.family import KernelFamily
from kernels.problem import RouterProblem

CACHE_VARIABLE = "ROUTERTUNE_CACHE"
DEFAULT_ROOT = Path("~/.cache/routertune")
# Scratch folders older than this belong to processes that died.
STALE_S = 24 * 3600.0

log = logging.getLogger(__name__)


class CacheError(OSError):
    """A cache folder that cannot be used; the message is one line for a person."""


@functools.cache
def source_digest(files: tuple[Path, ...]) -> str:
    """Digest of the names and bytes of `files`, in the order given.

    Read once per process: a process goes on running the sources that it has imported, so an edit under a
    running sweep must not publish old code under the new sources' key.
    """
    digest = sha256()
    for path in files:
        digest.update(f"{path.parent.name}/{path.name}\0".encode())
        digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def artifact_key(
    family: KernelFamily, problem: RouterProblem, config: Any, target: str, toolchain: Mapping[str, str]
) -> str:
    """The address of an artifact: a hash of everything that the compiled code depends on."""
    description = {
        "schema": ARTIFACT_SCHEMA,
        "family": family.name,
        "sources": source_digest(family.source_files()),
        "problem": asdict(problem),
        "config": asdict(config),
        "target": target,
        "toolchain": dict(toolchain),
    }
    return sha256(msgspec.json.encode(description, order="deterministic")).hexdigest()[:32]


class ArtifactCache:
    """The cache in `root`: by default `$ROUTERTUNE_CACHE`, else `~/.cache/routertune`.

    Raises `CacheError` when the folder cannot be written.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root or os.environ.get(CACHE_VARIABLE) or DEFAULT_ROOT).expanduser().absolute()
        self._artifacts = self.root / "artifacts"
        self._failures = self.root / "failures"
        self._scratch = self.root / "scratch"
        self._corrupt = self.root / "corrupt"
        self._locks = self.root / "locks"
        try:
            for folder in (self._artifacts, self._failures, self._scratch, self._corrupt, self._locks):
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._scratch):
                pass
        except OSError as error:
            raise CacheError(
                f"cannot write the artifact cache {self.root} ({error.strerror}): "
                f"name another folder with --cache or {CACHE_VARIABLE}"
            ) from None
        self._remove_stale()

    def lookup(self, key: str) -> Artifact | CompileFailure | None:
        """The verified artifact or the known failure of `key`; None when it must be compiled."""
        folder = self._artifacts / key
        if folder.is_dir():
            try:
                artifact = load_artifact(folder)
                if artifact.key != key:
                    raise ArtifactError(f"{folder}: holds the artifact {artifact.key}")
                return artifact
            except ArtifactError as error:
                self._set_aside(folder, error)
        return self._lookup_failure(key)

    def lock(self, key: str) -> FileLock:
        """The lock to hold while compiling `key`; the system releases it when its holder dies."""
        return FileLock(self._locks / f"{key}.lock")

    @contextmanager
    def scratch(self, key: str) -> Iterator[Path]:
        """An empty folder to build `key` in, on the cache's own file system; removed afterwards."""
        with tempfile.TemporaryDirectory(prefix=f"{key}.", dir=self._scratch) as folder:
            yield Path(folder)

    def publish(self, manifest: ArtifactManifest, folder: Path) -> Artifact:
        """Move the files in the scratch `folder` into place as the artifact `manifest` describes.

        An artifact that is there already is kept: the same key has the same contents.
        """
        built = folder / "publish"
        built.mkdir()
        for name in manifest.digests:
            (folder / name).rename(built / name)
            _sync(built / name)
        (built / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        _sync(built / MANIFEST)
        _sync(built)
        place = self._artifacts / manifest.key
        try:
            built.rename(place)
        except OSError:
            if not place.is_dir():
                raise
        _sync(self._artifacts)
        return load_artifact(place)

    def publish_failure(self, failure: CompileFailure) -> None:
        """Remember that `failure.key` does not compile."""
        place = self._failures / f"{failure.key}.json"
        with tempfile.NamedTemporaryFile(dir=self._scratch, delete=False) as file:
            file.write(msgspec.json.encode(failure))
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, place)

    def _lookup_failure(self, key: str) -> CompileFailure | None:
        place = self._failures / f"{key}.json"
        try:
            failure = msgspec.json.decode(place.read_bytes(), type=CompileFailure)
            if failure.schema != FAILURE_SCHEMA or failure.key != key:
                raise ArtifactError(f"{place}: not the {FAILURE_SCHEMA} of {key}")
            return failure
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, ArtifactError) as error:
            self._set_aside(place, error)
            return None

    def _set_aside(self, entry: Path, error: Exception) -> None:
        aside = self._corrupt / f"{entry.name}.{time.time_ns()}"
        try:
            entry.rename(aside)
        except FileNotFoundError:
            return  # another process was faster
        log.warning("corrupt cache entry moved to %s and compiled again: %s", aside, error)

    def _remove_stale(self) -> None:
        oldest = time.time() - STALE_S
        for entry in self._scratch.iterdir():
            try:
                if entry.stat().st_mtime < oldest:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            except FileNotFoundError:
                continue  # another process was faster


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

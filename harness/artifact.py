"""An artifact: a compiled config as a folder of files plus a manifest that vouches for each byte.

    <key>/manifest.json     ArtifactManifest
    <key>/launch.so         host launcher (TVM FFI) with the cubin inside: loads without the compiler
    <key>/kernel.cubin      the same device code, for inspection
    <key>/kernel.ptx        its PTX

`key` is a hash of everything the compiled code depends on (see `harness.cache.artifact_key`). Loading
verifies every file's digest and raises `ArtifactError` when one is missing or differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from harness.record import ParamValue, Resources

ARTIFACT_SCHEMA = "routertune.artifact/1"
MANIFEST = "manifest.json"
LAUNCHER = "launch.so"
# The TVM FFI function inside the launcher; the same name in every artifact.
ENTRY = "routertune_launch"


class ArtifactError(RuntimeError):
    """A missing, incomplete or altered artifact; the message is one line for a person."""


@dataclass(frozen=True)
class ArtifactManifest:
    """What an artifact is. `digests` maps each file's name to the sha256 of its bytes."""

    key: str
    family: str
    problem: dict[str, Any]
    config: dict[str, ParamValue]
    target: str
    toolchain: dict[str, str]
    digests: dict[str, str]
    resources: tuple[Resources, ...] = ()
    compile_s: float = 0.0
    schema: str = ARTIFACT_SCHEMA


@dataclass(frozen=True)
class Artifact:
    """A verified artifact on disk."""

    folder: Path
    manifest: ArtifactManifest = field(repr=False)

    @property
    def key(self) -> str:
        return self.manifest.key

    @property
    def launcher(self) -> Path:
        return self.folder / LAUNCHER


def load_artifact(folder: Path) -> Artifact:
    """Read and verify the artifact in `folder`; raises `ArtifactError`."""
    try:
        raw = msgspec.json.decode((folder / MANIFEST).read_bytes())
        if not isinstance(raw, dict) or raw.get("schema") != ARTIFACT_SCHEMA:
            raise ArtifactError(f"{folder / MANIFEST}: schema is not {ARTIFACT_SCHEMA!r}")
        manifest = msgspec.convert(raw, ArtifactManifest)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ArtifactError(f"{folder}: unreadable manifest ({error})") from None
    for name, digest in manifest.digests.items():
        try:
            found = sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise ArtifactError(f"{folder / name}: {error.strerror}") from None
        if found != digest:
            raise ArtifactError(f"{folder / name}: contents differ from the manifest's digest")
    return Artifact(folder, manifest)

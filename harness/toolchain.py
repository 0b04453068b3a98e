"""The toolchain: its versions, its targets, the linker, and the runtime library that launchers need.

Importing this imports neither torch nor the DSL: a worker must set `CUTE_DSL_ARCH` before the DSL's first
import, and a GPU host that only measures artifacts has no DSL at all.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

# What code is compiled for, with the compute capability of the devices that run it. The `a` targets are
# architecture specific: their code runs on exactly that capability (PTX ISA, `.target`).
TARGETS: dict[str, tuple[int, int]] = {"sm_90a": (9, 0), "sm_100a": (10, 0), "sm_103a": (10, 3)}

# Distributions whose version changes the compiled code or its host interface: part of an artifact's key.
COMPILER_DISTRIBUTIONS = ("nvidia-cutlass-dsl", "nvidia-cutlass-dsl-libs-cu13", "apache-tvm-ffi")

RUNTIME_LIBRARY = "libcute_dsl_runtime.so"
# A measuring host has the runtime library without the DSL around it: this names the file.
RUNTIME_LIBRARY_VARIABLE = "ROUTERTUNE_DSL_RUNTIME"

# Each links a shared library with `-shared -o OUT IN`; a launcher needs nothing else from a compiler.
LINKERS = ("cc", "gcc", "clang", "ld", "ld.lld")


class ToolchainError(RuntimeError):
    """Something that compiling or loading needs is missing; the message is one line and says what to do."""


def version_of(distribution: str) -> str:
    """The installed version of `distribution`, or "" where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def versions() -> dict[str, str]:
    """Versions of everything that can change a result, for a record's provenance."""
    installed = {name: version_of(name) for name in ("routertune", "torch", *COMPILER_DISTRIBUTIONS)}
    return {"python": platform.python_version()} | {name: found for name, found in installed.items() if found}


def compiler_versions() -> dict[str, str]:
    """The toolchain's fingerprint in an artifact's key; raises `ToolchainError` when a part is missing."""
    found = {name: version_of(name) for name in COMPILER_DISTRIBUTIONS}
    if missing := [name for name, version in found.items() if not version]:
        raise ToolchainError(f"{', '.join(missing)} not installed: run `make install`")
    return found


def check_target(target: str) -> None:
    """Raises `ToolchainError` for a target that is not in `TARGETS`."""
    if target not in TARGETS:
        raise ToolchainError(f"unknown target {target!r}: known are {', '.join(TARGETS)}")


def find_linker() -> str:
    """Path of the first linker found; raises `ToolchainError` when there is none."""
    for name in (os.environ.get("CC", ""), *LINKERS):
        if name and (path := shutil.which(name)):
            return path
    raise ToolchainError(
        "no linker (looked for cc, gcc, clang, ld): install one, e.g. `apt-get install binutils`, or set CC"
    )


def runtime_library() -> Path:
    """The DSL's runtime library: `$ROUTERTUNE_DSL_RUNTIME`, else the installed DSL's.

    Raises `ToolchainError` when there is neither.
    """
    if named := os.environ.get(RUNTIME_LIBRARY_VARIABLE):
        if not Path(named).is_file():
            raise ToolchainError(f"{RUNTIME_LIBRARY_VARIABLE}={named}: no such file")
        return Path(named)
    for entry in sys.path:
        library = Path(entry or ".") / "nvidia_cutlass_dsl" / "cu13" / "lib" / RUNTIME_LIBRARY
        if library.is_file():
            return library
    raise ToolchainError(
        f"{RUNTIME_LIBRARY} not found: install nvidia-cutlass-dsl[cu13] or set {RUNTIME_LIBRARY_VARIABLE}"
    )

"""Building the simulator's C files with the machine's compiler, once for each text, and loading them.

A library that lost its end, as on a disk that was full, loads all the same and kills whoever calls into it.
Each ends with a digest of what is before it, where a loader does not look, and is built again without.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path

from harness.cache import CACHE_VARIABLE, DEFAULT_ROOT
from harness.oneline import one_line
from harness.toolchain import ToolchainError, find_linker

FLAGS = ("-O3", "-shared", "-fPIC")


@functools.cache
def load(name: str, mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL:
    """The library of `name`.c; raises `ToolchainError` when it cannot be built or loaded."""
    built = build(name)
    try:
        return ctypes.CDLL(str(built), mode)
    except OSError as error:
        raise ToolchainError(f"{built} does not load: {one_line(str(error))}") from None


def build(name: str) -> Path:
    """The compiled `name`.c, built the first time, or when what is there is not what was built.

    Raises `ToolchainError` when it cannot be.
    """
    source = Path(__file__).with_name(f"{name}.c")
    digest = sha256(source.read_bytes() + repr(FLAGS).encode()).hexdigest()[:16]
    root = Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_ROOT).expanduser()
    built = root / "simulator" / f"{name}-{digest}.so"
    try:
        if built.is_file() and _is_whole(built.read_bytes()):
            return built
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            fresh = Path(folder) / built.name
            command = [find_linker(), *FLAGS, "-o", str(fresh), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            if done.returncode:
                raise ToolchainError(
                    f"{command[0]} cannot compile {source.name}: install a C compiler, or name one with CC "
                    f"({one_line(done.stderr)})"
                )
            library = fresh.read_bytes()
            fresh.write_bytes(library + sha256(library).digest())
            fresh.rename(built)
    except OSError as error:
        raise ToolchainError(
            f"{built}: {error.strerror or error}: name another folder with {CACHE_VARIABLE}"
        ) from None
    return built


def _is_whole(library: bytes) -> bool:
    size = sha256().digest_size
    return sha256(library[:-size]).digest() == library[-size:]

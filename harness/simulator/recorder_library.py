"""Building `recorder.c` with the machine's C compiler, once for each text of it, and loading it.

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

SOURCE = Path(__file__).with_name("recorder.c")
FLAGS = ("-O2", "-shared", "-fPIC")


@functools.cache
def load_recorder() -> ctypes.CDLL:
    """The recorder, loaded with global symbols; raises `ToolchainError` when it cannot be built or loaded."""
    import tvm_ffi  # noqa: F401 - the launchers need its library to be global

    built = build_recorder()
    try:
        return ctypes.CDLL(str(built), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ToolchainError(f"{built} does not load: {one_line(str(error))}") from None


def build_recorder() -> Path:
    """The compiled `recorder.c`, built the first time, or when what is there is not what was built.

    Raises `ToolchainError` when it cannot be.
    """
    digest = sha256(SOURCE.read_bytes() + repr(FLAGS).encode()).hexdigest()[:16]
    root = Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_ROOT).expanduser()
    built = root / "simulator" / f"recorder-{digest}.so"
    try:
        if built.is_file() and _is_whole(built.read_bytes()):
            return built
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            fresh = Path(folder) / built.name
            command = [find_linker(), *FLAGS, "-o", str(fresh), str(SOURCE)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            if done.returncode:
                raise ToolchainError(
                    f"{command[0]} cannot compile {SOURCE.name}: install a C compiler, or name one with CC "
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

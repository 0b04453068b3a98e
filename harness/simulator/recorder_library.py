"""Building `recorder.c` with the machine's C compiler, once for each text of it, and loading it."""

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
    """The recorder, loaded with global symbols; raises `ToolchainError` when it cannot be built."""
    import tvm_ffi  # noqa: F401 - the launchers need its library to be global

    return ctypes.CDLL(str(build_recorder()), ctypes.RTLD_GLOBAL)


def build_recorder() -> Path:
    """The compiled `recorder.c`, built the first time; raises `ToolchainError` when it cannot be."""
    digest = sha256(SOURCE.read_bytes() + repr(FLAGS).encode()).hexdigest()[:16]
    root = Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_ROOT).expanduser()
    built = root / "simulator" / f"recorder-{digest}.so"
    if built.is_file():
        return built
    try:
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
            fresh.rename(built)
    except OSError as error:
        raise ToolchainError(f"{built}: {error.strerror or error}") from None
    return built

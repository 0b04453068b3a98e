"""Loading an artifact's launcher with the TVM FFI alone: no compiler, no DSL.

The launcher leaves the DSL runtime's and the TVM FFI's symbols undefined (see `harness.compile.link`), so
both libraries are made global first.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from harness.artifact import ENTRY, Artifact
from harness.runner import Launch
from harness.toolchain import runtime_library


@functools.cache
def _preload() -> None:
    # torch first: it brings the CUDA libraries that the runtime looks for.
    import torch  # noqa: F401
    import tvm_ffi  # noqa: F401 - makes libtvm_ffi global

    ctypes.CDLL(str(runtime_library()), ctypes.RTLD_GLOBAL)


def load_launcher(artifact: Artifact) -> Launch:
    """The launch function of a verified artifact.

    Raises `ToolchainError` without the runtime library, `OSError` or `RuntimeError` for a launcher that does
    not load.
    """
    return load_library(artifact.launcher)


def load_library(path: Path) -> Launch:
    """The launch function of a linked launcher at `path`; raises as `load_launcher` does."""
    _preload()
    import tvm_ffi

    launch: Launch = tvm_ffi.load_module(str(path))[ENTRY]
    return launch

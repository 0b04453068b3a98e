"""Compiling the simulator's test kernels into folders, in a process of their own target.

    python -m tests.harness.simulator.corpus TARGET FOLDER [NAME ...]

FOLDER/<name>/ gets the kernel's PTX, cubin, host object (for the launch recorder) and launcher (for a GPU).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from harness.artifact import ENTRY, LAUNCHER
from harness.compile import CUBIN, PTX, link, prepare_process
from tests.harness.simulator.gemm_params import GEMMS
from tests.harness.simulator.routers import ROUTERS, compile_router
from tests.harness.simulator.tiny_kernels import BLACKWELL, TINY_KERNELS

HOST_OBJECT = "launch.o"


def names_of(target: str) -> list[str]:
    """All kernels of the corpus that exist for `target`."""
    tiny = [name for name, kernel in TINY_KERNELS.items() if target in kernel.targets]
    return tiny + list(GEMMS if target == BLACKWELL else ROUTERS)


def compile_named(name: str) -> Any:
    """The compiled function of one kernel, for the target this process compiles for."""
    if name in TINY_KERNELS:
        return TINY_KERNELS[name].compile()
    if name in ROUTERS:
        return compile_router(name)
    from tests.harness.simulator.gemm_compile import compile_gemm

    return compile_gemm(GEMMS[name])


def compile_corpus(target: str, folder: Path, names: list[str]) -> None:
    prepare_process(target)
    for name in names:
        compiled = compile_named(name)
        assert compiled.engine is None, "the DSL built an engine, which nobody runs"
        home = folder / name
        home.mkdir(parents=True, exist_ok=True)
        (home / PTX).write_text(compiled.artifacts.PTX)
        (home / CUBIN).write_bytes(compiled.artifacts.CUBIN)
        compiled.export_to_c(str(home / HOST_OBJECT), function_name=ENTRY)
        link(home / HOST_OBJECT, home / LAUNCHER)


if __name__ == "__main__":
    target, folder, *names = sys.argv[1:]
    compile_corpus(target, Path(folder), names or names_of(target))

"""Compiling one candidate into an artifact, inside a compile worker.

The DSL reads its target once, from the environment at its first import, so `prepare_process` comes before
anything that imports it and a process compiles for one target only. No GPU is touched: kernels are compiled
from fake tensors.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from harness.artifact import ENTRY, LAUNCHER, Artifact, ArtifactManifest
from harness.cache import ArtifactCache, artifact_key
from harness.compile_result import CompileFailure, CompileResult
from harness.oneline import one_line
from harness.record import Outcome
from harness.resources import read_resources, with_dynamic_smem, with_tensor_memory
from harness.toolchain import ToolchainError, check_target, compiler_versions, find_linker
from kernels.family import KernelFamily
from kernels.problem import RouterProblem

CUBIN = "kernel.cubin"
PTX = "kernel.ptx"


class OtherTargetError(RuntimeError):
    """This process has begun to compile for another target."""


# Raised for reasons of the machine, not of the candidate: they say nothing of it, and the next one would meet
# them too.
ENVIRONMENT_ERRORS = (
    ImportError,
    MemoryError,
    OSError,
    OtherTargetError,
    ToolchainError,
    subprocess.TimeoutExpired,
)


def prepare_process(target: str) -> None:
    """Select `target` for this process, which compiles for other processes to run; import the DSL.

    The DSL keeps what an artifact is made of, and builds no engine that would run kernels here.

    Raises:
        ToolchainError: for an unknown target.
        OtherTargetError: when the DSL was imported before, for another target.
    """
    check_target(target)
    if "cutlass" in sys.modules and os.environ.get("CUTE_DSL_ARCH") != target:
        begun = os.environ.get("CUTE_DSL_ARCH")
        raise OtherTargetError(f"this process compiles for {begun}, not for {target}")
    os.environ["CUTE_DSL_ARCH"] = target
    os.environ["CUTE_DSL_KEEP"] = "ptx,cubin"
    # The DSL also writes what it keeps to files, by default into the working directory.
    if "CUTE_DSL_DUMP_DIR" not in os.environ:
        os.environ["CUTE_DSL_DUMP_DIR"] = tempfile.mkdtemp(prefix="routertune-dsl-")
    _import_dsl()


@cache
def _import_dsl() -> None:
    """Import the DSL, once, for a process that exports what it compiles."""
    from cutlass._mlir.execution_engine import ExecutionEngine
    from cutlass._mlir.ir import Context, Module
    from cutlass.cutlass_dsl import CuTeDSL

    # Without the engine that the DSL builds where it could run a kernel, a compilation takes a tenth less.
    CuTeDSL._get_dsl()._runtime_can_run_compiled = lambda *architectures: False
    # One engine all the same, of nothing: it acquaints LLVM with this machine's assembler, which host code
    # may ask for. Without it that ends the process.
    with Context():
        ExecutionEngine(Module.parse(""))
    # 300,000 objects of torch and the DSL live as long as the process: no collection need look at them.
    # Another twentieth of a compilation.
    gc.collect()
    gc.freeze()


def compile_candidate(
    family: KernelFamily, problem: RouterProblem, config: Any, target: str, folder: Path
) -> ArtifactManifest:
    """Compile, export and link one config; its files are left in `folder`, named in the manifest's digests.

    Raises whatever the compiler raises, and `RuntimeError` with the linker's message when linking fails.
    """
    began = time.perf_counter()
    prepare_process(target)
    toolchain = compiler_versions()
    try:
        compiled = family.compile(problem, config, target)
        cubin, ptx = compiled.artifacts.CUBIN, compiled.artifacts.PTX
        (folder / CUBIN).write_bytes(cubin)
        (folder / PTX).write_text(ptx)
        host_object = folder / "launch.o"
        compiled.export_to_c(str(host_object), function_name=ENTRY)
    finally:
        _empty(Path(os.environ["CUTE_DSL_DUMP_DIR"]))
    link(host_object, folder / LAUNCHER)
    return ArtifactManifest(
        key=artifact_key(family, problem, config, target, toolchain),
        family=family.name,
        problem=msgspec.to_builtins(asdict(problem)),
        config=msgspec.to_builtins(asdict(config)),
        target=target,
        toolchain=toolchain,
        digests={name: sha256((folder / name).read_bytes()).hexdigest() for name in (LAUNCHER, CUBIN, PTX)},
        resources=with_tensor_memory(with_dynamic_smem(read_resources(cubin), str(compiled.ir_module)), ptx),
        compile_s=time.perf_counter() - began,
    )


def link(host_object: Path, launcher: Path) -> None:
    """Link the exported host object into a shared library.

    The runtime's symbols stay undefined and no path is recorded: the loader preloads the runtime library of
    the machine it runs on (`harness.launcher`).
    """
    command = [find_linker(), "-shared", "-o", str(launcher), str(host_object)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"linking failed: {one_line(done.stderr)}")


def known_result(cache: ArtifactCache, key: str, timeout_s: float) -> CompileResult | None:
    """What the cache knows about `key`; None when it must be compiled."""
    found = cache.lookup(key)
    if isinstance(found, Artifact):
        return CompileResult.of_artifact(found, from_cache=True)
    if found is not None and found.stands(timeout_s):
        return CompileResult.of_failure(found, from_cache=True)
    return None


def compile_cached(
    cache_root: Path,
    family: KernelFamily,
    problem: RouterProblem,
    config: Any,
    target: str,
    timeout_s: float = math.inf,
) -> CompileResult:
    """The cached artifact or failure of a config; compiled and published first when it is not there.

    One process compiles a key while the others wait for it. `timeout_s` is the caller's limit: a timeout
    that was cached under a shorter one is tried again.

    Raises `ToolchainError` where this machine cannot compile, whatever the config; nothing is cached then.
    """
    cache = ArtifactCache(cache_root)
    key = artifact_key(family, problem, config, target, compiler_versions())
    with cache.lock(key):
        if (known := known_result(cache, key, timeout_s)) is not None:
            return known
        began = time.perf_counter()
        try:
            with cache.scratch(key) as folder:
                manifest = compile_candidate(family, problem, config, target, folder)
                return CompileResult.of_artifact(cache.publish(manifest, folder), from_cache=False)
        except ENVIRONMENT_ERRORS as error:
            reason = one_line(f"{type(error).__name__}: {error}")
            raise ToolchainError(f"this machine cannot compile: {reason}; put that right and go on") from None
        except Exception as error:  # whatever the compiler raises costs this candidate only
            reason = one_line(f"{type(error).__name__}: {error}")
            failure = CompileFailure(key, Outcome.COMPILE_ERROR, reason, time.perf_counter() - began)
            cache.publish_failure(failure)
            return CompileResult.of_failure(failure, from_cache=False)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

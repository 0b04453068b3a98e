"""Long-lived compile workers: importing torch and the DSL takes seconds, compiling a config about one.

Workers are spawned processes of pebble's pool, one pool per target, because the DSL's target is a process's
environment. A worker that crashes or exceeds the time limit is killed and replaced; it costs its candidate an
outcome (`compile_error` or `timeout`) with the reason, and nothing else. What fails with any candidate is no
candidate's outcome: it is raised, so that a sweep ends there and goes on later. Workers use no GPU.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from concurrent.futures import CancelledError, Future
from typing import Any, Self

from pebble import ProcessExpired, ProcessPool

from harness.cache import ArtifactCache, artifact_key
from harness.compile import compile_cached, known_result, prepare_process
from harness.compile_result import CompileFailure, CompileResult
from harness.lifeline import deaf_children, die_with
from harness.record import Outcome
from harness.toolchain import ToolchainError, check_target, compiler_versions, find_linker
from kernels.family import KernelFamily
from kernels.problem import RouterProblem

__all__ = ["DEFAULT_TIMEOUT_S", "CompilePool", "CompileResult"]

# A config compiles in 1 to 3 s; a minute and a half is a compiler that will not come back.
DEFAULT_TIMEOUT_S = 90.0


def _start_worker(target: str, dump_folder: str) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    die_with(parent.sentinel)
    # Compiling needs no device: without one no CUDA context can appear beside the measuring worker's.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["CUTE_DSL_DUMP_DIR"] = tempfile.mkdtemp(dir=dump_folder)
    # A worker that cannot start is started again for ever. This failure is each compile's to report.
    with contextlib.suppress(Exception):
        prepare_process(target)


class CompilePool:
    """Compiles candidates in `workers` processes (by default one per usable core), through `cache`.

    Raises `ToolchainError` when the DSL or a linker is missing: that is no candidate's fault.
    """

    def __init__(
        self, cache: ArtifactCache, *, workers: int | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        find_linker()
        self.cache = cache
        self.workers = workers or len(os.sched_getaffinity(0))
        self.timeout_s = timeout_s
        self._toolchain = compiler_versions()
        self._dumps = tempfile.TemporaryDirectory(prefix="routertune-dsl-")
        self._pools: dict[str, ProcessPool] = {}
        self._lock = threading.Lock()

    def submit(
        self, family: KernelFamily, problem: RouterProblem, config: Any, target: str
    ) -> Future[CompileResult]:
        """Compile `config` unless the cache knows it.

        The future's exception is `ToolchainError` or `OSError` where the machine or its cache cannot compile
        anything, and never another one: all else is a result.

        Cancelling the future gives the compile up, kills its worker if it has begun.
        """
        check_target(target)
        key = artifact_key(family, problem, config, target, self._toolchain)
        result: Future[CompileResult] = Future()
        if (known := known_result(self.cache, key, self.timeout_s)) is not None:
            result.set_result(known)
            return result
        began = time.perf_counter()
        with deaf_children():
            task = self._pool(target).schedule(
                compile_cached,
                args=(self.cache.root, family, problem, config, target, self.timeout_s),
                timeout=self.timeout_s,
            )

        def finish(done: Future[CompileResult]) -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                result.set_result(self._outcome(key, done, time.perf_counter() - began))
            except (ToolchainError, OSError) as error:
                result.set_exception(error)

        def cancel(done: Future[CompileResult]) -> None:
            if done.cancelled():
                task.cancel()  # type: ignore[no-untyped-call]

        result.add_done_callback(cancel)
        task.add_done_callback(finish)
        return result

    def close(self) -> None:
        """Stop the workers; what is still being compiled is given up. Idempotent."""
        with self._lock:
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()
        self._dumps.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pool(self, target: str) -> ProcessPool:
        with self._lock:
            if target not in self._pools:
                self._pools[target] = ProcessPool(
                    max_workers=self.workers,
                    initializer=_start_worker,
                    initargs=(target, self._dumps.name),
                    context=multiprocessing.get_context("spawn"),
                )
            return self._pools[target]

    def _outcome(self, key: str, done: Future[CompileResult], seconds: float) -> CompileResult:
        try:
            return done.result()
        except TimeoutError:
            reason = f"the compiler did not finish within {self.timeout_s:g} s"
            failure = CompileFailure(key, Outcome.TIMEOUT, reason, self.timeout_s)
            self.cache.publish_failure(failure)
        except ProcessExpired as error:
            killed = error.exitcode is not None and error.exitcode < 0
            how = signal.Signals(-error.exitcode).name if killed else f"exit status {error.exitcode}"
            failure = CompileFailure(key, Outcome.COMPILE_ERROR, f"the compiler crashed: {how}", seconds)
            # These come from outside, for want of memory or to end a sweep: it may well compile next time.
            if error.exitcode not in (-signal.SIGKILL, -signal.SIGTERM):
                self.cache.publish_failure(failure)
        except CancelledError:
            failure = CompileFailure(key, Outcome.COMPILE_ERROR, "the compile pool was closed", seconds)
        except (ToolchainError, OSError):
            raise
        except Exception as error:  # a worker that could not start, or a result that could not be sent
            reason = f"compile worker failed: {type(error).__name__}: {error}"
            failure = CompileFailure(key, Outcome.COMPILE_ERROR, reason, seconds)
        return CompileResult.of_failure(failure, from_cache=False)

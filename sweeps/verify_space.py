"""Verifying a space's configs one after the other or in several processes, in any number of sittings.

Each config is appended to a file of JSON lines as soon as it is known, and what the file holds is not done
again. A process that dies costs its config an outcome, and nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import msgspec
import torch
from pebble import ProcessExpired, ProcessPool

from harness.compile import prepare_process
from harness.executor import CheckDepth
from harness.json_lines import append_line, append_to
from harness.lifeline import deaf_children, die_with
from harness.record import Outcome, RecordError
from kernels.families import family
from kernels.family import ParamValue
from kernels.problem import RouterProblem
from sweeps.covering import covering_order
from sweeps.space import Space
from sweeps.verify import COMPLETE, SEED, Verified, read_verified, verify_config
from sweeps.verify_check import check_config

# Arrays of a config's memories come and go: a process is replaced before it has grown by much.
CONFIGS_OF_A_PROCESS = 100


# A config to be proven, and what is known of it since less was asked.
Task = tuple[dict[str, ParamValue], Verified | None]


@dataclass(frozen=True)
class Plan:
    """How to verify a space.

    Attributes:
        cache: where artifacts are kept.
        configs, minutes: stop when so many configs are known, or after so long (None: no limit).
        shard: (i, n), the i-th of n parts that have no config in common, for as many machines.
        jobs: processes.
        on_gpu: also compare with the current CUDA device.
        check: prove configs by a sweep's check of this depth (`sweeps.verify_check`) instead.
    """

    cache: Path
    configs: int | None = None
    minutes: float | None = None
    shard: tuple[int, int] = (0, 1)
    jobs: int = 1
    on_gpu: bool = False
    check: CheckDepth | None = None


def verify_space(space: Space, out: Path, plan: Plan) -> Iterator[Verified]:
    """Verify what `out` does not hold yet, append it there, and give it.

    What an earlier schema says is proven, when less was asked, comes after it, unless `plan.configs` limits
    how many are wanted. Raises `RecordError` where it holds something else, configs of another space, or such
    as were proven in another way.
    """
    found = read_verified(out)
    _refuse_others(found, space, plan.check, out)
    append_to(out, Verified)
    order = covering_order(space, SEED, [one.config for one in found], plan.shard)
    left: Iterator[Task] = ((params, None) for params in order)
    if plan.configs is None:
        left = chain(left, _asked_less(found, space, plan.shard))
    else:
        left = islice(left, max(0, plan.configs - len(found)))
    end = None if plan.minutes is None else time.perf_counter() + 60 * plan.minutes
    for one in _in_processes(space, left, plan, end):
        append_line(out, msgspec.json.encode(one))
        yield one


def _asked_less(found: Sequence[Verified], space: Space, shard: tuple[int, int]) -> Iterator[Task]:
    """The configs of one shard that were proven when less was asked, with what was."""
    part, parts = shard
    for one in found:
        index = space.index(one.config)
        if one.schema not in COMPLETE and index is not None and index % parts == part:
            yield one.config, one


def _refuse_others(found: Sequence[Verified], space: Space, check: CheckDepth | None, out: Path) -> None:
    """A config proven for another problem, target or hidden size, or by another check, is not proven here."""
    wanted = (space.family.name, space.target, space.problem.name, space.problem.hidden, check)
    for one in found:
        its = (one.family, one.target, one.problem, one.hidden, one.check)
        if its != wanted:
            raise RecordError(
                f"{out} holds configs of {_spaced(its)}, not of {_spaced(wanted)}: name another file"
            )


def _spaced(identity: tuple[str, str, str, int, CheckDepth | None]) -> str:
    family_name, target, problem, hidden, check = identity
    with_check = "" if check is None else f" with --check {check}"
    return f"{family_name} for {target} and {problem} at hidden {hidden}{with_check}"


def _in_processes(space: Space, left: Iterator[Task], plan: Plan, end: float | None) -> Iterator[Verified]:
    """Each config's verdict as soon as it is known; no new one is begun after `end`."""
    pool = ProcessPool(
        max_workers=plan.jobs,
        max_tasks=CONFIGS_OF_A_PROCESS,
        initializer=_start,
        initargs=(space.target,),
        context=multiprocessing.get_context("spawn"),
    )
    running: dict[Future[Verified], dict[str, ParamValue]] = {}
    with pool, _stopping(pool):
        while True:
            while len(running) < 2 * plan.jobs and (end is None or time.perf_counter() < end):
                task = next(left, None)
                if task is None:
                    break
                params, earlier = task
                of_space = (space.family.name, space.problem, params, space.target, plan.cache)
                how = (plan.on_gpu, plan.check, earlier)
                with deaf_children():
                    running[pool.schedule(_verify, args=(*of_space, *how))] = params
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                params = running.pop(future)
                try:
                    yield future.result()
                except ProcessExpired as error:
                    yield Verified(
                        space.family.name,
                        space.target,
                        space.problem.name,
                        space.problem.hidden,
                        params,
                        Outcome.CRASHED,
                        f"the process died with exit code {error.exitcode}",
                        check=plan.check,
                    )


@contextmanager
def _stopping(pool: ProcessPool) -> Iterator[None]:
    """Give up what is running when nobody waits for it any more."""
    try:
        yield
    except BaseException:
        pool.stop()  # type: ignore[no-untyped-call]
        raise


def _start(target: str) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    die_with(parent.sentinel)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    prepare_process(target)


def _verify(
    family_name: str,
    problem: RouterProblem,
    params: dict[str, ParamValue],
    target: str,
    cache: Path,
    on_gpu: bool,
    check: CheckDepth | None,
    earlier: Verified | None,
) -> Verified:
    of_space = (family(family_name), problem, params, target, cache)
    if check is not None:
        return check_config(*of_space, check)
    return verify_config(*of_space, on_gpu, earlier)

"""The check that runs before any timing: one kernel against the float64 reference, on every distribution.

Ids and weights are judged by `harness.check_rule`. Besides, at every launch every output element is written
(they are poisoned first), nothing is written around the outputs and the workspace (guard zones) or to the
inputs, and a second launch, on the workspace as the first one left it, gives the same bits.

A brief check (`CheckDepth.BRIEF`) makes one launch of each distribution; three distributions, others for
every seed, are launched at a second M too, twice, so that every property is tested in every candidate.

Quality, recorded and not gated: how many of the experts chosen on NVFP4 data the unquantized bf16 reference
chooses too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from harness.check_bench import Arguments, Bench, Shot
from harness.check_bounds import expect
from harness.check_cases import BASE_M, DISTRIBUTIONS, Operands, generate
from harness.executor import CheckDepth
from harness.record import CaseResult, CheckResult
from kernels.family import OperandFormat
from kernels.problem import RouterProblem
from kernels.reference import bf16_logits, route

# launch(*operands, bias, alpha, workspace, weights, ids), as in `kernels.family`.
Launch = Callable[..., object]
# The same for several launches of which none needs what another leaves: they may run at the same time.
LaunchTogether = Callable[[Sequence[Arguments]], object]


def check_router(
    launch: Launch,
    problem: RouterProblem,
    workspace_elements: Callable[[int], int],
    device: torch.device | str,
    seed: int,
    tail_unit: int = 128,
    only: tuple[str, ...] = tuple(DISTRIBUTIONS),
    operand_format: OperandFormat = OperandFormat.BF16,
    depth: CheckDepth = CheckDepth.FULL,
    together: LaunchTogether | None = None,
    at: tuple[int, ...] = (),
) -> CheckResult:
    """Check `launch` on fresh inputs drawn from `seed` and stop at the first failed case.

    It stops there because what a wrong kernel has overwritten is not known. `tail_unit` is the kernel's tile
    of M. `only` names the distributions to run, `at` the M to run them at (empty: their own), and
    `operand_format` what the kernel multiplies; the reference is computed from the same numbers. Whatever
    `launch` raises is passed on.

    With `together`, which makes several launches as one, all distributions are launched at the same time.
    """
    started = time.perf_counter()
    cases: list[CaseResult] = []
    overlap: float | None = None

    def one_by_one(launches: Sequence[Arguments]) -> None:
        for arguments in launches:
            launch(*arguments)

    benches = (
        Bench(operands, expect(operands, problem), problem, operand_format, workspace_elements, seed)
        for operands in generate(
            problem, seed, torch.device(device), tail_unit, only, operand_format, depth, at
        )
    )
    for group in _groups(benches, 1 if together is None else len(DISTRIBUTIONS)):
        for shots in _rounds(group):
            _fire(shots, together or one_by_one, depth)
            for shot in shots:
                cases.append(shot.judge())
                if not cases[-1].passed:
                    return CheckResult(False, tuple(cases), overlap, time.perf_counter() - started)
                operands = shot.bench.operands
                last = shot.m == operands.m_values[-1]
                if last and operands.unquantized is not None and overlap is None:
                    overlap = _overlap(shot.found_ids, operands, problem)
    return CheckResult(True, tuple(cases), overlap, time.perf_counter() - started)


def _groups(benches: Iterator[Bench], size: int) -> Iterator[list[Bench]]:
    """`size` benches at a time: no more are in memory."""
    while group := list(islice(benches, size)):
        yield group


def _rounds(benches: Iterable[Bench]) -> Iterator[list[Shot]]:
    """Shots of different benches; those of one bench share its workspace and come one after the other."""
    left = [(bench, iter(bench.operands.m_values)) for bench in benches]
    while shots := [bench.aim(m) for bench, m_values in left if (m := next(m_values, None)) is not None]:
        yield shots


def _fire(shots: Sequence[Shot], launch: LaunchTogether, depth: CheckDepth) -> None:
    """Launch every shot, then those again that are to give the same bits twice."""
    repeated = shots if depth is CheckDepth.FULL else [shot for shot in shots if shot.m != BASE_M]
    for again in filter(None, (shots, repeated)):
        launch([shot.arguments() for shot in again])
        for shot in again:
            shot.keep()


def _overlap(ids: Tensor, operands: Operands, problem: RouterProblem) -> float:
    """The share of `ids` [M, k] that the bf16 reference picks from the unquantized operands too."""
    assert operands.unquantized is not None
    a, b = operands.unquantized
    _, reference = route(bf16_logits(a[: len(ids)], b), problem, operands.bias if problem.bias else None)
    return float((ids[:, :, None] == reference[:, None, :]).any(2).double().mean())

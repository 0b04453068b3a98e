"""The check that runs before any timing: one kernel against the float64 reference, on every distribution.

Ids and weights are judged by `harness.check_rule`. Besides, at every launch every output element is written
(they are poisoned first), nothing is written around the outputs and the workspace (guard zones) or to the
inputs, and a second launch, on the workspace as the first one left it, gives the same bits.

A brief check (`CheckDepth.BRIEF`) makes one launch of each distribution; three distributions, others for
every seed, are launched at a second M too, twice, so that every property is tested in every candidate.

What can make several launches as one (`together`) gets all first launches at the same time, each with a
workspace of its own, and then the second ones, each with the workspace that another M has left.

Quality, recorded and not gated: how many of the experts chosen on NVFP4 data the unquantized bf16 reference
chooses too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from itertools import chain, islice

import torch
from torch import Tensor

from harness.check_bench import Arguments, Bench, Shot, pass_workspaces_on
from harness.check_bounds import Expected, expect
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
) -> CheckResult:
    """Check `launch` on fresh inputs drawn from `seed` and stop at the first failed case.

    It stops there because what a wrong kernel has overwritten is not known. `tail_unit` is the kernel's tile
    of M. `only` names the distributions to run, and `operand_format` what the kernel multiplies; the
    reference is computed from the same numbers. Whatever `launch` raises is passed on.
    """
    drawn = generate(problem, seed, torch.device(device), tail_unit, only, operand_format, depth)
    prepared = ((operands, expect(operands, problem)) for operands in drawn)
    return check_prepared(
        launch, problem, workspace_elements, seed, prepared, operand_format, launched_once(depth), together
    )


def launched_once(depth: CheckDepth) -> frozenset[int]:
    """The M at which a check of this depth makes no second launch."""
    return frozenset({BASE_M} if depth is CheckDepth.BRIEF else ())


def check_prepared(
    launch: Launch,
    problem: RouterProblem,
    workspace_elements: Callable[[int], int],
    seed: int,
    prepared: Iterable[tuple[Operands, Expected]],
    operand_format: OperandFormat,
    once: Set[int] = frozenset(),
    together: LaunchTogether | None = None,
    again: LaunchTogether | None = None,
) -> CheckResult:
    """`check_router` on inputs drawn from `seed` whose reference is known.

    There is no second launch at the M in `once`. `again` makes the others, where they are to differ from the
    first ones in something that may not change the result.
    """
    started = time.perf_counter()
    cases: list[CaseResult] = []
    overlap: float | None = None

    def one_by_one(launches: Sequence[Arguments]) -> None:
        for arguments in launches:
            launch(*arguments)

    first = together or one_by_one
    benches = (
        Bench(operands, expected, problem, operand_format, workspace_elements, seed)
        for operands, expected in prepared
    )
    for group in _groups(benches, 1 if together is None else len(DISTRIBUTIONS)):
        for shots in _rounds(group, together is not None):
            _fire(shots, first, again or first, once)
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


def _rounds(benches: Sequence[Bench], together: bool) -> Iterator[list[Shot]]:
    """The shots in the order of launching; those of a list may be launched `together`."""
    if together:
        yield list(chain.from_iterable(bench.shots(workspace_each=True) for bench in benches))
        return
    for bench in benches:
        yield from ([shot] for shot in bench.shots(workspace_each=False))


def _fire(shots: Sequence[Shot], first: LaunchTogether, again: LaunchTogether, once: Set[int]) -> None:
    """Launch every shot, then those again whose M is not in `once`: they are to give the same bits."""
    first([shot.arguments() for shot in shots])
    for shot in shots:
        shot.keep()
    repeated = [shot for shot in shots if shot.m not in once]
    if repeated:
        pass_workspaces_on(shots)
        again([shot.arguments() for shot in repeated])
        for shot in repeated:
            shot.keep()


def _overlap(ids: Tensor, operands: Operands, problem: RouterProblem) -> float:
    """The share of `ids` [M, k] that the bf16 reference picks from the unquantized operands too."""
    assert operands.unquantized is not None
    a, b = operands.unquantized
    _, reference = route(bf16_logits(a[: len(ids)], b), problem, operands.bias if problem.bias else None)
    return float((ids[:, :, None] == reference[:, None, :]).any(2).double().mean())

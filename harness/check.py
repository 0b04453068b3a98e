"""The check that runs before any timing: one kernel against the float64 reference, on every distribution.

Ids and weights are judged by `harness.check_rule`. Besides, at every launch every output element is written
(they are poisoned first), nothing is written around the outputs and the workspace (guard zones) or to the
inputs, and a second launch, on the workspace as the first one left it, gives the same bits.

Quality, recorded and not gated: how many of the experts chosen on NVFP4 data the unquantized bf16 reference
chooses too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from harness.check_bounds import Expected, expect
from harness.check_cases import DISTRIBUTIONS, Operands, generate
from harness.check_rule import compare, first_true
from harness.record import CaseResult, CheckResult
from kernels.family import OperandFormat
from kernels.problem import RouterProblem
from kernels.reference import bf16_logits, route

# launch(*operands, bias, alpha, workspace, weights, ids), as in `kernels.family`.
Launch = Callable[..., object]
OPERAND_NAMES = {
    OperandFormat.BF16: ("a", "b"),
    OperandFormat.NVFP4: ("a", "a_scale", "b", "b_scale"),
}

# 16 KiB on either side: more than a tile of 256 rows of 8 weights past the end.
GUARD_ELEMENTS = 4096
GUARD_PATTERN = 0x5A5A5A5A
# A NaN with a payload that no arithmetic produces, and an id that no expert has.
WEIGHT_POISON = 0x7FC0DEAD
ID_POISON = -(2**31)


def check_router(
    launch: Launch,
    problem: RouterProblem,
    workspace_elements: Callable[[int], int],
    device: torch.device | str,
    seed: int,
    tail_unit: int = 128,
    only: tuple[str, ...] = tuple(DISTRIBUTIONS),
    operand_format: OperandFormat = OperandFormat.BF16,
) -> CheckResult:
    """Check `launch` on fresh inputs drawn from `seed` and stop at the first failed case.

    It stops there because what a wrong kernel has overwritten is not known. `tail_unit` is the kernel's tile
    of M. `only` names the distributions to run and `operand_format` what the kernel multiplies; the reference
    is computed from the same numbers. Whatever `launch` raises is passed on.
    """
    started = time.perf_counter()
    device = torch.device(device)
    cases: list[CaseResult] = []
    overlap: float | None = None
    for operands in generate(problem, seed, device, tail_unit, only, operand_format):
        expected = expect(operands, problem)
        bench = _Bench(launch, problem, operands, operand_format, workspace_elements, seed)
        for m in operands.m_values:
            case, ids = bench.run(m, expected.rows(slice(m)))
            cases.append(case)
            if not case.passed:
                return CheckResult(False, tuple(cases), overlap, time.perf_counter() - started)
        if operands.unquantized is not None and overlap is None:
            overlap = _overlap(ids, operands, problem)
    return CheckResult(True, tuple(cases), overlap, time.perf_counter() - started)


class _Guarded:
    """Four-byte elements of one tensor between two guard zones."""

    def __init__(self, name: str, elements: int, device: torch.device) -> None:
        self.name = name
        self._memory = torch.full(
            (elements + 2 * GUARD_ELEMENTS,), GUARD_PATTERN, dtype=torch.int32, device=device
        )
        self.bits = self._memory[GUARD_ELEMENTS : GUARD_ELEMENTS + elements]

    def damage(self) -> str:
        """Empty, or what was written around the tensor."""
        zones = {"before": self._memory[:GUARD_ELEMENTS], "after": self._memory[-GUARD_ELEMENTS:]}
        for where, zone in zones.items():
            hits = (zone != GUARD_PATTERN).nonzero().flatten()
            if len(hits):
                away = GUARD_ELEMENTS - int(hits[-1]) if where == "before" else int(hits[0]) + 1
                return f"{len(hits)} elements written {where} {self.name}, the nearest {away} away from it"
        return ""


class _Bench:
    """Launches a kernel on one distribution's operands and judges what it leaves."""

    def __init__(
        self,
        launch: Launch,
        problem: RouterProblem,
        operands: Operands,
        operand_format: OperandFormat,
        workspace_elements: Callable[[int], int],
        seed: int,
    ) -> None:
        self.launch = launch
        self.problem = problem
        self.operands = operands
        self.operand_format = operand_format
        self.seed = seed
        every = operands.for_launch(operands.m_values[-1], operand_format)
        self.inputs = dict(zip(OPERAND_NAMES[operand_format], every, strict=True))
        self.inputs |= {"bias": operands.bias, "alpha": operands.alpha}
        # As the contract has it: zeroed once, then whatever the launches leave, at one M after another.
        self.workspace_elements = workspace_elements
        largest = max(workspace_elements(m) for m in operands.m_values)
        self.workspace = _Guarded("workspace", largest, operands.a.device)
        self.workspace.bits.zero_()
        self.copies = {name: tensor.clone() for name, tensor in self.inputs.items()}

    def run(self, m: int, expected: Expected) -> tuple[CaseResult, Tensor]:
        """The verdict at `m` tokens and the ids int32 [m, k] it is about."""
        device, k = self.operands.a.device, self.problem.top_k
        weights, ids = _Guarded("weights", m * k, device), _Guarded("ids", m * k, device)
        runs = []
        for _ in range(2):
            weights.bits.fill_(WEIGHT_POISON)
            ids.bits.fill_(ID_POISON)
            self.launch(
                *self.operands.for_launch(m, self.operand_format),
                self.operands.bias,
                self.operands.alpha,
                self.workspace.bits[: self.workspace_elements(m)].view(torch.float32),
                weights.bits.view(torch.float32).view(m, k),
                ids.bits.view(m, k),
            )
            runs.append(torch.stack((weights.bits, ids.bits)).view(2, m, k))
        first, second = runs
        found_weights, found_ids = first[0].view(torch.float32), first[1]
        damage = next(filter(None, (zone.damage() for zone in (weights, ids, self.workspace))), "")
        detail = damage or self._altered_input() or _unwritten(first)
        if detail:
            return CaseResult(self.operands.name, m, self.seed, passed=False, detail=detail), found_ids
        verdict = compare(found_ids, found_weights, expected, self.problem)
        detail = verdict.detail
        if not detail and not torch.equal(first, second):
            row = int((first != second).any(0).any(1).nonzero()[0])
            detail = f"row {row}: a second launch gives other bits"
        case = CaseResult(
            self.operands.name,
            m,
            self.seed,
            passed=not detail,
            ids_differ=verdict.ids_differ,
            worst_margin_ratio=verdict.worst_margin_ratio,
            worst_weight_error=verdict.worst_weight_error,
            detail=detail,
        )
        return case, found_ids

    def _altered_input(self) -> str:
        for name, tensor in self.inputs.items():
            if not torch.equal(tensor.view(torch.uint8), self.copies[name].view(torch.uint8)):
                return f"the input {name} was written to"
        return ""


def _unwritten(bits: Tensor) -> str:
    for name, values, poison in (("weights", bits[0], WEIGHT_POISON), ("ids", bits[1], ID_POISON)):
        untouched = values == poison
        if untouched.any():
            row, slot = first_true(untouched)
            return (
                f"{name}: {int(untouched.sum())} elements never written, the first at row {row}, slot {slot}"
            )
    return ""


def _overlap(ids: Tensor, operands: Operands, problem: RouterProblem) -> float:
    """The share of `ids` [M, k] that the bf16 reference picks from the unquantized operands too."""
    assert operands.unquantized is not None
    a, b = operands.unquantized
    _, reference = route(bf16_logits(a[: len(ids)], b), problem, operands.bias if problem.bias else None)
    return float((ids[:, :, None] == reference[:, None, :]).any(2).double().mean())

"""One distribution of the check on the device: what is launched, and what must be true of what it leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.check_bounds import Expected
from harness.check_cases import Operands
from harness.check_rule import compare, first_true
from harness.record import CaseResult
from kernels.family import OperandFormat
from kernels.problem import RouterProblem

# What a launch is called with, as in `kernels.family`.
Arguments = tuple[Tensor, ...]
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


class Guarded:
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


class Bench:
    """One distribution's operands and their reference."""

    def __init__(
        self,
        operands: Operands,
        expected: Expected,
        problem: RouterProblem,
        operand_format: OperandFormat,
        workspace_elements: Callable[[int], int],
        seed: int,
    ) -> None:
        self.operands = operands
        self.expected = expected
        self.problem = problem
        self.operand_format = operand_format
        self.seed = seed
        every = operands.for_launch(operands.m_values[-1], operand_format)
        self.inputs = dict(zip(OPERAND_NAMES[operand_format], every, strict=True))
        self.inputs |= {"bias": operands.bias, "alpha": operands.alpha}
        self.workspace_elements = workspace_elements
        self._copies = {name: tensor.clone() for name, tensor in self.inputs.items()}

    def shots(self, workspace_each: bool) -> list[Shot]:
        """A case for each M, to be launched in this order: with a workspace for each, or one for all.

        As the contract has it, a workspace is zeroed once; then it holds whatever launches leave, at one M
        after another.
        """
        device, k = self.operands.a.device, self.problem.top_k
        elements = max(self.workspace_elements(m) for m in self.operands.m_values)
        shared = _zeroed(elements, device)
        return [
            Shot(
                self,
                m,
                Guarded("weights", m * k, device),
                Guarded("ids", m * k, device),
                _zeroed(elements, device) if workspace_each else shared,
            )
            for m in self.operands.m_values
        ]

    def altered_input(self) -> str:
        """Empty, or which input was written to."""
        for name, tensor in self.inputs.items():
            if not torch.equal(tensor.view(torch.uint8), self._copies[name].view(torch.uint8)):
                return f"the input {name} was written to"
        return ""


def _zeroed(elements: int, device: torch.device) -> Guarded:
    workspace = Guarded("workspace", elements, device)
    workspace.bits.zero_()
    return workspace


@dataclass(eq=False)
class Shot:
    """One case: a bench at `m` tokens, and the bits int32 [2, m, k] (weights, ids) that each launch left."""

    bench: Bench
    m: int
    weights: Guarded
    ids: Guarded
    workspace: Guarded
    left: list[Tensor] = field(default_factory=list)

    @property
    def found_ids(self) -> Tensor:
        """int32 [m, k], of the first launch."""
        return self.left[0][1]

    def arguments(self) -> Arguments:
        """The next launch's arguments, its outputs poisoned."""
        bench, shape = self.bench, (self.m, self.bench.problem.top_k)
        self.weights.bits.fill_(WEIGHT_POISON)
        self.ids.bits.fill_(ID_POISON)
        return (
            *bench.operands.for_launch(self.m, bench.operand_format),
            bench.operands.bias,
            bench.operands.alpha,
            self.workspace.bits[: bench.workspace_elements(self.m)].view(torch.float32),
            self.weights.bits.view(torch.float32).view(shape),
            self.ids.bits.view(shape),
        )

    def keep(self) -> None:
        """Take what the launch has left."""
        self.left.append(torch.stack((self.weights.bits, self.ids.bits)).view(2, self.m, -1))

    def judge(self) -> CaseResult:
        """The verdict on what the launches left."""
        bench, first = self.bench, self.left[0]
        name, seed = bench.operands.name, bench.seed
        zones = (self.weights, self.ids, self.workspace)
        damage = next(filter(None, (zone.damage() for zone in zones)), "")
        detail = damage or bench.altered_input() or _unwritten(first)
        if detail:
            return CaseResult(name, self.m, seed, passed=False, detail=detail)
        expected = bench.expected.rows(slice(self.m))
        verdict = compare(self.found_ids, first[0].view(torch.float32), expected, bench.problem)
        detail = verdict.detail or self._other_bits()
        return CaseResult(
            name,
            self.m,
            seed,
            passed=not detail,
            ids_differ=verdict.ids_differ,
            worst_margin_ratio=verdict.worst_margin_ratio,
            worst_weight_error=verdict.worst_weight_error,
            detail=detail,
        )

    def _other_bits(self) -> str:
        first, *others = self.left
        for other in others:
            if not torch.equal(first, other):
                row = int((first != other).any(0).any(1).nonzero()[0])
                return f"row {row}: a second launch gives other bits"
        return ""


def pass_workspaces_on(shots: Sequence[Shot]) -> None:
    """Each shot gets the workspace that the next one of its bench has left, the last one the first's."""
    of_bench: dict[int, list[Shot]] = defaultdict(list)
    for shot in shots:
        of_bench[id(shot.bench)].append(shot)
    for mine in of_bench.values():
        left = [shot.workspace for shot in mine]
        for shot, workspace in zip(mine, left[1:] + left[:1], strict=True):
            shot.workspace = workspace


def _unwritten(bits: Tensor) -> str:
    for name, values, poison in (("weights", bits[0], WEIGHT_POISON), ("ids", bits[1], ID_POISON)):
        untouched = values == poison
        if untouched.any():
            row, slot = first_true(untouched)
            return (
                f"{name}: {int(untouched.sum())} elements never written, the first at row {row}, slot {slot}"
            )
    return ""

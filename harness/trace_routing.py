"""How a traced router's choices compare with the references'."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.check_bounds import Expected
from harness.check_rule import compare
from harness.trace_compare import finite
from harness.trace_record import Finding, RouterTrace, StepTrace
from kernels.problem import RouterProblem


@dataclass(frozen=True, eq=False)
class Choice:
    """What a router gave, and what it must do with the activations that it was given."""

    ids: Tensor
    weights: Tensor
    expected: Expected


@dataclass(frozen=True)
class Judged:
    """A choice under the rule of `harness.check_rule`. `ids_wrong` tells a wrong id from a wrong weight."""

    differ: int
    excess: float
    detail: str
    ids_wrong: bool


def judge(choice: Choice, problem: RouterProblem) -> Judged:
    verdict = compare(choice.ids, choice.weights, choice.expected, problem)
    # The rule looks at the weights, and so at their errors, only where the ids are right.
    ids_wrong = bool(verdict.detail) and verdict.worst_weight_error == 0.0
    excess = verdict.worst_margin_ratio
    if ids_wrong and excess <= 1.0:
        excess = math.inf  # ids that are no choice at all: outside the range, or twice the same
    return Judged(verdict.ids_differ, excess, verdict.detail, ids_wrong)


def router_trace(
    layer: int, ids: Tensor, given: Judged, own: Judged, exact: Expected, plain: Expected
) -> RouterTrace:
    """`given` judges the router on the reference's input, `own` on the run's own, where it chose `ids`."""
    return RouterTrace(
        layer=layer,
        entries=ids.numel(),
        differ_given_input=given.differ,
        differ_on_path=int((ids != exact.ids).sum()),
        differ_unquantized=int((ids != plain.ids).sum()),
        margin_on_path=margin(ids, exact),
        margin_unquantized=margin(ids, plain),
        detail=given.detail or own.detail,
    )


def ids_step(
    layer: int, given: Judged, own: Judged, trace: RouterTrace, exact: Expected, plain: Expected
) -> StepTrace:
    """The ids as a step: errors are shares of ids that differ, the excess is that of a ranking key's gap."""
    wrong = given.ids_wrong or own.ids_wrong
    return StepTrace(
        layer=layer,
        name="router.ids",
        finding=Finding.DEFECT if wrong else Finding.IN_BAND,
        step_error=trace.differ_given_input / trace.entries,
        step_allowed=None,
        step_excess=finite(max(given.excess, own.excess)),
        worst=(given.detail if given.ids_wrong else own.detail) if wrong else "",
        path_error=trace.differ_on_path / trace.entries,
        total_error=trace.differ_unquantized / trace.entries,
        quantization_error=float((exact.ids != plain.ids).double().mean()),
        expected_error=None,
        norm=None,
        reference_norm=None,
        unquantized_norm=None,
        peak=None,
        reference_peak=None,
        unquantized_peak=None,
    )


def margin(ids: Tensor, expected: Expected) -> float:
    """The largest gap of ranking keys between an expert of the reference and the one chosen in its place.

    In each row the highest-ranked expert that only the reference chose stands against the lowest-ranked one
    that only the router chose; 0 where both chose the same experts.
    """
    chosen = torch.zeros_like(expected.keys, dtype=torch.bool).scatter_(1, ids, True)
    wanted = torch.zeros_like(chosen).scatter_(1, expected.ids, True)
    missed = expected.keys.masked_fill(~(wanted & ~chosen), -torch.inf).amax(1)
    intruding = expected.keys.masked_fill(~(chosen & ~wanted), torch.inf).amin(1)
    gaps = (missed - intruding).masked_fill(~(wanted & ~chosen).any(1), 0.0)
    return float(gaps.max())

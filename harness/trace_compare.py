"""How one step of a layer compares with the references, and what its bands are.

**Given the reference's input** (the bound of `trace_reference.Step.allowed`): each row's error against the
row's allowance. It holds for every right implementation, so one row above it is a defect of this very step.

**Along the run** (an estimate): the step's carried variance gives the error expected of NVFP4 against the
unquantized layer. The band is 3^(1/2) times that, which is where uniform rounding errors end: each at its
largest, the signs still independent. It is widened for small tensors, whose mean square error fluctuates: by
the chi-square quantile of the tensor's element count at the normal deviate 4.75 (one in a million; Wilson and
Hilferty, 1931). The same band holds against the exact NVFP4 reference: a run that rounds differently upstream
can at most have its activations rounded afresh, an error of 2 sigma_x^2, which is below
3 (sigma_x^2 + sigma_w^2).

The norm needs no band of its own: | |run| - |reference| | is at most the norm of their difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.trace_record import Finding, StepTrace
from harness.trace_reference import Step

LARGEST_OVER_RMS = math.sqrt(3.0)
DEVIATE = 4.75


@dataclass(frozen=True, eq=False)
class Views:
    """One step as everybody has it.

    Attributes:
        forced: the layer's result given the reference's input, to be compared with `given`.
        given: the exact NVFP4 reference of that.
        path: the layer's result along its own run.
        followed: the exact NVFP4 reference along its own run, with the layer's choice of experts.
        plain: the unquantized reference along its own run, with the layer's choice of experts.
    """

    forced: Tensor
    given: Step
    path: Tensor
    followed: Step
    plain: Step


def compare_step(
    layer: int, name: str, views: Views, where: Callable[[int], str], saturated: float | None
) -> StepTrace:
    """Judge one step; `where` names a row for a person."""
    rows = difference(views.forced, views.given.value).norm(dim=1)
    excess = torch.where(rows == 0.0, 0.0, rows / views.given.allowed)
    excess = excess.nan_to_num(nan=math.inf, posinf=math.inf)
    worst = int(excess.argmax())
    expected = expected_error(views.plain)
    path_error = relative(views.path, views.followed.value)
    total_error = relative(views.path, views.plain.value)
    if not bool(excess[worst] <= 1.0):
        finding = Finding.DEFECT
    elif not bool(views.path.isfinite().all()):
        finding = Finding.NOT_FINITE
    elif not path_error <= expected:
        finding = Finding.DRIFT
    elif not total_error <= expected:
        finding = Finding.QUANTIZATION
    else:
        finding = Finding.IN_BAND
    given_norm = float(views.given.value.norm())
    return StepTrace(
        layer=layer,
        name=name,
        finding=finding,
        step_error=finite(relative(views.forced, views.given.value)),
        step_allowed=finite(float(views.given.allowed.norm()) / given_norm) if given_norm else 0.0,
        step_excess=finite(float(excess[worst])),
        worst=where(worst),
        path_error=finite(path_error),
        total_error=finite(total_error),
        quantization_error=finite(relative(views.followed.value, views.plain.value)),
        expected_error=finite(expected),
        norm=finite(float(views.path.double().norm())),
        reference_norm=finite(float(views.followed.value.norm())),
        unquantized_norm=finite(float(views.plain.value.norm())),
        peak=finite(float(views.path.double().abs().max())),
        reference_peak=finite(float(views.followed.value.abs().max())),
        unquantized_peak=finite(float(views.plain.value.abs().max())),
        saturated=saturated,
    )


def expected_error(plain: Step) -> float:
    """The band of the relative error along a run: see the module."""
    norm = float(plain.value.norm())
    if not norm:
        return 0.0
    rms = math.sqrt(float(plain.variance.sum())) / norm
    return LARGEST_OVER_RMS * fluctuation(plain.value.numel()) * rms


def fluctuation(elements: int) -> float:
    """How far the root mean square of so many independent errors may lie above its expectation."""
    spread = 2.0 / (9.0 * elements)
    return float((1.0 - spread + DEVIATE * math.sqrt(spread)) ** 1.5)


def difference(got: Tensor, want: Tensor) -> Tensor:
    """got - want in float64; 0 where both are the same infinity or NaN, infinite where only one is NaN."""
    got, want = got.double(), want.double()
    same = (got == want) | (got.isnan() & want.isnan())
    return torch.where(same, 0.0, got - want).nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)


def relative(got: Tensor, want: Tensor) -> float:
    """The norm of the difference over that of `want`; infinite for a difference from zeros."""
    error, norm = float(difference(got, want).norm()), float(want.double().norm())
    if error == 0.0:
        return 0.0
    return error / norm if norm else math.inf


def finite(value: float) -> float | None:
    """The value as JSON can hold it."""
    return value if math.isfinite(value) else None

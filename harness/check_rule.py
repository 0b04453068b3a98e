"""The rule by which a router's ids and weights are right, against the reference and its bounds. Per row:

- ids are in [0, E) and distinct, and no expert ranks below another whose reference key is lower by more than
  the sum of the two keys' bounds (`harness.check_bounds`). That covers the choice and the order, and leaves
  a differing id only where fp32 accumulation can explain it. Where a key's place is exact (small integers,
  NaN, infinities) equal keys rank by id.
- weights are those of the reference for the kernel's own ids, within the bound propagated to them, and NaN
  exactly where the reference's are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.check_bounds import SMALLEST_NORMAL, Expected, weight_errors
from kernels.problem import RouterProblem
from kernels.reference import routing_weights


@dataclass(frozen=True)
class Verdict:
    """How outputs compare with the reference; `detail` is empty when they are right."""

    detail: str = ""
    ids_differ: int = 0
    worst_margin_ratio: float = 0.0
    worst_weight_error: float = 0.0


def compare(ids: Tensor, weights: Tensor, expected: Expected, problem: RouterProblem) -> Verdict:
    """Judge ids int32 [M, k] and weights fp32 [M, k] by the module's rule."""
    ids = ids.long()
    outside = (ids < 0) | (ids >= problem.experts)
    if outside.any():
        row, slot = first_true(outside)
        return Verdict(f"row {row}, slot {slot}: id {int(ids[row, slot])} is outside [0, {problem.experts})")
    in_order = ids.sort(1).values
    repeated = in_order[:, 1:] == in_order[:, :-1]
    if repeated.any():
        row, slot = first_true(repeated)
        return Verdict(f"row {row}: expert {int(in_order[row, slot])} is selected twice")
    differs = ids != expected.ids
    ids_differ = int(differs.sum())
    ratio, detail = _worst_misplacement(ids, expected, differs.any(1).nonzero().flatten())
    if detail:
        return Verdict(detail, ids_differ, ratio)
    weight_error, detail = _compare_weights(ids, weights.double(), expected, problem)
    return Verdict(detail, ids_differ, ratio, weight_error)


def _worst_misplacement(ids: Tensor, expected: Expected, rows: Tensor) -> tuple[float, str]:
    """The largest key gap / allowed gap over pairs ranked against the reference in `rows`, and the fault."""
    if not len(rows):
        return 0.0, ""
    ids, at = ids[rows], expected.rows(rows)
    k, experts = ids.shape[1], at.keys.shape[1]
    place = torch.full_like(at.keys, k, dtype=torch.int64).scatter_(
        1, ids, torch.arange(k, device=ids.device).expand_as(ids)
    )
    # [rows, k, E]: slot p's expert against every expert that the kernel ranks below it.
    gap = at.keys[:, None, :] - at.keys.gather(1, ids)[:, :, None]
    allowed = at.key_errors[:, None, :] + at.key_errors.gather(1, ids)[:, :, None]
    below = place[:, None, :] > torch.arange(k, device=ids.device)[None, :, None]
    lower_id = torch.arange(experts, device=ids.device) < ids[:, :, None]
    wrong_tie = (gap == 0) & (allowed == 0) & lower_id
    ratio = torch.where(gap > 0, gap / allowed, torch.where(wrong_tie, torch.inf, 0.0))
    ratio = torch.where(below, ratio, 0.0)
    worst = float(ratio.max())
    if worst <= 1.0:
        return worst, ""
    index = int(ratio.argmax())
    row, slot, rival = index // (k * experts), index // experts % k, index % experts
    chosen = int(ids[row, slot])
    return worst, (
        f"row {int(rows[row])}, slot {slot}: expert {chosen} (key {float(at.keys[row, chosen]):.7g}) ranks "
        f"above expert {rival} (key {float(at.keys[row, rival]):.7g}); the gap allowed is "
        f"{float(allowed[row, slot, rival]):.2g}"
    )


def _compare_weights(
    ids: Tensor, weights: Tensor, expected: Expected, problem: RouterProblem
) -> tuple[float, str]:
    """The largest relative error of a weight, and the fault, if any."""
    reference = routing_weights(expected.scores, ids, problem)
    error = (weights - reference).abs()
    # Equal infinities differ by NaN; a NaN for a NaN is right, and any other NaN is within no bound.
    error = torch.where((weights == reference) | (weights.isnan() & reference.isnan()), 0.0, error)
    allowed = weight_errors(expected, ids, reference, problem)
    excess = torch.where(error == 0.0, 0.0, error / allowed).nan_to_num(nan=torch.inf)
    measurable = reference.isfinite() & (reference.abs() > SMALLEST_NORMAL)
    relative = torch.where(measurable, error / reference.abs(), 0.0)
    worst = float(relative.nan_to_num(nan=torch.inf).max())
    if not (excess > 1.0).any():
        return worst, ""
    row, slot = divmod(int(excess.argmax()), ids.shape[1])
    return worst, (
        f"row {row}, slot {slot}: the weight of expert {int(ids[row, slot])} is "
        f"{float(weights[row, slot]):.7g}, want {float(reference[row, slot]):.7g} "
        f"within {float(allowed[row, slot]):.2g}"
    )


def first_true(mask: Tensor) -> tuple[int, int]:
    """Row and column of the first true element of a matrix that has one."""
    row, column = mask.nonzero()[0].tolist()
    return row, column

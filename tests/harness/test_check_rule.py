"""The rule: what fp32 accumulation can explain passes, and nothing beyond it."""

from __future__ import annotations

import torch

from harness.check_bounds import Expected
from harness.check_rule import compare
from kernels.problem import RouterProblem, Score
from kernels.reference import routing_weights, select

PROBLEM = RouterProblem("rule", hidden=16, experts=6, top_k=3, score=Score.SIGMOID, routed_scale=2.0)


def expected(scores: list[float], score_error: float = 1e-6, key_error: float = 1e-6) -> Expected:
    s = torch.tensor([scores], dtype=torch.float64)
    return Expected(
        scores=s,
        score_errors=torch.full_like(s, score_error),
        keys=s,
        key_errors=torch.full_like(s, key_error),
        ids=select(s, PROBLEM.top_k),
    )


def right_weights(reference: Expected, ids: torch.Tensor) -> torch.Tensor:
    return routing_weights(reference.scores, ids, PROBLEM).float()


def test_the_reference_itself_is_right() -> None:
    reference = expected([0.1, 0.9, 0.5, 0.7, 0.2, 0.3])
    verdict = compare(reference.ids.int(), right_weights(reference, reference.ids), reference, PROBLEM)
    assert verdict.detail == ""
    assert (verdict.ids_differ, verdict.worst_margin_ratio) == (0, 0.0)
    assert verdict.worst_weight_error < 2.0**-23


def test_a_swap_within_the_bound_is_counted_and_accepted() -> None:
    """Two keys 1.5e-6 apart, each known to 1e-6: the gap is 0.75 of what is allowed."""
    reference = expected([0.9, 0.7, 0.5, 0.5 + 1.5e-6, 0.2, 0.3])
    assert reference.ids.tolist() == [[0, 1, 3]]
    ids = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    verdict = compare(ids, right_weights(reference, ids), reference, PROBLEM)
    assert verdict.detail == ""
    assert verdict.ids_differ == 1
    assert abs(verdict.worst_margin_ratio - 0.75) < 1e-6


def test_a_swap_beyond_the_bound_is_rejected_with_its_ratio() -> None:
    reference = expected([0.9, 0.7, 0.5, 0.5 + 3e-6, 0.2, 0.3])
    ids = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    verdict = compare(ids, right_weights(reference, ids), reference, PROBLEM)
    assert "slot 2: expert 2" in verdict.detail
    assert "above expert 3" in verdict.detail
    assert abs(verdict.worst_margin_ratio - 1.5) < 1e-6


def test_the_order_counts_even_where_the_choice_is_right() -> None:
    reference = expected([0.9, 0.7, 0.5, 0.1, 0.2, 0.3])
    ids = torch.tensor([[0, 2, 1]], dtype=torch.int32)
    assert "slot 1: expert 2" in compare(ids, right_weights(reference, ids), reference, PROBLEM).detail


def test_a_chain_of_close_keys_does_not_excuse_a_distant_one() -> None:
    """Neighbours 1.9e-6 apart may swap; the third may not overtake the first, 3.8e-6 away."""
    reference = expected([0.5, 0.5 - 1.9e-6, 0.5 - 3.8e-6, 0.1, 0.1, 0.1])
    ids = torch.tensor([[1, 2, 0]], dtype=torch.int32)
    assert "expert 2" in compare(ids, right_weights(reference, ids), reference, PROBLEM).detail


def test_exact_ties_go_to_the_lowest_id_only() -> None:
    reference = expected([0.5, 0.9, 0.5, 0.9, 0.5, 0.9], key_error=0.0)
    for ids, is_right in (([1, 3, 5], True), ([1, 5, 3], False), ([3, 1, 5], False)):
        found = torch.tensor([ids], dtype=torch.int32)
        verdict = compare(found, right_weights(reference, found), reference, PROBLEM)
        assert (verdict.detail == "") == is_right, ids
    # Within a bound either order of equal keys is as good.
    loose = expected([0.5, 0.9, 0.5, 0.9, 0.5, 0.9])
    found = torch.tensor([[5, 3, 1]], dtype=torch.int32)
    assert compare(found, right_weights(loose, found), loose, PROBLEM).detail == ""


def test_ids_outside_and_repeated_are_named() -> None:
    reference = expected([0.9, 0.7, 0.5, 0.1, 0.2, 0.3])
    weights = right_weights(reference, reference.ids)
    for bad, message in (
        (6, "id 6 is outside [0, 6)"),
        (-1, "id -1 is outside"),
        (0, "expert 0 is selected twice"),
    ):
        ids = torch.tensor([[0, 1, bad]], dtype=torch.int32)
        assert message in compare(ids, weights, reference, PROBLEM).detail


def test_weights_are_bound_by_the_propagated_error() -> None:
    """Scores .9, .7, .5 (sum 2.1) known to 1e-6: w0 = .857 may err by 2 (1 + .43 * 3) e-6 / 2.1 = 2.2e-6."""
    reference = expected([0.9, 0.7, 0.5, 0.1, 0.2, 0.3])
    right = right_weights(reference, reference.ids)
    for error, is_right in ((1.8e-6, True), (-1.8e-6, True), (3e-6, False), (-3e-6, False)):
        weights = right.clone()
        weights[0, 0] += error
        verdict = compare(reference.ids.int(), weights, reference, PROBLEM)
        assert (verdict.detail == "") == is_right, error
        assert abs(verdict.worst_weight_error - abs(error) / right[0, 0].item()) < 2e-7


def test_nan_weights_must_be_the_references() -> None:
    reference = expected([0.9, float("nan"), 0.5, 0.1, 0.2, 0.3])
    ids = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    reference = Expected(
        reference.scores,
        reference.score_errors,
        reference.keys.nan_to_num(0.7),
        reference.key_errors,
        ids.long(),
    )
    assert compare(ids, torch.full((1, 3), torch.nan), reference, PROBLEM).detail == ""
    for wrong in (0.0, float("inf")):
        weights = torch.full((1, 3), torch.nan)
        weights[0, 2] = wrong
        assert "slot 2" in compare(ids, weights, reference, PROBLEM).detail


def test_scores_lost_in_their_errors_leave_only_the_range() -> None:
    """All scores underflow: 0 is as good as equal shares, but no weight exceeds the routed scale."""
    reference = expected([1e-60] * 6, score_error=2.0**-126, key_error=2.0**-126)
    ids = reference.ids.int()
    for value, is_right in ((0.0, True), (2.0 / 3, True), (4.0, False), (float("nan"), False)):
        verdict = compare(ids, torch.full((1, 3), value), reference, PROBLEM)
        assert (verdict.detail == "") == is_right, value

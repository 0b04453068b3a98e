"""The float64 router, against a brute-force loop in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.nvfp4 import quantize_activation_nvfp4, quantize_to_nvfp4
from kernels.problem import RouterProblem, Score
from kernels.reference import (
    bf16_logits,
    bf16_reference,
    nvfp4_gemm_reference,
    route,
    score,
    select,
    softplus,
)

E, K_TOP = 9, 3


def problem(kind: Score, **change: object) -> RouterProblem:
    fields = {
        "hidden": 64,
        "experts": E,
        "top_k": K_TOP,
        "bias": kind is not Score.SOFTMAX,
        "routed_scale": 2.5,
    }
    return RouterProblem(name=kind.value, score=kind, **{**fields, **change})  # type: ignore[arg-type]


def scalar_exp(x: float) -> float:
    return math.inf if x > 709 else math.exp(x)


def scalar_score(row: list[float], i: int, kind: Score) -> float:
    x = row[i]
    if math.isnan(x):
        return math.nan
    if kind is Score.SIGMOID:
        return 1 / (1 + scalar_exp(-x))
    if kind is Score.SQRT_SOFTPLUS:
        return math.sqrt(max(x, 0.0) + math.log1p(math.exp(-abs(x))))
    others = [v for v in row if not math.isnan(v)]
    if math.isinf(max(others)):
        return math.nan
    return math.exp(x - max(others)) / sum(math.exp(v - max(others)) for v in others)


def brute_force(row: list[float], bias: list[float], p: RouterProblem) -> tuple[list[float], list[int]]:
    scores = [scalar_score(row, i, p.score) for i in range(len(row))]
    keys = row if p.score is Score.SOFTMAX else [s + b for s, b in zip(scores, bias, strict=True)]
    keys = [-math.inf if math.isnan(key) else key for key in keys]
    ids: list[int] = []
    for _ in range(p.top_k):
        best = None
        for i, key in enumerate(keys):
            if i not in ids and (best is None or key > keys[best]):
                best = i
        assert best is not None
        ids.append(best)
    weights = [scores[i] for i in ids]
    if p.renorm:
        total = math.fsum(weights) if all(map(math.isfinite, weights)) else sum(weights)
        weights = [0.0 if total == 0 else math.nan if math.isinf(w) else w / total for w in weights]
    return [w * p.routed_scale for w in weights], ids


# Few distinct values, so that ties are common, and every special one. The others lie on a grid: scores of
# logits closer than float64's rounding may rank differently in torch's math library and in Python's.
LOGIT = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 80.0, -80.0, -1000.0, math.inf, -math.inf, math.nan]),
    st.integers(-3000, 3000).map(lambda n: n / 100),
)


@settings(deadline=None, max_examples=300)
@given(
    rows=st.lists(st.lists(LOGIT, min_size=E, max_size=E), min_size=1, max_size=3),
    bias=st.lists(st.sampled_from([0.0, 0.25, -0.25, 3.0]), min_size=E, max_size=E),
    kind=st.sampled_from(list(Score)),
    renorm=st.booleans(),
)
def test_route_matches_brute_force(
    rows: list[list[float]], bias: list[float], kind: Score, renorm: bool
) -> None:
    p = problem(kind, renorm=renorm)
    logits = torch.tensor(rows, dtype=torch.float64)
    weights, ids = route(logits, p, torch.tensor(bias) if p.bias else None)
    assert (weights.dtype, ids.dtype) == (torch.float32, torch.int32)
    for row, got_weights, got_ids in zip(logits.tolist(), weights.double(), ids.tolist(), strict=True):
        expected_weights, expected_ids = brute_force(row, bias, p)
        assert got_ids == expected_ids
        torch.testing.assert_close(
            got_weights,
            torch.tensor(expected_weights, dtype=torch.float64),
            rtol=1e-6,
            atol=2.0**-126,
            equal_nan=True,
        )


def test_ties_go_to_the_lowest_id() -> None:
    keys = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0, 2.0]], dtype=torch.float64)
    assert select(keys, 5).tolist() == [[1, 2, 4, 3, 5]]
    equal = torch.zeros(2, 512, dtype=torch.float64)
    assert select(equal, 8).tolist() == [list(range(8))] * 2


def test_nan_and_minus_infinity_rank_lowest_together() -> None:
    bias = torch.zeros(E)
    bias[1] = -math.inf
    logits = torch.full((1, E), -5.0)
    logits[0, 0] = logits[0, 2] = math.nan
    logits[0, 3:7] = math.nan
    weights, ids = route(logits, problem(Score.SIGMOID, top_k=4), bias)
    assert ids.tolist() == [[7, 8, 0, 1]]
    assert weights.isnan().all()
    weights, ids = route(logits, problem(Score.SIGMOID, top_k=4, renorm=False), bias)
    assert weights.isnan().tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("kind", list(Score))
def test_a_row_of_nan_yields_the_first_experts(kind: Score) -> None:
    weights, ids = route(torch.full((2, E), math.nan), problem(kind), None)
    assert ids.tolist() == [[0, 1, 2]] * 2
    assert weights.isnan().all()


@pytest.mark.parametrize("kind", list(Score))
def test_an_unselected_nan_spoils_nothing(kind: Score) -> None:
    logits = torch.linspace(-1, 1, E, dtype=torch.float64).repeat(2, 1)
    logits[1, 0] = math.nan
    weights, ids = route(logits, problem(kind), None)
    assert torch.equal(ids[0], ids[1])
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=0)


def test_softplus_at_extremes() -> None:
    """exp(-100) is what log1p(exp(-100)) rounds to; from 40 up softplus is x to float64's precision."""
    x = torch.tensor([-1000.0, -100.0, -16.64, 0.0, 88.8, 1000.0, math.inf, -math.inf], dtype=torch.float64)
    expected = [0.0, math.exp(-100), math.log1p(math.exp(-16.64)), math.log(2), 88.8, 1000.0, math.inf, 0.0]
    torch.testing.assert_close(softplus(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=0)
    assert softplus(torch.tensor([math.nan])).isnan().all()
    got = score(x[:6], Score.SQRT_SOFTPLUS)
    assert got[1].item() == pytest.approx(math.exp(-50), rel=1e-15)


def test_scores_that_all_underflow_give_zero_weights() -> None:
    weights, ids = route(torch.full((1, E), -4000.0), problem(Score.SQRT_SOFTPLUS), None)
    assert ids.tolist() == [[0, 1, 2]]
    assert weights.tolist() == [[0.0, 0.0, 0.0]]


def test_bias_selects_and_stays_out_of_the_weights() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, -1.0, -2.0, -3.0, -4.0, -5.0]])
    bias = torch.zeros(E)
    bias[8] = 10.0
    weights, ids = route(logits, problem(Score.SIGMOID, renorm=False, routed_scale=1.0), bias)
    assert ids.tolist() == [[8, 3, 2]]
    expected = torch.sigmoid(torch.tensor([[-5.0, 3.0, 2.0]]))
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_weights_sum_to_the_routed_scale(seed: int) -> None:
    logits = torch.randn(50, E, generator=torch.Generator().manual_seed(seed))
    for kind in Score:
        weights, _ = route(logits, problem(kind), None)
        torch.testing.assert_close(weights.sum(1), torch.full((50,), 2.5), rtol=1e-6, atol=0)


def test_logits_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 8\): want \[M, 9\]"):
        route(torch.zeros(2, 8), problem(Score.SIGMOID), None)


def test_bf16_reference_rounds_its_operands_first() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(4, 64, generator=generator), torch.randn(E, 64, generator=generator)
    p = problem(Score.SQRT_SOFTPLUS)
    bias = torch.randn(E, generator=generator)
    expected = route(a.bfloat16().double() @ b.bfloat16().double().T, p, bias)
    assert all(map(torch.equal, bf16_reference(a, b, bias, p), expected))
    assert not torch.equal(bf16_logits(a, b), a.double() @ b.double().T)


def test_nvfp4_gemm_reference_by_hand() -> None:
    """Both golden: amax 2688 makes the global scales 1; one block each; 2688 * 448 + 1344 * -224."""
    a, b = torch.zeros(1, 16), torch.zeros(1, 16)
    a[0, 0], a[0, 5] = 2688.0, 1400.0  # 1400 / 448 = 3.125 rounds to 3, which stands for 1344
    b[0, 0], b[0, 5], b[0, 9] = 448.0, -224.0, 2688.0
    logits = nvfp4_gemm_reference(quantize_activation_nvfp4(a), quantize_to_nvfp4(b))
    assert logits.tolist() == [[2688.0 * 448.0 - 1344.0 * 224.0]]
    halved = nvfp4_gemm_reference(quantize_activation_nvfp4(a / 8), quantize_to_nvfp4(b))
    assert halved.tolist() == [[(2688.0 * 448.0 - 1344.0 * 224.0) / 8]]

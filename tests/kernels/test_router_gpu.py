"""The router through its public wrapper, on a GPU, against the float64 reference with the check's bounds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.check_bounds import expect
from harness.check_cases import Operands
from harness.check_rule import compare
from kernels.linear import Nvfp4Linear
from kernels.nvfp4 import dequantize_exact_bf16, gemm_alpha, global_alpha, quantize_activation_nvfp4
from kernels.problem import PRESETS, RouterProblem, Score
from kernels.router import run_nvfp4_fused_router
from kernels.sm90.config import Sm90Config
from tests.kernels.hopper_configs import CONFIGS, SMALL

pytestmark = [pytest.mark.gpu, pytest.mark.compiles]

DEVICE = "cuda"


def problem_for(preset: str) -> RouterProblem:
    return SMALL if preset == SMALL.name else PRESETS[preset]


def judge(
    weights: torch.Tensor,
    ids: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    bias: Any,
    alpha: Any,
    problem: Any,
) -> None:
    bias = torch.zeros(problem.experts, device=DEVICE) if bias is None else bias
    expected = expect(Operands("wrapper", a, b, bias, alpha), problem)
    verdict = compare(ids, weights, expected, problem)
    assert not verdict.detail, verdict.detail


def draw(problem: RouterProblem, m: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Activations, weight (logits of about unit variance) and bias."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    a = torch.randn(m, problem.hidden, generator=generator, device=DEVICE).bfloat16()
    b = torch.randn(problem.experts, problem.hidden, generator=generator, device=DEVICE)
    b = (b * problem.hidden**-0.5).bfloat16()
    bias = 0.1 * torch.randn(problem.experts, generator=generator, device=DEVICE)
    return a, b, bias if problem.bias else None


def layer_of(b: torch.Tensor) -> Nvfp4Linear:
    """A finalized layer of the weight [E, K]; nothing of it has been dequantized yet."""
    layer = Nvfp4Linear(b.shape[1], b.shape[0], device=DEVICE)
    with torch.no_grad():
        layer.weight.copy_(b)
    return layer.finalize_weights()


@pytest.mark.parametrize("m", [1, 7, 64, 65, 129, 300])
@pytest.mark.parametrize("path", ["fused", "two_kernel"])
@pytest.mark.parametrize("preset", ["small", *PRESETS])
def test_bf16_operands_route_as_the_reference_does(preset: str, path: str, m: int) -> None:
    problem = problem_for(preset)
    a, b, bias = draw(problem, m, seed=m)
    weights, ids = run_nvfp4_fused_router(a, b, problem, bias=bias, path=path)
    judge(weights, ids, a, b, bias, torch.ones(1, device=DEVICE), problem)


@pytest.mark.parametrize("m", [1, 16, 65, 200])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_config_routes_as_the_reference_does(name: str, m: int) -> None:
    a, b, bias = draw(SMALL, m, seed=100 + m)
    weights, ids = run_nvfp4_fused_router(a, b, SMALL, bias=bias, config=CONFIGS[name])
    judge(weights, ids, a, b, bias, torch.ones(1, device=DEVICE), SMALL)


def test_split_k_routes_as_the_reference_does() -> None:
    problem = PRESETS["deepseek-v4-pro"]
    a, b, bias = draw(problem, 130, seed=5)
    for config in (
        Sm90Config(tile_m=64, tile_n=48, expert_split=8, split_k=2, warpgroups=1),
        Sm90Config(tile_m=16, tile_n=32, expert_split=2, split_k=4, grid_split=6, warpgroups=1, stages=6),
        Sm90Config(tile_m=8, tile_n=16, split_k=8, expert_split=2, grid_split=12, warpgroups=1, stages=6),
    ):
        weights, ids = run_nvfp4_fused_router(a, b, problem, bias=bias, config=config)
        judge(weights, ids, a, b, bias, torch.ones(1, device=DEVICE), problem)


@pytest.mark.parametrize("quantized_by", ["wrapper", "caller", "nobody"])
@pytest.mark.parametrize("path", ["fused", "two_kernel"])
def test_nvfp4_operands_are_dequantized_exactly(path: str, quantized_by: str) -> None:
    problem = PRESETS["deepseek-v4-flash"]
    a, b, bias = draw(problem, 160, seed=9)
    layer = layer_of(b)
    quantized = quantize_activation_nvfp4(a)
    weights, ids = run_nvfp4_fused_router(
        quantized if quantized_by == "caller" else a,
        layer,
        problem,
        bias=bias,
        path=path,
        quantize_activations=quantized_by == "wrapper",
    )
    weight = layer.quantized()
    if quantized_by == "nobody":
        operand, alpha = a, global_alpha(weight.global_scale)
    else:
        operand, alpha = dequantize_exact_bf16(quantized), gemm_alpha(quantized, weight)
    judge(weights, ids, operand, dequantize_exact_bf16(weight), bias, alpha, problem)


@pytest.mark.parametrize("score", list(Score))
@pytest.mark.parametrize("k", [1, 6, 8])
def test_every_score_and_k(score: Score, k: int) -> None:
    problem = RouterProblem(
        "any", hidden=512, experts=160, top_k=k, score=score, bias=score is not Score.SOFTMAX
    )
    a, b, bias = draw(problem, 70, seed=k)
    weights, ids = run_nvfp4_fused_router(a, b, problem, bias=bias)
    judge(weights, ids, a, b, bias, torch.ones(1, device=DEVICE), problem)


def test_softmax_without_renormalization_takes_the_two_kernel_path() -> None:
    problem = RouterProblem(
        "plain", hidden=512, experts=160, top_k=6, score=Score.SOFTMAX, bias=False, renorm=False
    )
    a, b, _ = draw(problem, 70, seed=2)
    weights, ids = run_nvfp4_fused_router(a, b, problem, path="two_kernel")
    judge(weights, ids, a, b, None, torch.ones(1, device=DEVICE), problem)
    with pytest.raises(ValueError, match="only the two-kernel path"):
        run_nvfp4_fused_router(a, b, problem)


def test_equal_scores_go_to_the_lowest_ids() -> None:
    problem = PRESETS["deepseek-v4-pro"]
    a, b, _ = draw(problem, 40, seed=3)
    bias = torch.zeros(problem.experts, device=DEVICE)
    for config in (
        None,
        Sm90Config(tile_m=16, tile_n=16, expert_split=2, grid_split=12, warpgroups=1, stages=8),
    ):
        _, ids = run_nvfp4_fused_router(a, b[:1].expand_as(b).contiguous(), problem, bias=bias, config=config)
        assert torch.equal(ids, torch.arange(problem.top_k, device=DEVICE, dtype=torch.int32).expand_as(ids))


def test_a_row_of_nan_gets_valid_ids_and_nan_weights_and_leaves_its_neighbours_alone() -> None:
    problem = PRESETS["deepseek-v4-pro"]
    a, b, bias = draw(problem, 20, seed=4)
    clean_weights, clean_ids = run_nvfp4_fused_router(a, b, problem, bias=bias)
    a[7] = float("nan")
    weights, ids = run_nvfp4_fused_router(a, b, problem, bias=bias)
    assert ids[7].tolist() == list(range(problem.top_k))
    assert bool(weights[7].isnan().all())
    others = torch.arange(20, device=DEVICE) != 7
    assert torch.equal(ids[others], clean_ids[others])
    assert torch.equal(weights[others], clean_weights[others])


# Its clusters meet in global memory: arrivals are counted in the workspace.
GRID_SPLIT = Sm90Config(tile_m=16, tile_n=32, expert_split=2, split_k=4, grid_split=6, warpgroups=1, stages=6)


def outputs(m: int, problem: RouterProblem) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (m, problem.top_k)
    return torch.empty(shape, device=DEVICE), torch.empty(shape, device=DEVICE, dtype=torch.int32)


@pytest.mark.parametrize("operands", ["bf16", "nvfp4", "nvfp4, quantized before", "nvfp4, never quantized"])
def test_the_wrapper_is_captured_by_a_cuda_graph(operands: str) -> None:
    problem = PRESETS["deepseek-v4-pro"]
    a, b, bias = draw(problem, 33, seed=6)
    activations = quantize_activation_nvfp4(a) if operands == "nvfp4, quantized before" else a
    weight = b if operands == "bf16" else layer_of(b)
    quantize = operands != "nvfp4, never quantized"

    def route(out: tuple[torch.Tensor, torch.Tensor] | None) -> tuple[torch.Tensor, torch.Tensor]:
        return run_nvfp4_fused_router(
            activations,
            weight,
            problem,
            bias=bias,
            config=GRID_SPLIT,
            quantize_activations=quantize,
            out=out,
        )

    weights, ids = route(None)
    out = outputs(33, problem)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        route(out)
    for _ in range(3):
        out[1].fill_(-1)
        graph.replay()
        assert torch.equal(out[1], ids)
        assert torch.equal(out[0], weights)


def test_a_layer_that_a_capture_uses_first_is_right_in_the_graph_and_outside() -> None:
    problem = PRESETS["deepseek-v4-pro"]
    a, b, bias = draw(problem, 33, seed=6)
    weights, ids = run_nvfp4_fused_router(a, layer_of(b), problem, bias=bias)
    layer, out = layer_of(b), outputs(33, problem)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run_nvfp4_fused_router(a, layer, problem, bias=bias, out=out)
    outside = run_nvfp4_fused_router(a, layer, problem, bias=bias)
    graph.replay()
    for found in (outside, out):
        assert torch.equal(found[1], ids)
        assert torch.equal(found[0], weights)


def test_graphs_of_one_stream_are_replayed_beside_each_other() -> None:
    problem = PRESETS["deepseek-v4-pro"]
    drawn = [draw(problem, 33, seed=seed) for seed in (11, 12)]
    expected = [run_nvfp4_fused_router(a, b, problem, bias=bias, config=GRID_SPLIT) for a, b, bias in drawn]
    outs = [outputs(33, problem) for _ in drawn]
    streams = [torch.cuda.Stream() for _ in drawn]
    graphs = [torch.cuda.CUDAGraph() for _ in drawn]
    torch.cuda.synchronize()
    with torch.cuda.stream(streams[0]):
        run_nvfp4_fused_router(*drawn[0][:2], problem, bias=drawn[0][2], config=GRID_SPLIT)
    for graph, (a, b, bias), out in zip(graphs, drawn, outs, strict=True):
        with torch.cuda.graph(graph, stream=streams[0]):
            for _ in range(50):
                run_nvfp4_fused_router(a, b, problem, bias=bias, config=GRID_SPLIT, out=out)
    for _ in range(20):
        for graph, stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
    torch.cuda.synchronize()
    for (weights, ids), out in zip(expected, outs, strict=True):
        assert torch.equal(out[1], ids)
        assert torch.equal(out[0], weights)


def test_a_stream_may_use_what_another_one_has_only_begun_to_fill() -> None:
    problem = PRESETS["deepseek-v4-pro"]
    a, b, bias = draw(problem, 33, seed=6)
    weights, ids = run_nvfp4_fused_router(a, layer_of(b), problem, bias=bias)
    layer, late, early = layer_of(b), torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(late):
        torch.cuda._sleep(200_000_000)  # cycles: a tenth of a second
        run_nvfp4_fused_router(a, layer, problem, bias=bias)
    with torch.cuda.stream(early):
        found = run_nvfp4_fused_router(a, layer, problem, bias=bias)
    torch.cuda.synchronize()
    assert torch.equal(found[1], ids)
    assert torch.equal(found[0], weights)


def test_threads_may_be_the_first_to_use_a_config() -> None:
    problem = replace(SMALL, name="threads")  # nothing has been compiled for it
    a, b, bias = draw(problem, 65, seed=13)
    configs = [CONFIGS[name] for name in list(CONFIGS)[:2]] * 2
    torch.cuda.synchronize()

    def first_use(config: Sm90Config | None) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.cuda.stream(torch.cuda.Stream()):
            return run_nvfp4_fused_router(a, b, problem, bias=bias, config=config)

    with ThreadPoolExecutor(len(configs)) as threads:
        found = list(threads.map(first_use, configs))
    torch.cuda.synchronize()
    for weights, ids in found:
        judge(weights, ids, a, b, bias, torch.ones(1, device=DEVICE), problem)


@pytest.mark.parametrize("operands", ["bf16", "nvfp4", "nvfp4, quantized before"])
def test_no_tokens_give_empty_outputs(operands: str) -> None:
    problem = PRESETS["deepseek-v4-pro"]
    a, b, bias = draw(problem, 3, seed=7)
    none = quantize_activation_nvfp4(a).first_rows(0) if operands == "nvfp4, quantized before" else a[:0]
    weight = b if operands == "bf16" else layer_of(b)
    weights, ids = run_nvfp4_fused_router(none, weight, problem, bias=bias)
    assert weights.shape == ids.shape == (0, problem.top_k)


@pytest.mark.parametrize("path", ["fused", "two_kernel"])
def test_a_calibrated_scale_quantizes_as_the_caller_would(path: str) -> None:
    problem = PRESETS["deepseek-v4-flash"]
    a, b, bias = draw(problem, 130, seed=12)
    layer, scale = layer_of(b), torch.full((), 300.0, device=DEVICE)
    by_wrapper = run_nvfp4_fused_router(a, layer, problem, bias=bias, path=path, activation_scale=scale)
    quantized = quantize_activation_nvfp4(a, scale)
    by_caller = run_nvfp4_fused_router(quantized, layer, problem, bias=bias, path=path)
    assert all(torch.equal(one, other) for one, other in zip(by_wrapper, by_caller, strict=True))

"""The wrapper's refusals, one line each, with the value, and what it keeps: launchers and workspaces.

What it computes is in `test_router_gpu`.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kernels.linear import Nvfp4Linear
from kernels.nvfp4 import quantize_activation_nvfp4
from kernels.problem import RouterProblem, Score
from kernels.router import _compiled, _workspace, run_nvfp4_fused_router
from kernels.sm90.config import Sm90Config, TwoKernelConfig
from kernels.sm90.families import FusedSm90
from tests.kernels.fake_cuda import FIRST, SECOND, FakeCuda

PROBLEM = RouterProblem("small", hidden=64, experts=32, top_k=4)
UNBIASED = RouterProblem("plain", hidden=64, experts=32, top_k=4, score=Score.SOFTMAX, bias=False)


def bf16(*shape: int, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16, device=device)


def misaligned(rows: int, columns: int) -> torch.Tensor:
    """Like `bf16(rows, columns)`, but it begins 2 bytes behind an aligned address."""
    return bf16(rows * columns + 1)[1:].view(rows, columns)


def outputs(m: int, **changes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    made = {"weights": torch.empty(m, 4), "ids": torch.empty(m, 4, dtype=torch.int32)} | changes
    return made["weights"], made["ids"]


def refusal(**changes: Any) -> str:
    """What the wrapper says to a call that is right but for `changes` (and the lack of a GPU)."""
    call: dict[str, Any] = {
        "activations": bf16(5, 64),
        "weight": bf16(32, 64),
        "problem": PROBLEM,
        "bias": torch.zeros(32),
    } | changes
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the callers compare the message)
        run_nvfp4_fused_router(**call)
    return str(caught.value)


def test_operands_without_a_gpu_are_told_where_to_go() -> None:
    assert refusal() == "the weight is on cpu: move it and the activations to a CUDA device"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"problem": "deepseek-v3"},
            "unknown preset 'deepseek-v3': known are deepseek-v4-pro, deepseek-v4-flash, "
            "deepseek-v4.1-flash, kimi-k2, qwen3-moe",
        ),
        ({"path": "unfused"}, "path = 'unfused': must be 'fused' or 'two_kernel'"),
        ({"weight": torch.zeros(32, 64)}, "weight of torch.float32: must be torch.bfloat16"),
        ({"weight": bf16(32, 80)}, "weight of shape (32, 80): must be (32, 64)"),
        (
            {"weight": bf16(64, 32).T},
            "weight with strides (1, 32): must be contiguous, call .contiguous()",
        ),
        ({"weight": misaligned(32, 64)}, "weight begins off a 16-byte boundary: clone it"),
        ({"activations": bf16(5, 64).half()}, "activations of torch.float16: must be torch.bfloat16"),
        ({"activations": bf16(64)}, "activations of shape (64,): must be [M, 64]"),
        ({"activations": bf16(2, 5, 64)}, "activations of shape (2, 5, 64): must be [M, 64]"),
        ({"activations": bf16(5, 48)}, "activations of shape (5, 48): must be (5, 64)"),
        (
            {"activations": bf16(5, 128)[:, ::2]},
            "activations with strides (128, 2): must be contiguous, call .contiguous()",
        ),
        ({"activations": misaligned(5, 64)}, "activations begins off a 16-byte boundary: clone it"),
        (
            {"activations": bf16(5, 64, device="meta")},
            "activations on meta, the weight on cpu: move one of them",
        ),
        (
            {"activations": quantize_activation_nvfp4(bf16(5, 48))},
            "quantized activations of shape (5, 48): must be (5, 64)",
        ),
        ({"bias": None}, "small selects with a bias: pass bias, [32] fp32"),
        ({"problem": UNBIASED}, "plain has no selection bias: leave bias out"),
        ({"bias": torch.zeros(31)}, "bias of shape (31,): must be (32,)"),
        ({"bias": bf16(32)}, "bias of torch.bfloat16: must be torch.float32"),
        ({"bias": torch.zeros(64)[::2]}, "bias with strides (2,): must be contiguous, call .contiguous()"),
        ({"bias": torch.zeros(32, device="meta")}, "bias on meta, the weight on cpu: move one of them"),
        ({"out": outputs(6)}, "out weights of shape (6, 4): must be (5, 4)"),
        ({"out": outputs(5, weights=bf16(5, 4))}, "out weights of torch.bfloat16: must be torch.float32"),
        ({"out": outputs(5, ids=torch.empty(5, 4).long())}, "out ids of torch.int64: must be torch.int32"),
        (
            {"out": outputs(5, ids=torch.empty(5, 8, dtype=torch.int32)[:, :4])},
            "out ids with strides (8, 1): must be contiguous, call .contiguous()",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_operand_is_named_with_its_value(changes: dict[str, Any], message: str) -> None:
    assert refusal(**changes) == message


def test_a_layer_of_another_shape_is_refused() -> None:
    layer = Nvfp4Linear(64, 16).finalize_weights()
    assert refusal(weight=layer) == "the layer's weight of shape (16, 64): must be (32, 64)"


def test_a_gpu_without_kernels_is_refused_before_anything_is_compiled_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    message = refusal(weight=SimpleNamespace(device=FIRST))
    assert message == "NVIDIA A100 has compute capability 8.0: there are kernels for 9.0, 10.0, 10.3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "activation_scale: this call quantizes nothing, leave it out"),
        (
            {"weight": Nvfp4Linear(64, 32).finalize_weights(), "quantize_activations": False},
            "activation_scale: this call quantizes nothing, leave it out",
        ),
        (
            {
                "weight": Nvfp4Linear(64, 32).finalize_weights(),
                "activations": quantize_activation_nvfp4(bf16(5, 64)),
            },
            "activation_scale: this call quantizes nothing, leave it out",
        ),
        (
            {"weight": Nvfp4Linear(64, 32).finalize_weights(), "activation_scale": torch.ones(2)},
            "activation_scale of torch.float32 (2,): must be one float32",
        ),
        (
            {"weight": Nvfp4Linear(64, 32).finalize_weights(), "activation_scale": torch.ones(1).double()},
            "activation_scale of torch.float64 (1,): must be one float32",
        ),
        (
            {
                "weight": Nvfp4Linear(64, 32).finalize_weights(),
                "activation_scale": torch.ones(1, device="meta"),
            },
            "activation_scale on meta, the weight on cpu: move one of them",
        ),
    ],
)
def test_a_scale_for_activations_is_refused_where_it_is_of_no_use(
    changes: dict[str, Any], message: str
) -> None:
    assert refusal(**({"activation_scale": torch.ones(1)} | changes)) == message


def test_a_layer_that_was_never_quantized_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"the weight was not quantized: call finalize_weights\(\) first"):
        run_nvfp4_fused_router(bf16(5, 64), Nvfp4Linear(64, 32), PROBLEM, bias=torch.zeros(32))


@pytest.mark.parametrize(
    ("path", "config", "message"),
    [
        ("fused", {"tile_m": 64}, "config is a dict: fused_sm90 takes a Sm90Config"),
        ("fused", TwoKernelConfig(), "config is a TwoKernelConfig: fused_sm90 takes a Sm90Config"),
        ("two_kernel", Sm90Config(), "config is a Sm90Config: two_kernel_sm90 takes a TwoKernelConfig"),
        (
            "fused",
            Sm90Config(tile_m=100),
            "illegal config for small on sm_90a: tile_m = 100 is not one of 8, 16, 64, 128, 256",
        ),
        (
            "two_kernel",
            TwoKernelConfig(tile_m=64, tile_n=32, stages=3, warpgroups=1, gate_warps=3),
            "illegal config for small on sm_90a: gate_warps = 3 is not one of 1, 2, 4, 8",
        ),
        (
            "fused",
            Sm90Config(tile_n=32, stages=3, expert_split=2),
            "illegal config for small on sm_90a: tile_n = 32 for each of 2 CTAs leaves a whole tile without "
            "an expert",
        ),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_before_it_is_compiled(
    path: str, config: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.router._target", lambda device: "sm_90a")
    assert refusal(path=path, config=config) == message


def test_threads_compile_one_after_the_other_and_each_config_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = RouterProblem("threads", hidden=64, experts=32, top_k=4)
    configs = [Sm90Config(tile_m=tile_m, tile_n=32, stages=3, warpgroups=1) for tile_m in (8, 16)]
    compiling = threading.Lock()
    compiled, overlaps = [], []

    def compile_slowly(self: FusedSm90, problem: RouterProblem, config: Sm90Config, target: str) -> object:
        alone = compiling.acquire(blocking=False)
        compiled.append(config)
        overlaps.append(not alone)
        time.sleep(0.05)
        if alone:
            compiling.release()
        return object()

    monkeypatch.setattr(FusedSm90, "compile", compile_slowly)
    started = threading.Barrier(6)

    def first_use(config: Sm90Config) -> Any:
        started.wait()
        return _compiled("fused_sm90", problem, config, "sm_90a")

    with ThreadPoolExecutor(6) as threads:
        launchers = list(threads.map(first_use, configs * 3))
    assert overlaps == [False, False]
    assert sorted(config.tile_m for config in compiled) == [8, 16]
    assert len({id(launcher) for launcher in launchers}) == 2
    assert [_compiled("fused_sm90", problem, config, "sm_90a") for config in configs] == launchers[:2]


def test_a_stream_keeps_its_workspace_until_it_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    first = _workspace("any", 100, SECOND)
    assert torch.equal(first, torch.zeros(100))
    assert _workspace("any", 60, SECOND) is first
    assert _workspace("other", 60, SECOND) is not first
    assert _workspace("any", 60, FIRST) is not first
    cuda.streams[SECOND] += 1
    assert _workspace("any", 60, SECOND) is not first
    cuda.streams[SECOND] -= 1
    assert _workspace("any", 101, SECOND).numel() == 200


def test_every_captured_launch_has_a_workspace_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    kept = _workspace("captured", 100, SECOND)
    kept.fill_(1.0)
    cuda.capturing = {SECOND}
    captured = [_workspace("captured", 50, SECOND) for _ in range(2)]
    assert len({workspace.data_ptr() for workspace in (kept, *captured)}) == 3
    assert all(torch.equal(workspace, torch.zeros(50)) for workspace in captured)
    cuda.capturing = {FIRST}
    assert _workspace("captured", 50, SECOND) is kept, "another device is capturing"

"""The recorded launches are what the Hopper kernels' own definitions say, for real artifacts at several M."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.artifact import Artifact
from harness.cache import CACHE_VARIABLE
from harness.compile_pool import CompilePool
from harness.executor import ExecutorError
from harness.executors import make_executor
from harness.simulator.c_library import build
from harness.simulator.errors import SimulationError
from harness.simulator.launch import Launch, check_limits
from harness.simulator.ptx import parse
from harness.simulator.recorder import Recorder
from harness.simulator.tensor_map import DataType, Swizzle, TensorMap, decode
from harness.toolchain import ToolchainError
from kernels.problem import RouterProblem
from kernels.sm90.config import Sm90Config, TwoKernelConfig
from kernels.sm90.families import FusedSm90, TwoKernelSm90

TARGET = "sm_90a"
PROBLEM = RouterProblem("recorded", hidden=512, experts=128, top_k=6)
CONFIG = Sm90Config(tile_m=64, tile_n=32, tile_k=64, stages=3, cluster_m=2, expert_split=2, warpgroups=1)
TOKENS = (1, 64, 65, 300)


@pytest.fixture(scope="module")
def compiled(compile_pool: CompilePool) -> dict[str, Artifact]:
    """The fused kernel and the two-kernel path."""
    two = TwoKernelConfig(tile_m=64, tile_n=128, tile_k=64, stages=3, warpgroups=1, gate_warps=4)
    wanted = ((FusedSm90(), CONFIG), (TwoKernelSm90(), two))
    found: dict[str, Artifact] = {}
    for family, config in wanted:
        assert family.illegal_reason(PROBLEM, config, TARGET) is None
        result = compile_pool.submit(family, PROBLEM, config, TARGET).result()
        assert result.artifact is not None, result
        found[family.name] = result.artifact
    return found


def arguments(m: int) -> list[torch.Tensor]:
    return [
        torch.zeros(m, PROBLEM.hidden, dtype=torch.bfloat16),
        torch.zeros(PROBLEM.experts, PROBLEM.hidden, dtype=torch.bfloat16),
        torch.zeros(PROBLEM.experts),
        torch.ones(1),
        torch.zeros(max(m, 1) * PROBLEM.experts),
        torch.zeros(m, PROBLEM.top_k),
        torch.zeros(m, PROBLEM.top_k, dtype=torch.int32),
    ]


def tensor_maps(launch: Launch) -> list[TensorMap]:
    return [decode(raw) for raw in launch.params if len(raw) == 128]


def pointers(launch: Launch) -> set[int]:
    return {int.from_bytes(raw[:8], "little") for raw in launch.params if len(raw) in (8, 16)}


@pytest.mark.compiles
@pytest.mark.parametrize("m", TOKENS)
def test_the_fused_kernel_is_launched_as_its_config_says(compiled: dict[str, Artifact], m: int) -> None:
    artifact, args = compiled["fused_sm90"], arguments(m)
    (launch,) = Recorder.of_artifact(artifact.folder).record(args)
    tiles = -(-m // CONFIG.tile_m)
    assert launch.grid == (-(-tiles // 2) * 2, CONFIG.expert_split * CONFIG.grid_split, CONFIG.split_k)
    assert launch.block == (128 * (1 + CONFIG.warpgroups), 1, 1)
    assert launch.cluster == (CONFIG.cluster_m, CONFIG.expert_split, CONFIG.split_k)
    assert launch.dynamic_smem_bytes == artifact.manifest.resources[0].dynamic_smem_bytes
    assert not launch.cooperative
    assert not launch.programmatic
    assert {argument.data_ptr() for argument in args[2:]} <= pointers(launch)
    row_bytes = 2 * PROBLEM.hidden
    # Multicast gives each CTA of the cluster its part of B's tile.
    boxes = (CONFIG.tile_m, CONFIG.tile_n // CONFIG.cluster_m)
    for found, operand, rows in zip(tensor_maps(launch), args[:2], boxes, strict=True):
        assert found == TensorMap(
            operand.data_ptr(),
            DataType.BFLOAT16,
            extents=(PROBLEM.hidden, len(operand)),
            strides=(row_bytes,),
            box=(64, rows),
            element_strides=(1, 1),
            swizzle=Swizzle.BYTES_128,
            spans_128_kib=len(operand) * row_bytes >= 128 * 1024,
        )


@pytest.mark.compiles
def test_two_kernels_are_two_launches_in_order(compiled: dict[str, Artifact]) -> None:
    args = arguments(130)
    gemm, gate = Recorder.of_artifact(compiled["two_kernel_sm90"].folder).record(args)
    assert (len(tensor_maps(gemm)), len(tensor_maps(gate))) == (2, 0)
    workspace = args[4].data_ptr()
    assert workspace in pointers(gemm) & pointers(gate), "the logits pass through it"
    assert gemm.grid == (3, 1, 1)
    assert gate.block == (128, 1, 1)
    assert gate.grid == (-(-130 // 4), 1, 1), "a warp for each token"
    assert gate.dynamic_smem_bytes == 0


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("index", "spoil", "message"),
    [
        (0, lambda t: t.to(torch.float16), "argument #0.*dtype=bfloat16"),
        (1, lambda t: t[:, :-8].contiguous(), r"b\.shape\[1\] on argument #1.*expected to be 512"),
        (2, lambda t: t[::2], "argument #2"),
        (5, lambda t: t.T, "argument #5"),
    ],
)
def test_arguments_are_refused_as_on_a_gpu(
    compiled: dict[str, Artifact], index: int, spoil: Any, message: str
) -> None:
    recorder, args = Recorder.of_artifact(compiled["fused_sm90"].folder), arguments(8)
    args[index] = spoil(args[index])
    with pytest.raises((TypeError, ValueError), match=f"(?i){message}"):
        recorder.record(args)
    assert len(recorder.record(arguments(8))) == 1, "a refusal leaves the recorder usable"


@pytest.mark.compiles
def test_a_process_records_many_artifacts_in_any_order(compiled: dict[str, Artifact]) -> None:
    recorders = [Recorder.of_artifact(artifact.folder) for artifact in compiled.values()]
    counts = [len(recorder.record(arguments(16))) for recorder in (*recorders, *reversed(recorders))]
    assert counts == [1, 2, 2, 1]


def test_the_recorder_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    built = build("recorder")
    written = built.stat().st_mtime_ns
    assert build("recorder") == built
    assert built.stat().st_mtime_ns == written
    assert list(built.parent.iterdir()) == [built], "nothing else is left behind"


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_recorder_that_lost_its_end_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    built = build("recorder")
    whole = built.read_bytes()
    built.write_bytes(whole[: int(left * len(whole))])
    assert build("recorder") == built
    ctypes.CDLL(str(built))
    assert len(built.read_bytes()) == len(whole)
    assert list(built.parent.iterdir()) == [built]


def test_a_place_that_the_recorder_cannot_have_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the simulator's start, and is no candidate's fault."""
    (tmp_path / "simulator").write_text("a file")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(
        ExecutorError, match=f"^simulator: ToolchainError: .* name another .* {CACHE_VARIABLE}"
    ):
        make_executor("simulator", "sm_90a")


def test_a_linker_that_is_no_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CC", "ld")
    with pytest.raises(ToolchainError, match=r"ld cannot compile recorder\.c"):
        build("recorder")


def test_parameter_sizes_follow_the_declarations() -> None:
    ptx = """
    .version 8.7
    .target sm_90a
    .address_size 64
    .visible .entry first(
        .param .align 64 .b8 first_param_0[128],
        .param .u32 first_param_1,
        .param .u64 .ptr .global .align 16 first_param_2
    )
    .maxntid 128 { ret; }
    .entry second() { ret; }
    """
    sizes = {name: [(p.size, p.offset) for p in kernel.params] for name, kernel in parse(ptx).kernels.items()}
    assert sizes == {"first": [(128, 0), (4, 128), (8, 136)], "second": []}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": (3, 1, 1)}, "not a multiple of the cluster"),
        ({"block": (1024, 2, 1)}, "2048 threads"),
        ({"grid": (2, 0, 1)}, "each extent"),
        ({"dynamic_smem_bytes": 232449}, "232449 bytes"),
        ({"cluster": (2, 16, 1), "grid": (2, 16, 1)}, "32 CTAs"),
    ],
)
def test_a_launch_past_a_limit_is_refused(changes: dict[str, Any], message: str) -> None:
    legal = {"kernel": "k", "grid": (2, 1, 1), "block": (384, 1, 1), "cluster": (2, 1, 1)}
    legal |= {"dynamic_smem_bytes": 232448, "params": ()}
    check_limits(Launch(**legal))
    with pytest.raises(SimulationError, match=message):
        check_limits(Launch(**legal | changes))

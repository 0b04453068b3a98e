"""Compiled Blackwell routers give the reference's ids and weights, executed instruction by instruction.

One config for each thing that a config can change, on a problem as small as shows all of it: two or more
expert tiles, several K tiles, a tail of tokens. The simulator is strict where hardware is silent: about reads
of what nobody wrote, transaction counts, missing fences, leaked tensor memory, CTAs that leave too early.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from harness.check_bounds import expect
from harness.check_cases import generate
from harness.check_rule import compare
from harness.compile_pool import CompilePool
from harness.compile_result import CompileResult
from harness.runner import Candidate
from harness.simulator.errors import SimulationError
from harness.simulator.model import Model
from harness.simulator.modelled import unread_arguments
from harness.simulator.run import Program
from kernels.families import family
from kernels.family import OperandFormat
from kernels.problem import RouterProblem, Score
from kernels.sm100.config import Sm100Config, TwoKernelConfig

pytestmark = pytest.mark.compiles

FUSED, TWO_KERNEL = family("fused_sm100"), family("two_kernel_sm100")
SMALL = RouterProblem("small", hidden=512, experts=384, top_k=6, routed_scale=2.5)
# Neither a whole K tile nor whole scale atoms, nor a whole expert tile.
ODD = RouterProblem("odd", hidden=544, experts=200, top_k=8, score=Score.SIGMOID, routed_scale=2.0)
SOFTMAX = RouterProblem("softmax", hidden=512, experts=130, top_k=3, score=Score.SOFTMAX, bias=False)
# So split that the chip holds the clusters of 384 tokens only: more make a CTA go round twice.
DEEP = RouterProblem("deep", hidden=2048, experts=384, top_k=6)
# One block of 128 experts' scales.
FEW = RouterProblem("few", hidden=1280, experts=128, top_k=8, score=Score.SOFTMAX, bias=False)
# Fewer experts than a subtile has columns, and an odd number.
NINE = RouterProblem("nine", hidden=544, experts=9, top_k=5, score=Score.SIGMOID)
PAIR: dict[str, Any] = {"mma_m": 256, "cta_group": 2, "cluster_m": 2}
OVERLAP: dict[str, Any] = {"mma_n": 256, "acc_stages": 1, "early_release": True}


def config(**changes: Any) -> Sm100Config:
    return Sm100Config(**{"mma_n": 64, "stages": 2, "epi_n": 16} | changes)


def two_kernel(**changes: Any) -> TwoKernelConfig:
    return TwoKernelConfig(**asdict(config(**changes)))


CASES: dict[str, tuple[RouterProblem, Sm100Config, int]] = {
    "plain": (SMALL, config(), 130),
    "n128_early_release": (SMALL, config(mma_n=128, acc_stages=1, early_release=True), 130),
    "n192_two_warpgroups": (SMALL, config(mma_n=192, epi_warpgroups=2, epi_n=32), 130),
    "overlap": (SMALL, config(**OVERLAP), 130),
    "overlap_two_warpgroups": (ODD, config(epi_warpgroups=2, **OVERLAP), 130),
    "pair": (SMALL, config(**PAIR | {"mma_n": 192, "cluster_m": 4}), 300),
    "pair_overlap": (SMALL, config(**PAIR, **OVERLAP), 300),
    "pair_split": (SMALL, config(**PAIR, mma_n=192, expert_split=2, multicast_a=True), 130),
    "cluster": (ODD, config(mma_n=128, cluster_m=2), 130),
    "expert_split": (SMALL, config(expert_split=3), 130),
    "split_k": (SMALL, config(expert_split=3, split_k=2), 130),
    "grid_split": (SMALL, config(grid_split=3, expert_split=2), 130),
    "two_rounds": (DEEP, config(grid_split=3, expert_split=2, split_k=8), 400),
    "swapped": (ODD, config(swap_operands=True), 70),
    "swapped_split": (SMALL, config(swap_operands=True, expert_split=3, split_k=2), 70),
    "swapped_two_rounds": (DEEP, config(swap_operands=True, grid_split=3, split_k=8), 400),
    "softmax": (SOFTMAX, config(mma_n=128), 70),
    "two_kernel": (replace(SOFTMAX, renorm=False), two_kernel(split_k=2), 70),
    "two_kernel_vectors": (SMALL, two_kernel(mma_n=192), 70),
    "nine_experts": (NINE, config(), 130),
    "two_kernel_nine_experts": (NINE, two_kernel(), 130),
    "default_for_many": (FEW, FUSED.default_config(FEW, 4096), 130),
    "two_kernel_default_for_many": (FEW, TWO_KERNEL.default_config(FEW, 1 << 15), 130),
}


@pytest.fixture(scope="module")
def compiles(compile_pool: CompilePool) -> dict[str, Future[CompileResult]]:
    return {
        name: compile_pool.submit(
            TWO_KERNEL if isinstance(config, TwoKernelConfig) else FUSED, problem, config, "sm_100a"
        )
        for name, (problem, config, _) in CASES.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_a_compiled_kernel_gives_the_references_ids_and_weights(
    name: str, compiles: dict[str, Future[CompileResult]]
) -> None:
    problem, config, m = CASES[name]
    kernels = TWO_KERNEL if isinstance(config, TwoKernelConfig) else FUSED
    result = compiles[name].result()
    assert result.artifact is not None, result.reason
    launch = Program.of_folder(result.artifact.folder)
    workspace = torch.zeros(kernels.workspace_elements(problem, config, m))
    # Ties besides plain data, or rows of NaN: the second launch finds what the first one left behind.
    special = "ties" if problem is SMALL else "non_finite"
    for operands in generate(
        problem,
        seed=4,
        device=torch.device("cpu"),
        tail_unit=m,
        only=("normal", special),
        operand_format=OperandFormat.NVFP4,
    ):
        rows = min(m, operands.m_values[-1])
        weights = torch.full((rows, problem.top_k), float("nan"))
        ids = torch.full((rows, problem.top_k), -1, dtype=torch.int32)
        launch(
            *operands.for_launch(rows, OperandFormat.NVFP4),
            operands.bias,
            operands.alpha,
            workspace,
            weights,
            ids,
        )
        verdict = compare(ids, weights, expect(operands, problem).rows(slice(rows)), problem)
        assert not verdict.detail, f"{operands.name}: {verdict.detail}"


def test_a_tile_of_more_scale_blocks_than_there_are_is_rightly_refused(compile_pool: CompilePool) -> None:
    """The compiler takes it, and gives a tensor map too few coordinates. Checks and models say so."""
    wide = config(mma_n=192, acc_stages=1)
    assert FUSED.illegal_reason(FEW, wide, "sm_100a") == (
        "mma_n = 192 takes two blocks of 128 scales: 128 experts have one"
    )
    assert FUSED.illegal_reason(FEW, replace(wide, mma_n=256), "sm_100a") is not None
    assert FUSED.illegal_reason(replace(FEW, experts=129), wide, "sm_100a") is None
    result = compile_pool.submit(FUSED, FEW, wide, "sm_100a").result()
    assert result.artifact is not None, result.reason
    program = Program.of_folder(result.artifact.folder)
    arguments = unread_arguments(Candidate.of_manifest(result.artifact.manifest, program), 130)
    for run in (program.together, lambda calls: Model(program).microseconds(*calls)):
        with pytest.raises(SimulationError, match="2 coordinates for a tensor map of rank 3"):
            run([arguments])

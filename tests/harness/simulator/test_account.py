"""The account of a modelled launch adds up, and writing it down changes no time."""

from __future__ import annotations

import pytest
import torch

from harness.artifact import Artifact
from harness.compile_pool import CompilePool
from harness.runner import Candidate
from harness.simulator.account import account
from harness.simulator.account_record import LOAD, PRODUCT
from harness.simulator.model import Model
from harness.simulator.modelled import unread_arguments
from harness.simulator.run import Program
from kernels.problem import RouterProblem
from kernels.sm90.config import Sm90Config
from kernels.sm90.families import FusedSm90

pytestmark = pytest.mark.compiles

PROBLEM = RouterProblem("accounted", hidden=512, experts=128, top_k=4)
CONFIG = Sm90Config(tile_m=64, tile_n=128, tile_k=64, stages=3, warpgroups=1)
BF16_BYTES = 2


@pytest.fixture(scope="module")
def artifact(compile_pool: CompilePool) -> Artifact:
    assert FusedSm90().illegal_reason(PROBLEM, CONFIG, "sm_90a") is None
    found = compile_pool.submit(FusedSm90(), PROBLEM, CONFIG, "sm_90a").result().artifact
    assert found is not None
    return found


def launched(artifact: Artifact, m: int) -> tuple[Program, tuple[torch.Tensor, ...]]:
    program = Program.of_folder(artifact.folder)
    candidate = Candidate.of_manifest(artifact.manifest, program)
    return program, unread_arguments(candidate, m)


@pytest.mark.parametrize("m", [1, 64, 300])
@pytest.mark.parametrize("warm", [False, True])
def test_it_adds_up(artifact: Artifact, m: int, warm: bool) -> None:
    program, args = launched(artifact, m)
    found = account(program, args, warm=warm)
    assert found.microseconds == Model(program).microseconds(args, warm)
    (wave,) = found.waves
    assert found.microseconds == pytest.approx((wave.cycles + found.launch_cycles) / found.clock_mhz)
    assert sum(role.warps_per_cta for role in wave.roles) == pytest.approx(wave.warps_per_cta)
    for role in wave.roles:
        shares = (role.busy, role.idle, *(share for _, share in role.waits))
        assert sum(shares) == pytest.approx(1.0)
        assert min(shares) >= -1e-9, role
        # A warp waits for less than half a cycle now and then, which is no wait of its own.
        assert sum(share for _, share in role.work) == pytest.approx(role.busy, abs=0.001), role
        assert [share for _, share in role.work] == sorted((share for _, share in role.work), reverse=True)
    assert all(0.0 <= share <= 1.0 for share in wave.shares.values()), wave.shares
    # Each CTA loads its tokens and the whole weight once; only what lies in the tensors is traffic.
    ctas = -(-m // CONFIG.tile_m)
    assert wave.simulated_ctas == ctas
    weight, tokens = (rows * PROBLEM.hidden * BF16_BYTES for rows in (PROBLEM.experts, m))
    assert wave.l2_bytes == ctas * weight + tokens
    assert wave.memory_bytes == pytest.approx(0 if warm else weight + tokens)


def test_the_timeline_is_of_one_sm_and_in_order(artifact: Artifact) -> None:
    program, args = launched(artifact, 300)
    (wave,) = account(program, args, warm=False).waves
    assert len({span.sm for span in wave.spans}) == 1
    assert {role for role, _ in wave.lanes} >= {"TMA", "math"}
    loads, products = ([span for span in wave.spans if span.kind == kind] for kind in (LOAD, PRODUCT))
    steps = PROBLEM.hidden // CONFIG.tile_k
    assert len(loads) == 2 * steps, "a tile of tokens and one of the weight for each step of K"
    assert min(load.end for load in loads) <= min(product.begin for product in products)
    assert all(0 <= span.begin < span.end <= wave.cycles for span in wave.spans)
    for _, runs in wave.lanes:
        ends = [time for run in runs for time in run]
        assert ends == sorted(ends)

"""Proving a space in the simulator: what is compiled is executed, what is known is kept."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from click.testing import CliRunner

from harness.artifact import Artifact
from harness.cache import ArtifactCache, artifact_key
from harness.check_cases import BASE_M, DISTRIBUTIONS, generate
from harness.compile import PTX
from harness.compile_pool import CompilePool
from harness.executor import CheckDepth
from harness.record import Outcome, RecordError
from harness.toolchain import ToolchainError, compiler_versions
from kernels.families import family
from kernels.family import KernelFamily, ParamValue
from kernels.problem import RouterProblem, preset
from sweeps import verify_space as verify_space_module
from sweeps.cli_verify import verify
from sweeps.covering import covering_order, pairs_met
from sweeps.space import Space
from sweeps.verify import (
    HARD,
    NOT_COMPARED,
    PLAIN_M,
    SCHEMA,
    SEED,
    Verified,
    read_verified,
    table,
    two_tiles,
    verify_config,
)
from sweeps.verify_check import check_config
from sweeps.verify_on_gpu import OnGpu, differences
from sweeps.verify_space import Plan, Task, verify_space
from sweeps.verify_two_kernel import Agreement
from tests.kernels.planted import NO_DEFECT, PlantedSm100

PROBLEM = RouterProblem("tiny", hidden=512, experts=128, top_k=6)
SMALL = replace(preset("deepseek-v4-pro"), hidden=512)
RESTRICTED = {"cluster_m": (1,), "expert_split": (1, 2), "split_k": (1,), "grid_split": (1,), "epi_n": (16,)}


def space() -> Space:
    return Space(family("fused_sm100"), PROBLEM, "sm_100a", RESTRICTED)


def test_an_order_covers_all_configs_and_every_pair_of_choices_early() -> None:
    whole = space()
    order = list(covering_order(whole, 3))
    assert sorted(map(str, order)) == sorted(str(whole.params(i)) for i in range(len(whole)))
    met, legal = pairs_met(whole, order[: len(whole) // 2])
    assert met == legal
    assert order == list(covering_order(whole, 3))


def test_what_is_known_is_left_out_and_its_pairs_count() -> None:
    whole = space()
    order = list(covering_order(whole, 3))
    first = order[:5]
    rest = list(covering_order(whole, 3, first))
    assert sorted(map(str, first + rest)) == sorted(map(str, order))
    needed = next(n for n in range(len(order)) if len(set(pairs_met(whole, order[:n]))) == 1)
    met, legal = pairs_met(whole, first + rest[:needed])
    assert met == legal
    assert not list(covering_order(whole, 3, order))


@pytest.mark.parametrize("parts", [1, 3])
def test_shards_share_no_config_and_leave_none_out(parts: int) -> None:
    whole = space()
    every = [params for i in range(parts) for params in covering_order(whole, 3, shard=(i, parts))]
    assert sorted(map(str, every)) == sorted(str(whole.params(i)) for i in range(len(whole)))


def test_pairs_of_choices_are_counted() -> None:
    whole = space()
    every = [whole.params(index) for index in range(len(whole))]
    met, legal = pairs_met(whole, every)
    assert met == legal
    first = every[0]
    assert pairs_met(whole, [first]) == (len(first) * (len(first) - 1) // 2, legal)
    assert pairs_met(whole, []) == (0, legal)
    # What legal configs do not have is not counted, whoever claims it.
    assert pairs_met(whole, [first | {"stages": 99}])[0] == (len(first) - 1) * (len(first) - 2) // 2


@pytest.mark.parametrize("tile_m", [8, 16, 64, 128, 256])
def test_a_second_launch_has_a_full_tile_and_a_tail(tile_m: int) -> None:
    tokens = two_tiles(tile_m)
    assert tile_m < tokens < 2 * tile_m
    # The hard distributions have their one M, which would all be launched again with it.
    assert tokens != BASE_M


@pytest.mark.compiles
@pytest.mark.parametrize(("name", "target"), [("fused_sm100", "sm_100a"), ("fused_sm90", "sm_90a")])
def test_a_config_is_executed_and_the_run_resumes(
    tmp_path: Path, artifacts: ArtifactCache, name: str, target: str
) -> None:
    out = tmp_path / "not there yet" / "verified.jsonl"
    arguments = ["--hidden", "512", "--configs", "1", "--family", name, "--target", target]
    for _ in range(2):
        table = verified(artifacts, *arguments, "--out", str(out))
        (found,) = read_verified(out)
        assert found.outcome is Outcome.OK, found.reason
        assert found.check is None
        tokens = family(name).round_tokens(family(name).config(found.config))
        repeated = two_tiles(int(found.config["tile_m"])) if tokens is None else max(300, tokens + 1)
        assert found.launches == len({*PLAIN_M, repeated}) + len(HARD) + 1
        assert found.bf16_overlap is not None
        assert 0.5 < found.bf16_overlap < 1.0
        assert found.rounds >= 2 or tokens is None
        assert found.races
        assert found.two_kernel is not None
        assert found.two_kernel.launches == found.launches - 1
        assert found.two_kernel.ids_differ == 0
        assert found.two_kernel.weight_error < 1e-4
        assert (found.resources[0].tmem_columns > 0) == (target == "sm_100a")
        artifact = artifacts.lookup(
            artifact_key(family(name), SMALL, family(name).config(found.config), target, compiler_versions())
        )
        assert isinstance(artifact, Artifact)
        assert found.ptx_sha256 == sha256((artifact.folder / PTX).read_bytes()).hexdigest()
        assert f"1 of {len(Space(family(name), SMALL, target))} legal configs" in table


@pytest.mark.compiles
@pytest.mark.parametrize("depth", CheckDepth)
def test_a_sweeps_check_launches_every_distribution(
    tmp_path: Path, artifacts: ArtifactCache, depth: CheckDepth
) -> None:
    out = tmp_path / "verified.jsonl"
    verified(artifacts, "--hidden", "512", "--configs", "1", "--check", depth.value, "--out", str(out))
    (found,) = read_verified(out)
    assert found.outcome is Outcome.OK, found.reason
    assert found.check is depth
    tile_m = family("fused_sm100").token_tile(family("fused_sm100").config(found.config))
    drawn = list(generate(SMALL, SEED, torch.device("cpu"), tile_m, depth=depth))
    assert [operands.name for operands in drawn] == list(DISTRIBUTIONS)
    launched = [m for operands in drawn for m in operands.m_values]
    again = len(launched) if depth is CheckDepth.FULL else sum(m != BASE_M for m in launched)
    assert found.launches == len(launched) + again + 1, "once more to search for races"
    assert found.two_kernel is None


def verified(artifacts: ArtifactCache, *arguments: str) -> str:
    """What `routertune verify` prints; its processes compile, each for one target."""
    done = CliRunner().invoke(verify, arguments, env={"ROUTERTUNE_CACHE": str(artifacts.root)})
    assert done.exit_code == 0, done.output
    return done.output


def test_a_table_counts_outcomes_by_choice(tmp_path: Path) -> None:
    found = [
        Verified("f", "sm_100a", "p", 512, {"stages": 2}, Outcome.OK, launches=12),
        Verified("f", "sm_100a", "p", 512, {"stages": 3}, Outcome.WRONG_RESULT, "row 1", launches=2),
    ]
    lines = table(found, 9).splitlines()
    assert lines[0] == "2 of 9 legal configs, 14 launches: 1 ok, 1 wrong_result; 0 spill registers."
    assert "| stages | 3 | 1 | 0 | 1 |" in lines
    assert lines[-1] == "- wrong_result: row 1 ({'stages': 3})"


def test_a_table_says_what_a_gpu_answered() -> None:
    answers = (OnGpu("GPU", 9, 0, 1e-6), OnGpu("GPU", 9, 2, 3e-6), None)
    found = [Verified("f", "sm_90a", "p", 512, {"stages": 2}, Outcome.OK, on_gpu=one) for one in answers]
    assert "On GPU: 18 launches of 2 configs compared, all ids equal in 1 configs, 2 ids differ" in table(
        found, 9
    )


def test_a_table_says_what_the_two_kernels_answered() -> None:
    answers = (Agreement(11, 0, 1e-6), Agreement(12, 2, 3e-6), None)
    found = [Verified("f", "sm_90a", "p", 512, {"stages": 2}, Outcome.OK, two_kernel=one) for one in answers]
    assert (
        "Against the two-kernel path: 23 launches of 2 configs compared, all ids equal in 1 configs, 2 ids "
        "differ, weights by at most 3.0e-06."
    ) in table(found, 9)


def test_differences_are_of_ids_and_of_weights_whose_id_is_the_same() -> None:
    nan = math.nan
    weights, ids = torch.tensor([[2.0, 1.0, nan, nan]]), torch.tensor([[3, 4, 5, 6]])
    assert differences((weights, ids), (weights.clone(), ids.clone())) == (0, 0.0)
    its = torch.tensor([[2.5, 7.0, nan, nan]]), torch.tensor([[3, 9, 5, 6]])
    assert differences((weights, ids), its) == (1, 0.25)
    assert differences((weights, ids), (torch.tensor([[2.0, 1.0, nan, 1.0]]), ids)) == (0, math.inf)


@pytest.mark.parametrize(
    "its",
    [
        {"family": "two_kernel_sm100"},
        {"target": "sm_103a"},
        {"problem": "other"},
        {"hidden": 1024},
        {"check": CheckDepth.FULL},
    ],
)
def test_configs_of_another_space_are_not_taken_for_its_own(tmp_path: Path, its: dict[str, Any]) -> None:
    whole, out = space(), tmp_path / "verified.jsonl"
    mine = Verified("fused_sm100", "sm_100a", PROBLEM.name, 512, whole.params(0), Outcome.OK)
    lines = [msgspec.json.encode(one) + b"\n" for one in (mine, replace(mine, **its))]
    out.write_bytes(b"".join(lines))
    with pytest.raises(RecordError, match=r"not of fused_sm100 for sm_100a and tiny at hidden 512: name ano"):
        next(verify_space(whole, out, Plan(tmp_path)))
    assert out.read_bytes() == b"".join(lines)
    out.write_bytes(lines[0])
    assert not list(verify_space(whole, out, Plan(tmp_path, configs=1)))
    with pytest.raises(RecordError, match=r"not of .* at hidden 512 with --check brief: name another"):
        next(verify_space(whole, out, Plan(tmp_path, configs=1, check=CheckDepth.BRIEF)))


def test_what_was_asked_less_is_proven_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = space(), tmp_path / "verified.jsonl"
    configs = [whole.params(index) for index in range(len(whole))]
    mine = Verified("fused_sm100", "sm_100a", PROBLEM.name, 512, configs[0], Outcome.OK)
    before = [mine, *(replace(mine, config=each, schema=NOT_COMPARED) for each in configs[1:4])]
    out.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in before))

    def prove(space_: Any, left: Iterator[Task], *_: object) -> Iterator[Verified]:
        for params, earlier in left:
            assert earlier == next((one for one in before[1:] if one.config == params), None)
            yield replace(mine, config=params)

    monkeypatch.setattr(verify_space_module, "_in_processes", prove)
    assert not list(verify_space(whole, out, Plan(tmp_path, configs=4))), "so many are known"
    of_shards = [
        one.config
        for i in range(2)
        for one in verify_space(whole, copy_of(out, f"{i}"), Plan(tmp_path, shard=(i, 2)))
    ]
    proven = [one.config for one in verify_space(whole, out, Plan(tmp_path))]
    assert proven[-3:] == configs[1:4]
    assert sorted(map(str, proven)) == sorted(map(str, configs[1:]))
    assert sorted(map(str, of_shards)) == sorted(map(str, configs[1:]))
    found = read_verified(out)
    assert sorted(str(one.config) for one in found) == sorted(map(str, configs))
    assert {one.schema for one in found} == {mine.schema}
    assert not list(verify_space(whole, out, Plan(tmp_path)))


@pytest.mark.compiles
def test_of_code_that_is_the_same_only_the_comparison_is_made(
    tmp_path: Path, compile_pool: CompilePool, artifacts: ArtifactCache
) -> None:
    kernels, some = family("fused_sm100"), space().params(0)
    choices = {name: (value,) for name, value in some.items()} | {"acc_stages": (1, 2)}
    whole, out = Space(kernels, PROBLEM, "sm_100a", choices), tmp_path / "verified.jsonl"
    every = {number: some | {"acc_stages": number} for number in (1, 2)}
    compile_all(compile_pool, kernels, [kernels.config(params) for params in every.values()])
    full = {
        number: verify_config(kernels, PROBLEM, params, "sm_100a", artifacts.root)
        for number, params in every.items()
    }
    before = {
        number: replace(one, schema=NOT_COMPARED, two_kernel=None, rounds=9, ptx_sha256=sha256)
        for (number, one), sha256 in zip(sorted(full.items()), (full[1].ptx_sha256, "another"), strict=True)
    }
    out.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in before.values()))
    again = {one.config["acc_stages"]: one for one in verify_space(whole, out, Plan(artifacts.root))}
    same, another = again[1], again[2]
    assert full[1].two_kernel is not None
    plain = full[1].two_kernel.launches - len(HARD)
    assert same.two_kernel == replace(full[1].two_kernel, launches=plain)
    assert same.launches == before[1].launches + plain
    assert same.rounds == 9
    assert same.bf16_overlap == full[1].bf16_overlap
    assert replace(another, seconds=0.0) == replace(full[2], seconds=0.0)
    assert {one.schema for one in read_verified(out)} == {SCHEMA}


def copy_of(path: Path, name: str) -> Path:
    return Path(shutil.copy(path, path.with_name(name)))


@pytest.mark.compiles
def test_a_process_that_dies_costs_its_config_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_space_module, "_verify", _dies_of_64_columns)
    out = tmp_path / "verified.jsonl"
    whole = space()
    found = list(verify_space(whole, out, Plan(tmp_path, configs=8, jobs=2)))
    assert read_verified(out) == found
    assert len(found) == 8
    for one in found:
        dies = one.config["mma_n"] == 64
        assert one.outcome is (Outcome.CRASHED if dies else Outcome.OK)
        assert ("the process died with exit code 7" in one.reason) == dies
    assert {one.config["mma_n"] for one in found} > {64}
    assert not list(verify_space(whole, out, Plan(tmp_path, configs=8, jobs=2)))


@pytest.mark.compiles
def test_a_machine_that_cannot_compile_is_no_configs_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "verified.jsonl"
    with monkeypatch.context() as without_linker:
        without_linker.setenv("PATH", str(tmp_path))
        without_linker.delenv("CC", raising=False)
        with pytest.raises(ToolchainError, match="this machine cannot compile: ToolchainError: no linker"):
            next(verify_space(space(), out, Plan(tmp_path, configs=1)))
    assert read_verified(out) == []
    (found,) = verify_space(space(), out, Plan(tmp_path, configs=1))
    assert found.outcome is Outcome.OK, found.reason


@pytest.mark.compiles
@pytest.mark.parametrize("check", [None, CheckDepth.FULL])
def test_a_wrong_kernel_gets_its_verdict_and_the_next_one_its_own(
    compile_pool: CompilePool, artifacts: ArtifactCache, check: CheckDepth | None
) -> None:
    kernels, config = PlantedSm100(), family("fused_sm100").config(space().params(0))
    configs = {name: kernels.planted(config, name) for name in PLANTED}
    compile_all(compile_pool, kernels, list(configs.values()))
    for name, (outcome, reason) in PLANTED.items():
        of_space = (kernels, PROBLEM, asdict(configs[name]), "sm_100a", artifacts.root)
        found = verify_config(*of_space) if check is None else check_config(*of_space, check)
        assert found.outcome is outcome
        assert reason in found.reason
        assert found.check is check
        assert found.races == (outcome is Outcome.OK)
        assert found.ptx_sha256


def compile_all(pool: CompilePool, kernels: KernelFamily, configs: Sequence[Any]) -> None:
    """Compile them and the two kernels that they are compared with: this process is not to."""
    two_kernels = family("two_kernel_sm100")
    default = two_kernels.default_config(PROBLEM, BASE_M)
    begun = [pool.submit(kernels, PROBLEM, config, "sm_100a") for config in configs]
    for each in [*begun, pool.submit(two_kernels, PROBLEM, default, "sm_100a")]:
        assert each.result().artifact is not None, each.result().reason


# What is planted in a config, and what is to come of it.
PLANTED = {
    "alpha_forgotten": (Outcome.WRONG_RESULT, "ranks above expert"),
    "bytes_16_more": (Outcome.CRASHED, "deadlock"),
    NO_DEFECT: (Outcome.OK, ""),
}


def _dies_of_64_columns(
    name: str, problem: RouterProblem, params: dict[str, ParamValue], target: str, *_: object
) -> Verified:
    if params["mma_n"] == 64:
        os._exit(7)
    return Verified(name, target, problem.name, problem.hidden, params, Outcome.OK)

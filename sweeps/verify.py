"""Proving a config in simulation: compiled, executed, and compared with the reference.

Every config is launched on plain data at M of less than a tile, of tails of tiles of 64, 128 and 256, and of
a third tile, and on five more distributions at one M. A second launch at one of the M must give the same
bits on the workspace that another M has left, and is searched for races in shared memory. It makes a
persistent kernel, at the largest M, walk all tiles with one column of clusters, in two rounds or more; of
another kernel it has a full tile and a tail. The answers are compared with the two-kernel path's.

A smaller hidden size proves the same code paths sooner: all that changes is how often the K loop turns.

A config of which the third schema's lines have all but the comparison with the two kernels is compiled again,
and where that gives the same code, launched on plain data only: half of the work.

`sweeps.verify_check` proves a config in another way, and keeps it in the same kind of line.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import msgspec
import torch

from harness.artifact import Artifact
from harness.check import check_prepared
from harness.check_bounds import Expected, expect
from harness.check_cases import BASE_M, Operands, generate
from harness.compile import PTX, compile_cached
from harness.executor import CheckDepth
from harness.json_lines import read_lines
from harness.oneline import one_line
from harness.record import Outcome, Resources
from harness.runner import Candidate
from harness.simulator.errors import NotSimulatedError, SimulationError
from harness.simulator.run import Program
from kernels.family import KernelFamily, OperandFormat, ParamValue
from kernels.problem import RouterProblem
from sweeps.verify_on_gpu import OnGpu, Recorded, compare_on_gpu
from sweeps.verify_two_kernel import Agreement, Answer, compare_with_two_kernels, two_kernel_answers

SCHEMA = "routertune.verified/5"
COMPLETE = ("routertune.verified/4", SCHEMA)  # what these say is proven need not be proven again
NOT_COMPARED = "routertune.verified/3"  # all that those ask but the comparison with the two kernels
SCHEMAS = ("routertune.verified/2", NOT_COMPARED, *COMPLETE)
# Plain NVFP4 data first: how many experts the bf16 reference chooses too is recorded of it.
HARD = ("nvfp4", "nvfp4_every_expert", "ties", "non_finite", "bias_reverses")
PLAIN_M = (1, 127, 128, BASE_M, 300)
SEED = 7


@dataclass(frozen=True)
class Verified:
    """What became of one config."""

    family: str
    target: str
    problem: str
    hidden: int
    config: dict[str, ParamValue]
    outcome: Outcome
    reason: str = ""
    launches: int = 0
    rounds: int = 1  # that one column of clusters has made in a launch
    races: bool = False  # whether they have been looked for
    on_gpu: OnGpu | None = None
    two_kernel: Agreement | None = None  # None before schema 4
    bf16_overlap: float | None = None
    resources: tuple[Resources, ...] = ()
    seconds: float = 0.0
    ptx_sha256: str = ""  # of the code that was executed, for a later kernel to compare; "" in schema 2
    check: CheckDepth | None = None  # a sweep's check has been made instead of what this module describes
    schema: str = SCHEMA

    @property
    def spills(self) -> bool:
        return any(entry.local_bytes for entry in self.resources)

    def lacks_comparison_only(self, ptx_sha256: str) -> bool:
        """Whether this proves everything of the code `ptx_sha256` but how the two kernels compare."""
        return (self.schema, self.outcome, self.ptx_sha256) == (NOT_COMPARED, Outcome.OK, ptx_sha256)


@dataclass(frozen=True)
class _Inputs:
    """What configs are launched on: plain data at every M, and the distributions `hard` at one."""

    problem: RouterProblem
    operand_format: OperandFormat
    repeated: int  # the M of the second launch
    hard: tuple[str, ...]


def verify_config(
    kernels: KernelFamily,
    problem: RouterProblem,
    params: dict[str, ParamValue],
    target: str,
    cache: Path,
    on_gpu: bool = False,
    earlier: Verified | None = None,
) -> Verified:
    """Compile one config and check it in the simulator; with `on_gpu`, compare with the CUDA device.

    `earlier` is what is known of the config since less was asked: of the same code it is not proven again.
    """
    began = time.perf_counter()
    found, artifact = compiled(kernels, problem, params, target, cache)
    if artifact is None:
        return found
    known = earlier if earlier is not None and earlier.lacks_comparison_only(found.ptx_sha256) else None
    try:
        program = Program.of_folder(artifact.folder)
        candidate = Candidate.of_manifest(artifact.manifest, program, kernels)
        first = Recorded(program.together)
        round_tokens = candidate.round_tokens
        repeated = two_tiles(candidate.tile_m) if round_tokens is None else max(PLAIN_M[-1], round_tokens + 1)
        inputs = _Inputs(problem, candidate.operand_format, repeated, () if known else HARD)
        once = {*PLAIN_M, repeated} if known else set(PLAIN_M) - {repeated}
        again = replace(program, races=True, columns=None if round_tokens is None else 1)
        check = check_prepared(
            program,
            problem,
            candidate.workspace_elements,
            SEED,
            _prepared(inputs),
            candidate.operand_format,
            once,
            first,
            again=again.together,
        )
    except SimulationError as error:
        _prepared.cache_clear()  # what a wrong kernel has overwritten is not known
        return not_executed(found, error)
    agreement = None
    if check.passed:
        agreement = compare_with_two_kernels(first, _two_kernel(inputs, target, cache))
    else:
        _prepared.cache_clear()
    found = replace(
        found,
        outcome=Outcome.OK if check.passed else Outcome.WRONG_RESULT,
        reason=check.first_failure,
        launches=len(check.cases),
        on_gpu=compare_on_gpu(artifact, first) if on_gpu and check.passed else None,
        two_kernel=agreement,
        seconds=time.perf_counter() - began,
    )
    if known is not None:
        return _added(known, found)
    return replace(
        found,
        launches=found.launches + 1,
        rounds=1 if round_tokens is None else -(-repeated // round_tokens),
        races=check.passed,
        bf16_overlap=check.bf16_overlap,
    )


def compiled(
    kernels: KernelFamily, problem: RouterProblem, params: dict[str, ParamValue], target: str, cache: Path
) -> tuple[Verified, Artifact | None]:
    """One config compiled, and what is known of it by that; without an artifact, that is all."""
    result = compile_cached(cache, kernels, problem, kernels.config(params), target)
    found = Verified(kernels.name, target, problem.name, problem.hidden, params, Outcome.OK)
    if result.artifact is None:
        return replace(found, outcome=result.outcome, reason=result.reason), None
    manifest = result.artifact.manifest
    return replace(found, resources=manifest.resources, ptx_sha256=manifest.digests[PTX]), result.artifact


def not_executed(found: Verified, error: SimulationError) -> Verified:
    """`found`, of a config that `error` has ended: its own fault, or what the simulator does not know."""
    unknown = isinstance(error, NotSimulatedError)
    return replace(
        found, outcome=Outcome.COMPILED if unknown else Outcome.CRASHED, reason=one_line(str(error))
    )


def _added(known: Verified, found: Verified) -> Verified:
    """`found`, with what was `known` of the same code."""
    return replace(
        found,
        launches=known.launches + found.launches,
        rounds=known.rounds,
        races=known.races,
        on_gpu=found.on_gpu or known.on_gpu,
        bf16_overlap=known.bf16_overlap,
    )


def two_tiles(tile_m: int) -> int:
    """An M of a full tile and a tail, one that is launched anyway if there is one; the hard cases' is not."""
    fits = (m for m in PLAIN_M if tile_m < m < 2 * tile_m and m != BASE_M)
    return next(fits, tile_m + 1)


@lru_cache(maxsize=8)
def _prepared(inputs: _Inputs) -> list[tuple[Operands, Expected]]:
    """The inputs with their reference."""
    cases = {"normal": (*PLAIN_M, inputs.repeated)} | dict.fromkeys(inputs.hard, (BASE_M,))
    problem, operand_format = inputs.problem, inputs.operand_format
    drawn = generate(problem, SEED, torch.device("cpu"), 0, operand_format=operand_format, at=cases)
    return [(operands, expect(operands, problem)) for operands in drawn]


@lru_cache(maxsize=8)
def _two_kernel(inputs: _Inputs, target: str, cache: Path) -> list[Answer]:
    """The two-kernel path's answers to `_prepared`."""
    cases = [operands for operands, _ in _prepared(inputs)]
    return two_kernel_answers(inputs.problem, target, cache, cases)


def read_verified(path: Path) -> list[Verified]:
    """Every config in `path`, if there is one, as its latest line has it; a line half written is left out.

    Raises `RecordError` naming the line that is something else.
    """
    latest: dict[bytes, Verified] = {}
    for one in read_lines(path, Verified, SCHEMAS):
        identity = one.family, one.target, one.problem, one.hidden, one.config
        latest[msgspec.json.encode(identity, order="sorted")] = one
    return list(latest.values())


def table(found: Sequence[Verified], legal: int) -> str:
    """The space by outcome, and by outcome for every choice of every parameter, in Markdown."""
    outcomes = Counter(one.outcome.value for one in found)
    spilling = sum(one.spills for one in found)
    launches = sum(one.launches for one in found)
    names = sorted(outcomes)
    lines = [
        f"{len(found)} of {legal} legal configs, {launches} launches: "
        + ", ".join(f"{outcomes[name]} {name}" for name in names)
        + f"; {spilling} spill registers.",
        "",
        *_on_gpu(found),
        *_two_kernels(found),
        f"| parameter | choice | configs | {' | '.join(names)} |",
        f"| --- | --- | --- | {' | '.join('---' for _ in names)} |",
    ]
    for parameter in found[0].config if found else ():
        for choice in sorted({one.config[parameter] for one in found}, key=str):
            mine = [one for one in found if one.config[parameter] == choice]
            counts = Counter(one.outcome.value for one in mine)
            cells = " | ".join(str(counts[name]) for name in names)
            lines.append(f"| {parameter} | {choice} | {len(mine)} | {cells} |")
    failures = [one for one in found if one.outcome is not Outcome.OK]
    lines += ["", *(f"- {one.outcome.value}: {one.reason} ({one.config})" for one in failures)]
    return "\n".join(lines)


def _on_gpu(found: Sequence[Verified]) -> list[str]:
    """How the GPU's answers differ, where there are any."""
    its = [one.on_gpu for one in found if one.on_gpu is not None]
    devices = ", ".join(sorted({one.device for one in its}))
    return _differing(f"On {devices}", its)


def _two_kernels(found: Sequence[Verified]) -> list[str]:
    """How the two-kernel path's answers differ, where they were compared."""
    its = [one.two_kernel for one in found if one.two_kernel is not None]
    return _differing("Against the two-kernel path", its)


def _differing(where: str, its: Sequence[OnGpu | Agreement]) -> list[str]:
    if not its:
        return []
    alike = sum(one.ids_differ == 0 for one in its)
    return [
        f"{where}: {sum(one.launches for one in its)} launches of {len(its)} configs compared, "
        f"all ids equal in {alike} configs, {sum(one.ids_differ for one in its)} ids differ, "
        f"weights by at most {max(one.weight_error for one in its):.1e}.",
        "",
    ]

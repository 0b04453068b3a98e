"""Model one launch of one config: compile it, load it into the simulator, write down what happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.cache import ArtifactCache
from harness.compile_pool import CompilePool
from harness.operands import Outputs, random_inputs
from harness.provenance import provenance
from harness.runner import Candidate
from harness.simulator.account import account
from harness.simulator.account_record import LaunchAccount
from harness.simulator.errors import SimulationError
from harness.simulator.run import Program
from harness.simulator.runner import WEIGHTS
from harness.toolchain import ToolchainError
from kernels.best import best_known_config
from kernels.dispatch_table import DispatchTableError
from kernels.families import family
from kernels.family import KernelFamily, ParamValue
from sweeps.errors import SpecError
from sweeps.space import Space, config_params, parse_params
from sweeps.spec import SweepSpec


@dataclass(frozen=True)
class Simulated:
    """An account, what it is of, and where it comes from, each in one line."""

    title: str
    source: str
    account: LaunchAccount


def simulate_launch(
    spec: SweepSpec, assignments: Sequence[str], m: int, *, warm: bool, cache: str | None
) -> Simulated:
    """The account of a launch at `m` tokens of the spec's problem, family and target.

    Raises `SpecError` for a config that is not legal and `ToolchainError` for one that does not compile or
    breaks a rule of the machine.
    """
    kernels = family(spec.family)
    params = chosen_params(kernels, spec, assignments, m)
    config = kernels.config(params)
    with CompilePool(ArtifactCache(cache), workers=1) as pool:
        compiled = pool.submit(kernels, spec.problem, config, spec.target).result()
    if compiled.artifact is None:
        raise ToolchainError(f"the config does not compile: {compiled.reason}")
    manifest = compiled.artifact.manifest
    program = Program.of_folder(compiled.artifact.folder)
    candidate = Candidate.of_manifest(manifest, program)
    generator = torch.Generator().manual_seed(m)
    try:
        workspace_elements = candidate.workspace_elements(m)
    except ValueError as error:
        raise SpecError(str(error)) from None
    inputs = random_inputs(spec.problem, m, "cpu", generator, candidate.operand_format)
    outputs = Outputs.poisoned(spec.problem, m, workspace_elements, "cpu")
    args = (*inputs.operands, inputs.bias, inputs.alpha, outputs.workspace, outputs.weights, outputs.ids)
    try:
        found = account(
            program,
            args,
            warm=warm,
            registers={used.kernel: used.registers for used in manifest.resources},
            weights=WEIGHTS[candidate.operand_format],
        )
    except SimulationError as error:
        raise ToolchainError(f"the simulator stopped: {error}") from None
    origin = provenance()
    shown = " ".join(f"{name}={value}" for name, value in params.items())
    caches = "warm" if warm else "cold"
    return Simulated(
        title=f"{spec.problem.name}, M = {m}, {spec.family} on {spec.target}, {caches}: {shown}",
        source=(
            f"MODELLED by the simulator for {spec.target}, not measured  ·  {origin.date[:10]}  ·  "
            f"commit {origin.commit[:10] or 'unknown'}"
        ),
        account=found,
    )


def chosen_params(
    kernels: KernelFamily, spec: SweepSpec, assignments: Sequence[str], m: int
) -> dict[str, ParamValue]:
    """What is assigned, and the rest as in the best known config at `m`.

    Where that rest does not go with it, the legal config that differs from it in the fewest parameters.
    Raises `SpecError` where no legal config has what is assigned.
    """
    given = parse_params(kernels, spec.problem, assignments)
    try:
        params = config_params(best_known_config(kernels, spec.problem, spec.target, m)) | given
    except DispatchTableError:
        raise
    except ValueError as error:
        raise SpecError(str(error)) from None
    reason = kernels.illegal_reason(spec.problem, kernels.config(params), spec.target)
    if reason is None:
        return params
    try:
        having = Space(kernels, spec.problem, spec.target, {name: (value,) for name, value in given.items()})
    except SpecError:
        shown = " ".join(f"{name}={value}" for name, value in params.items())
        raise SpecError(f"{shown}: {reason}; no legal config has what is asked for") from None
    return having.params(having.nearest(params, np.arange(len(having)), np.random.default_rng(0)))

"""What each small-batch tunable buys, in the model: the best time with it and the best without.

Every variant of `harness.ablation_record` searches its part of the space, and the two-kernel path its own,
with the same number of candidates: first the best known configs, moved to the nearest that the variant
allows, then mutations of the fastest config so far, at each M in turn. What any search has tried counts for
every variant that allows it, and so does a factorial design: every legal combination of the four tunables at
the smallest tile. The winners are then checked in the simulator; a wrong one is dropped, and the next one
checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from harness.ablation_record import (
    DESIGN,
    FUSED,
    SMALLEST_TILE,
    TWO_KERNEL_PATH,
    TWO_KERNELS,
    VARIANTS,
    Tried,
    best,
    key,
    read_tried,
)
from harness.compile import compile_cached
from harness.executor import CheckDepth
from harness.json_lines import append_line, append_to
from harness.oneline import one_line
from harness.provenance import provenance
from harness.record import Outcome, RecordError
from harness.runner import BeyondRunnerError, Candidate
from harness.simulator.errors import SimulationError
from harness.simulator.model import Model
from harness.simulator.modelled import ModelledTimes
from harness.simulator.run import Program
from harness.simulator.runner import WEIGHTS, Sm100aRunner
from kernels.best import best_known_config
from kernels.families import family
from kernels.family import ParamValue
from kernels.problem import RouterProblem
from sweeps.space import Space, config_params

TARGET = "sm_100a"
CHECK_SEED = 0
FACTORS = ("swap_operands", "expert_split", "split_k", "grid_split")  # of the factorial design
# Where early release has anything to release early: several tiles for each CTA.
LARGE_M = (1024, 4096, 16384)


class Ablation:
    """The configs tried so far, in `out`; going on with the same file repeats nothing."""

    def __init__(self, problem: RouterProblem, m_values: Sequence[int], out: Path, cache: Path) -> None:
        self.problem, self.m_values, self.out, self.cache = problem, tuple(m_values), out, cache
        tried = read_tried(out)
        others = sorted({one.problem for one in tried} - {problem.name})
        if others:
            raise RecordError(f"{out} holds configs of {others[0]}, not of {problem.name}: name another file")
        self.tried = {key(one.family, one.config): one for one in tried}
        append_to(out, Tried)

    def search(self, variant: str, candidates: int, seed: int) -> Iterator[Tried]:
        """Try `candidates` configs for a variant, from the one after its last in the file on.

        Gives each one that is new to the file.
        """
        name = TWO_KERNELS if variant == TWO_KERNEL_PATH else FUSED
        space = Space(family(name), self.problem, TARGET, VARIANTS.get(variant))
        rng = np.random.default_rng(seed)
        fresh = np.ones(len(space), np.bool_)
        tried = [one.number for one in self.tried.values() if one.search == variant]
        for number in range(max(tried, default=-1) + 1, min(candidates, len(space))):
            wanted = self._proposal(space, variant, number, rng)
            index = space.nearest(wanted, np.flatnonzero(fresh), rng)
            fresh[index] = False
            if (one := self.model(name, space.params(index), variant, number, self.m_values)) is not None:
                yield one

    def design(self, seed: int) -> Iterator[Tried]:
        """Try every combination of the factors, the rest as near to the best known config as is legal."""
        space = Space(family(FUSED), self.problem, TARGET, SMALLEST_TILE)
        rng = np.random.default_rng(seed)
        known = config_params(best_known_config(space.family, self.problem, TARGET, self.m_values[0]))
        of: dict[tuple[ParamValue, ...], list[int]] = {}
        for index in range(len(space)):
            params = space.params(index)
            of.setdefault(tuple(params[name] for name in FACTORS), []).append(index)
        for number, (values, indices) in enumerate(sorted(of.items())):
            wanted = {**known, **dict(zip(FACTORS, values, strict=True))}
            index = space.nearest(wanted, np.array(indices), rng)
            one = self.model(FUSED, space.params(index), DESIGN, number, self.m_values)
            if one is not None:
                yield one

    def _proposal(
        self, space: Space, variant: str, number: int, rng: np.random.Generator
    ) -> dict[str, ParamValue]:
        """A best known config, then mutations of the fastest one in one or two parameters."""
        m = self.m_values[number % len(self.m_values)]
        fastest = best(self.tried.values(), variant, m)
        if number < len(self.m_values) or fastest is None:
            return config_params(best_known_config(space.family, self.problem, TARGET, m))
        params = dict(fastest.config)
        for name in rng.choice(list(params), size=rng.integers(1, 3), replace=False):
            choices = [value for value in space.choices[name] if value != params[name]]
            params[str(name)] = choices[rng.integers(len(choices))]
        return params

    def model(
        self, name: str, params: dict[str, ParamValue], search: str, number: int, m_values: Sequence[int]
    ) -> Tried | None:
        """Compile a config and model it at `m_values`; None when that is known already."""
        known = self.tried.get(key(name, params))
        missing = [m for m in m_values if known is None or m not in known.us]
        if known is not None and (known.outcome is not Outcome.OK or not missing):
            return None
        found = known or Tried(name, TARGET, self.problem.name, search, number, params, provenance())
        return self._keep(self._modelled(found, missing))

    def _modelled(self, found: Tried, m_values: Sequence[int]) -> Tried:
        kernels = family(found.family)
        config = kernels.config(found.config)
        result = compile_cached(self.cache, kernels, self.problem, config, TARGET)
        if result.artifact is None:
            return replace(found, outcome=result.outcome, reason=result.reason)
        manifest = result.artifact.manifest
        try:
            program = Program.of_folder(result.artifact.folder)
            candidate = Candidate.of_manifest(manifest, program)
            registers = {entry.kernel: entry.registers for entry in manifest.resources}
            model = Model(program, registers, weights=WEIGHTS[candidate.operand_format])
            modelled = ModelledTimes(model, candidate)
            us = {m: modelled.us(m) for m in m_values}
        except SimulationError as error:
            return replace(found, outcome=Outcome.CRASHED, reason=one_line(str(error)))
        return replace(found, us={**found.us, **us})

    def check_winners(self, variants: Sequence[str]) -> Iterator[Tried]:
        """Check the best config of each variant and M until every best one has passed."""
        cells = [(variant, m) for variant in variants for m in self.m_values]
        while unchecked := _unchecked(best(self.tried.values(), *cell) for cell in cells):
            for one in unchecked:
                yield self.check(one)

    def check(self, one: Tried) -> Tried:
        """Execute and check a config's compiled code in the simulator."""
        kernels, runner = family(one.family), Sm100aRunner()
        result = compile_cached(self.cache, kernels, self.problem, kernels.config(one.config), TARGET)
        assert result.artifact is not None
        try:
            found = runner.check(runner.load(result.artifact), CHECK_SEED, CheckDepth.BRIEF)
        except (SimulationError, BeyondRunnerError) as error:
            return self._keep(
                replace(one, checked=True, outcome=Outcome.CRASHED, reason=one_line(str(error)))
            )
        outcome = Outcome.OK if found.passed else Outcome.WRONG_RESULT
        return self._keep(replace(one, checked=True, outcome=outcome, reason=found.first_failure or ""))

    def pairs_of_early_release(self, show: Callable[[Tried], None]) -> None:
        """Model the best config at each of `LARGE_M` with and without early release, checking both."""
        number = 0
        for m in LARGE_M:
            fastest = best(self.tried.values(), next(iter(VARIANTS)), min(m, max(self.m_values)))
            known = config_params(best_known_config(family(FUSED), self.problem, TARGET, m))
            # One accumulator of 256 columns: the case that early release was made for.
            wide = {**known, "mma_n": 256, "acc_stages": 1, "grid_split": 1, "stages": 4, "epi_n": 32}
            for params in (known, wide, *([fastest.config] if fastest is not None else [])):
                for released in (False, True):
                    config = {**params, "early_release": released}
                    if family(FUSED).illegal_reason(
                        self.problem, family(FUSED).config(config), TARGET
                    ) is None and (one := self.model(FUSED, config, "early_release", number, LARGE_M)):
                        show(self.check(one))
                    number += 1

    def _keep(self, one: Tried) -> Tried:
        self.tried[key(one.family, one.config)] = one
        append_line(self.out, msgspec.json.encode(one))
        return one


def _unchecked(winners: Iterator[Tried | None]) -> list[Tried]:
    """Distinct configs that have not been checked."""
    wanted = {key(one.family, one.config): one for one in winners if one is not None and not one.checked}
    return list(wanted.values())

"""A search space: the legal configs of a kernel family for one problem and target.

The product of the parameters' choices is filtered by the family's single predicate and kept in its order, so
a legal config is its index. A product of millions is not walked: partial configs grow by one parameter at a
time and are dropped by the first of the family's rules that has all it reads. The configs are a matrix of
choice indices, one row per legal config: the distance from a proposal to all is one NumPy expression.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kernels.family import KernelFamily, ParamValue, Rule
from kernels.problem import RouterProblem
from sweeps.errors import SpecError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# A rule takes some microseconds; beyond this many partial configs at once it would take half a minute.
MAX_PARTIAL = 2_000_000


class Space:
    """The legal configs of `family` for `problem` on `target`, restricted to some parameters' choices.

    Raises `SpecError` for a target or parameter the family does not have, a choice the parameter does not
    have, more than `MAX_PARTIAL` configs to look at, or when no config is legal.
    """

    def __init__(
        self,
        family: KernelFamily,
        problem: RouterProblem,
        target: str,
        restrictions: Mapping[str, Iterable[ParamValue]] | None = None,
    ) -> None:
        if target not in family.targets:
            raise SpecError(f"{family.name} has no target {target!r}: it has {', '.join(family.targets)}")
        self.family = family
        self.problem = problem
        self.target = target
        self.choices = family.space(problem)
        kept = _restrict(family.name, self.choices, restrictions or {})
        self.size = math.prod(len(indices) for indices in kept)
        candidates = tqdm(self._grow(kept), desc="legal configs", unit="", delay=2, leave=False, disable=None)
        rows = [row for row in candidates if self._legal(row)]
        if not rows:
            raise SpecError(f"{family.name}: none of the {self.size} configs is legal for {problem.name}")
        self._rows = np.array(rows, dtype=np.int16)
        self._index = {row: index for index, row in enumerate(rows)}

    def __len__(self) -> int:
        """The number of legal configs."""
        return len(self._rows)

    def params(self, index: int) -> dict[str, ParamValue]:
        """The parameters of the legal config at `index`."""
        return self._params(self._rows[index])

    def index(self, params: Mapping[str, Any]) -> int | None:
        """Where the config with these parameters is among the legal ones; None when it is not."""
        row = self._row(params)
        return None if row is None else self._index.get(row)

    def nearest(self, params: Mapping[str, Any], among: NDArray[np.intp], rng: np.random.Generator) -> int:
        """Of the legal configs at the indices `among`, the one that differs from `params` in the fewest
        parameters; a random one of those that are as near."""
        wanted = np.array(self._row(params), dtype=np.int16)
        distance = (self._rows[among] != wanted).sum(axis=1)
        return int(rng.choice(among[distance == distance.min()]))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's view. The choices are the family's, not the restricted ones, so that a study can go on
        under other restrictions: Optuna refuses a parameter whose choices change within a study."""
        from optuna.distributions import CategoricalDistribution

        return {name: CategoricalDistribution(choices) for name, choices in self.choices.items()}

    def _grow(self, kept: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """The rows that no rule of the family refuses, in the product's order."""
        names = list(self.choices)
        rules = [(rule, [names.index(name) for name in rule.reads]) for rule in self.family.rules()]
        # The next parameter is the one that lets a rule speak soonest.
        order: list[int] = []
        while rest := [column for column in range(len(names)) if column not in order]:
            missing = [[column for column in reads if column in rest] for _, reads in rules]
            order.append(min((columns for columns in missing if columns), key=len, default=rest)[0])
        # A parameter that is not chosen yet has its first choice; the rules that are asked do not read it.
        rows = [tuple(indices[0] for indices in kept)]
        for depth, column in enumerate(order):
            rows = [(*row[:column], index, *row[column + 1 :]) for row in rows for index in kept[column]]
            if len(rows) > MAX_PARTIAL:
                raise SpecError(
                    f"{self.family.name}: more than {MAX_PARTIAL} combinations: restrict some parameters"
                )
            for rule, reads in rules:
                if column in reads and set(reads) <= set(order[: depth + 1]):
                    rows = self._obeying(rule, reads, rows)
        return sorted(rows)

    def _obeying(
        self, rule: Rule, reads: Sequence[int], rows: Iterable[tuple[int, ...]]
    ) -> list[tuple[int, ...]]:
        """The rows that `rule` allows; each combination of what it reads is judged once."""
        verdicts: dict[tuple[int, ...], bool] = {}
        obeying = []
        for row in rows:
            read = tuple(row[column] for column in reads)
            if read not in verdicts:
                config = self.family.config_type(**self._params(row))
                verdicts[read] = rule.reason(self.problem, config) is None
            if verdicts[read]:
                obeying.append(row)
        return obeying

    def _legal(self, row: tuple[int, ...]) -> bool:
        config = self.family.config_type(**self._params(row))
        return self.family.illegal_reason(self.problem, config, self.target) is None

    def _params(self, row: Iterable[int]) -> dict[str, ParamValue]:
        return {name: choices[i] for (name, choices), i in zip(self.choices.items(), row, strict=True)}

    def _row(self, params: Mapping[str, Any]) -> tuple[int, ...] | None:
        try:
            return tuple(_position(choices, params[name]) for name, choices in self.choices.items())
        except (KeyError, ValueError):
            return None


def config_params(config: Any) -> dict[str, ParamValue]:
    """A config's parameters."""
    return asdict(config)


def parse_params(
    family: KernelFamily, problem: RouterProblem, assignments: Iterable[str]
) -> dict[str, ParamValue]:
    """Parameters written as `name=value`; raises `SpecError` naming the known names or choices."""
    space = family.space(problem)
    params: dict[str, ParamValue] = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in space:
            raise SpecError(f"{family.name} has no parameter {name!r}: it has {', '.join(space)}")
        known = {str(choice).lower(): choice for choice in space[name]}
        if text.lower() not in known:
            raise SpecError(f"{family.name}: {name} cannot be {text!r}: its choices are {', '.join(known)}")
        params[name] = known[text.lower()]
    return params


def config_id(params: Mapping[str, ParamValue]) -> str:
    """A config's short name: the same for the same parameters in any order, on any machine."""
    return sha256(msgspec.json.encode(dict(params), order="sorted")).hexdigest()[:10]


def _restrict(
    family: str,
    choices: Mapping[str, tuple[ParamValue, ...]],
    restrictions: Mapping[str, Iterable[ParamValue]],
) -> list[list[int]]:
    """The indices of the choices that remain, per parameter, in the family's order."""
    if unknown := [name for name in restrictions if name not in choices]:
        raise SpecError(f"{family} has no parameter {unknown[0]!r}: it has {', '.join(choices)}")
    kept = []
    for name, known in choices.items():
        try:
            kept.append(sorted({_position(known, value) for value in restrictions.get(name, known)}))
        except ValueError as error:
            shown = ", ".join(map(_shown, known))
            raise SpecError(f"{family}: {name} cannot be {error}: its choices are {shown}") from None
        if not kept[-1]:
            raise SpecError(f"{family}: {name} is restricted to no choice at all")
    return kept


def _position(choices: tuple[ParamValue, ...], value: Any) -> int:
    """Like `tuple.index`, but 1 is not True; raises `ValueError` with the value."""
    for position, choice in enumerate(choices):
        if choice == value and type(choice) is type(value):
            return position
    raise ValueError(_shown(value))


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()

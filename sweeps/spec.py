"""A sweep's description: a small TOML file, read strictly into a frozen `SweepSpec`.

    name = "default"                  # names the study and its files
    problem = "deepseek-v4-pro"       # a preset, or a table: { hidden = 7168, experts = 384, top_k = 6, ... }
    family = "fused_sm90"
    target = "sm_90a"
    m_values = [1, 16, 64, 512, 1024, 4096, 16384]

    [parameters]                      # a subset of the choices of some parameters; the others keep all theirs
    tile_n = [128]

    [search]
    sampler = "auto"                  # or exhaustive, tpe, random
    exhaustive_limit = 200            # auto: spaces of at most this many legal configs are swept exhaustively
    trials = 120                      # budget over all runs of the study
    minutes = 60                      # budget of one run
    seed = 0

    [objective]                       # time / floor, searched for at each M in turn
    metric = "cold"                   # or warm
    m_values = [1, 16]                # all of the sweep's when absent

    [baseline]                        # what a user would run instead, measured in the same run
    enabled = true
    family = "two_kernel_sm90"
    config = { }                      # parameters; the family's defaults for all M when empty

    [confirm]
    finalists = 2                     # the fastest so many at each M
    rounds = 3                        # how often each is measured again, interleaved; 0: never

    [simulator]                       # instead of [search]'s, where no GPU is there and times are modelled
    trials = 60
    minutes = 4

Only `problem` and `family` must be there. Anything unknown is refused with one line that names the known.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec

from harness.device import visible_capabilities
from harness.executor import DEFAULT_M_VALUES
from harness.toolchain import TARGETS
from kernels.families import family
from kernels.family import ParamValue
from kernels.problem import RouterProblem, preset
from sweeps.errors import SpecError
from sweeps.limits import MAX_HIDDEN, MAX_M

PRESET_FOLDER = Path(__file__).parent / "presets"
DEFAULT_SPEC = "default"
BLACKWELL_SPEC = "blackwell"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class SearchSpec:
    """How the space is searched and when the search ends."""

    sampler: Literal["auto", "exhaustive", "tpe", "random"] = "auto"
    exhaustive_limit: int = 200
    trials: int | None = 120
    minutes: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise ValueError(f"trials = {self.trials}: must be at least 1")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes = {self.minutes}: must be positive")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed = {self.seed}: must be from 0 to {2**32 - 1}")
        if self.exhaustive_limit < 0:
            raise ValueError(f"exhaustive_limit = {self.exhaustive_limit}: must not be negative")


@dataclass(frozen=True)
class ObjectiveSpec:
    """What is minimized: the geometric mean over `m_values` of the median time over the floor."""

    metric: Literal["cold", "warm"] = "cold"
    m_values: tuple[int, ...] = ()  # empty: all of the sweep's


@dataclass(frozen=True)
class BaselineSpec:
    """What a user would run instead, measured in the same run."""

    enabled: bool = True
    family: str = "two_kernel_sm90"
    config: dict[str, ParamValue] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfirmSpec:
    """How the winners are measured again: the `finalists` fastest at each M, `rounds` times each."""

    finalists: int = 2
    rounds: int = 3

    def __post_init__(self) -> None:
        if self.finalists < 1:
            raise ValueError(f"finalists = {self.finalists}: must be at least 1")
        if self.rounds < 0:
            raise ValueError(f"rounds = {self.rounds}: must not be negative")


@dataclass(frozen=True)
class SimulatorSpec:
    """What ends the search where the simulator stands in for a GPU; None: what ends it on a GPU."""

    trials: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        SearchSpec(trials=self.trials, minutes=self.minutes)  # the same limits


@dataclass(frozen=True)
class SweepSpec:
    """One sweep. Raises `ValueError` for values that make no sense together."""

    problem: RouterProblem
    family: str
    name: str = "sweep"
    target: str = "sm_90a"
    m_values: tuple[int, ...] = DEFAULT_M_VALUES
    quantize: bool = False  # raw activations, whose quantization is in the timed region then
    parameters: dict[str, tuple[ParamValue, ...]] = field(default_factory=dict)
    search: SearchSpec = SearchSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    baseline: BaselineSpec = BaselineSpec()
    confirm: ConfirmSpec = ConfirmSpec()
    simulator: SimulatorSpec = SimulatorSpec()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name = {self.name!r}: only letters, digits, '.', '_' and '-', it names files")
        if not self.m_values or self.m_values[0] < 1 or list(self.m_values) != sorted(set(self.m_values)):
            raise ValueError(f"m_values = {list(self.m_values)}: must be positive and strictly ascending")
        if self.m_values[-1] > MAX_M:
            raise ValueError(f"m_values: {self.m_values[-1]} tokens are too many: at most {MAX_M}")
        if self.problem.hidden > MAX_HIDDEN:
            raise ValueError(f"hidden = {self.problem.hidden}: must be at most {MAX_HIDDEN}")
        if foreign := sorted(set(self.objective.m_values) - set(self.m_values)):
            raise ValueError(f"objective.m_values: {foreign[0]} is not in m_values = {list(self.m_values)}")

    @property
    def objective_m_values(self) -> tuple[int, ...]:
        return self.objective.m_values or self.m_values

    def for_simulator(self) -> SweepSpec:
        """The sweep as the simulator runs it. A modelled time is the same when it is modelled again: nothing
        is confirmed. Raises `SpecError` where quantization is to be timed: it is not modelled."""
        if self.quantize:
            raise SpecError(
                "quantize = true: only a GPU can time the quantization of activations, which the simulator "
                "does not model: leave it out"
            )
        search = replace(
            self.search,
            trials=self.simulator.trials or self.search.trials,
            minutes=self.simulator.minutes or self.search.minutes,
        )
        return replace(self, search=search, confirm=replace(self.confirm, rounds=0))


def default_spec() -> str:
    """The committed sweep that is meant when none is named.

    Hopper's on a host with such a GPU; elsewhere Blackwell's, the kernel's home, in the simulator if need be.
    """
    hopper = TARGETS["sm_90a"] in visible_capabilities()
    return DEFAULT_SPEC if hopper else BLACKWELL_SPEC


def preset_names() -> tuple[str, ...]:
    """The committed sweeps, `default` first."""
    names = sorted(path.stem for path in PRESET_FOLDER.glob("*.toml"))
    return tuple(sorted(names, key=lambda name: name != DEFAULT_SPEC))


def find_spec(name_or_path: str) -> Path:
    """The file of a committed sweep's name, or of a path; raises `SpecError` naming the committed ones."""
    if name_or_path in preset_names():
        return PRESET_FOLDER / f"{name_or_path}.toml"
    if (path := Path(name_or_path)).is_file():
        return path
    raise SpecError(f"no sweep {name_or_path!r}: neither a file nor one of {', '.join(preset_names())}")


def load_spec(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> SweepSpec:
    """Read a committed sweep or a file. `overrides` are replaced in the table before it is checked, keyed by
    dotted names ("search.trials"). Raises `SpecError`, one line that starts with the file's path."""
    path = find_spec(name_or_path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: malformed TOML: {error}") from None  # it names line and column
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: {error}") from None
    table.setdefault("name", path.stem)
    for dotted, value in (overrides or {}).items():
        *tables, key = dotted.split(".")
        inner: Any = table
        for name in tables:
            inner = inner.setdefault(name, {})
        if isinstance(inner, dict):  # anything else is refused below, for what it is
            inner[key] = value
    try:
        return _convert(table)
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from None


def _convert(table: dict[str, Any]) -> SweepSpec:
    """A `SweepSpec` of a TOML table; raises `ValueError`."""
    if isinstance(name := table.get("problem"), str):
        table = {**table, "problem": msgspec.to_builtins(asdict(preset(name)))}
    elif isinstance(name, dict):
        table = {**table, "problem": {"name": "custom", **name}}
    _refuse_unknown(table, SweepSpec, "")
    try:
        spec = msgspec.convert(table, SweepSpec)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace(" - at `$.", " - at `")) from None
    family(spec.family)
    family(spec.baseline.family).config(spec.baseline.config)
    return spec


def _refuse_unknown(table: Mapping[str, Any], of: Any, where: str) -> None:
    """msgspec takes unknown keys of a dataclass silently; a sweep must not run with a misspelt option."""
    known = [f.name for f in fields(of)]
    hints = get_type_hints(of)
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"unknown key {where + key!r}: known are {', '.join(known)}")
        if is_dataclass(hints[key]) and isinstance(value, Mapping):
            _refuse_unknown(value, hints[key], f"{where}{key}.")

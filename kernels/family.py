"""A kernel family: one parameterized kernel, its search space and its single legality predicate.

Every family launches through the same positional signature, so that whoever runs an artifact needs to
know nothing about the kernel inside:

    launch(a, b, bias, alpha, workspace, weights, ids)

    a          [M, K] bf16, row-major, 16-byte aligned
    b          [E, K] bf16, row-major, 16-byte aligned
    bias       [E] fp32 (zeros where the problem has none)
    alpha      [1] fp32, on the device
    workspace  at least [workspace_elements(problem, config, M)] fp32, zeroed once by its owner; every launch
               of the family leaves in it what the next one needs, at any M
    weights    [M, k] fp32, written
    ids        [M, k] int32, written

The stream is the caller's current one. Nothing outside `workspace`, `weights` and `ids` is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kernels.problem import RouterProblem

# A parameter's value: what TOML, JSON and Optuna's categorical distribution can all carry.
ParamValue = int | bool | str


@dataclass(frozen=True)
class Rule:
    """One constraint of a family: why it refuses a config, or None, from the parameters in `reads` alone."""

    reads: tuple[str, ...]
    reason: Callable[[RouterProblem, Any], str | None]


class KernelFamily(ABC):
    """One parameterized kernel. A config is a frozen dataclass of `ParamValue` fields."""

    name: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]
    config_type: ClassVar[type[Any]]

    @abstractmethod
    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        """Every parameter with its choices, in the config's field order. Their product is the space."""

    @abstractmethod
    def illegal_reason(self, problem: RouterProblem, config: Any, target: str) -> str | None:
        """None when `config` is legal; otherwise one line that says why not. Never raises."""

    @abstractmethod
    def default_config(self, problem: RouterProblem, m: int) -> Any:
        """A legal config that is a fair choice at `m` tokens where nothing has been tuned yet."""

    @abstractmethod
    def compile(self, problem: RouterProblem, config: Any, target: str) -> Any:
        """Compile for `target` with M dynamic, GPU or not; the DSL's compiled function (TVM FFI).

        Raises whatever the compiler raises. `target` must equal the process's `CUTE_DSL_ARCH` where no
        GPU is present.
        """

    @abstractmethod
    def workspace_elements(self, problem: RouterProblem, config: Any, m: int) -> int:
        """How many fp32 elements `launch` wants as its workspace at `m` tokens (at least 1)."""

    @abstractmethod
    def source_files(self) -> tuple[Path, ...]:
        """The files that the compiled code depends on: they are part of an artifact's cache key."""

    def rules(self) -> tuple[Rule, ...]:
        """Constraints that `illegal_reason` applies, for an enumeration to drop partial configs by.

        None by default: then only whole configs are judged.
        """
        return ()

    def config(self, params: Mapping[str, ParamValue]) -> Any:
        """The config with these parameters; raises `ValueError` naming an unknown or missing one."""
        fields = set(self.config_type.__dataclass_fields__)
        if unknown := sorted(set(params) - fields):
            raise ValueError(
                f"{self.name} has no parameter {unknown[0]!r}: it has {', '.join(sorted(fields))}"
            )
        try:
            return self.config_type(**params)
        except TypeError as error:
            raise ValueError(f"{self.name}: {error}") from None

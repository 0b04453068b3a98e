"""A kernel family: one parameterized kernel, its search space and its single legality predicate.

Every family launches through the same positional signature but for its operands, whose format it names, so
that whoever runs an artifact needs to know nothing about the kernel inside:

    launch(*operands, bias, alpha, workspace, weights, ids)

    operands   OperandFormat.BF16: a, b
               OperandFormat.NVFP4: a, a_scale, b, b_scale
    bias       [E] fp32 (zeros where the problem has none)
    alpha      [1] fp32, on the device
    workspace  at least [workspace_elements(problem, config, M)] fp32, 32-byte aligned, zeroed once by its
               owner and never given to launches that may overlap; every launch of the family leaves in it
               what the next one needs, at any M
    weights    [M, k] fp32, written
    ids        [M, k] int32, written

In bf16, a is [M, K] and b [E, K], row-major and 16-byte aligned. In NVFP4 they are uint8 [M, K/2] and
[E, K/2], two e2m1 a byte, and a_scale and b_scale the bytes of the e4m3 scales, uint8 in the swizzled layout,
of `kernels.nvfp4.swizzled_shape`; the first rows of a larger a, with the first atoms of its scales, are fine.

The stream is the caller's current one. Nothing outside `workspace`, `weights` and `ids` is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from kernels.problem import RouterProblem

# A parameter's value: what TOML, JSON and Optuna's categorical distribution can all carry.
ParamValue = int | bool | str

DEFAULT_TOKEN_TILE = 128


class OperandFormat(StrEnum):
    """What a family multiplies."""

    BF16 = "bf16"
    NVFP4 = "nvfp4"


@dataclass(frozen=True)
class Rule:
    """One constraint of a family: why it refuses a config, or None, from the parameters in `reads` alone."""

    reads: tuple[str, ...]
    reason: Callable[[RouterProblem, Any], str | None]


def no_choice(problem: RouterProblem, config: Any) -> str | None:
    """A rule's reason in every family: of one row of weights the compiler makes a tensor without rows."""
    return "experts = 1: there is nothing to choose from" if problem.experts == 1 else None


def shared_sources() -> tuple[Path, ...]:
    """The files that the compiled code of every target depends on."""
    here = Path(__file__).parent
    return (here / "problem.py", *sorted((here / "device").glob("*.py")))


class KernelFamily(ABC):
    """One parameterized kernel. A config is a frozen dataclass of `ParamValue` fields."""

    name: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]
    config_type: ClassVar[type[Any]]
    operands: ClassVar[OperandFormat] = OperandFormat.BF16

    @abstractmethod
    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        """Every parameter with its choices, in the config's field order. Their product is the space."""

    def illegal_reason(self, problem: RouterProblem, config: Any, target: str) -> str | None:
        """None when `config` is legal; otherwise one line that says why not. Never raises.

        By default: another target, a value that is not among the choices, then the first rule that refuses.
        """
        if target not in self.targets:
            return f"target {target}: this kernel is for {', '.join(self.targets)}"
        for name, choices in self.space(problem).items():
            if getattr(config, name) not in choices:
                return f"{name} = {getattr(config, name)} is not one of {', '.join(map(str, choices))}"
        reasons = (rule.reason(problem, config) for rule in self.rules())
        return next((reason for reason in reasons if reason is not None), None)

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

    def token_tile(self, config: Any) -> int:
        """Tokens of one tile, around which tail shapes are worth a check."""
        return int(getattr(config, "tile_m", DEFAULT_TOKEN_TILE))

    def round_tokens(self, config: Any) -> int | None:
        """Tokens that one column of clusters takes before it goes on to the next ones; None, by default:
        every token tile has a cluster of its own."""
        return None

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

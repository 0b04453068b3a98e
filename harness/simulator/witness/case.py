"""What a case is: one example, called one way, on one small problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, ClassVar

from torch import Tensor


@dataclass(frozen=True)
class Prepared:
    """A compiled example and what to launch it on.

    `compiled` is the DSL's compiled function, `arguments` the CPU tensors of one launch. `result()` reads the
    output afterwards, in float64; it must lie within `bound` of `expected`, elementwise.
    """

    compiled: Any
    arguments: Sequence[Tensor]
    output: Tensor
    expected: Tensor
    bound: Tensor

    def result(self) -> Tensor:
        return self.output.double()


@dataclass(frozen=True)
class Case(ABC):
    """An example's file below `examples/python/CuTeDSL/cute`, and how it is called: the subclass's fields."""

    target: ClassVar[str]
    example: str

    @abstractmethod
    def prepare(self, example: ModuleType) -> Prepared:
        """Compile it for this process's target, and make seeded operands and the reference's result."""

    def call(self) -> dict[str, Any]:
        """The fields that make this case, for the table."""
        return {name: value for name, value in asdict(self).items() if name != "example"}

    @property
    def name(self) -> str:
        fields = " ".join(f"{name}={_spelled(value)}" for name, value in self.call().items())
        return f"{self.example} {fields}"


def _spelled(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)

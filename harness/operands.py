"""The inputs and outputs that timed launches run on, kept between trials of one problem."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch

from harness.timing import input_bytes
from kernels.problem import RouterProblem

BIAS_SCALE = 0.1


@dataclass(frozen=True)
class Inputs:
    """One set: a [M, K] and b [E, K] bf16, bias [E] and alpha [1] fp32, all on one device."""

    a: torch.Tensor
    b: torch.Tensor
    bias: torch.Tensor
    alpha: torch.Tensor


@dataclass(frozen=True)
class Outputs:
    """weights [M, k] fp32, ids [M, k] int32, and the workspace, fp32."""

    weights: torch.Tensor
    ids: torch.Tensor
    workspace: torch.Tensor

    @classmethod
    def poisoned(cls, problem: RouterProblem, m: int, workspace_elements: int, device: str) -> Outputs:
        """Outputs that no router can have written: NaN weights, ids of -1."""
        nan = float("nan")
        return cls(
            torch.full((m, problem.top_k), nan, device=device),
            torch.full((m, problem.top_k), -1, dtype=torch.int32, device=device),
            torch.zeros(workspace_elements, device=device),
        )

    def written(self) -> bool:
        """Whether every weight and id has been overwritten. Finite inputs give finite weights."""
        return bool((self.ids >= 0).all()) and not bool(self.weights.isnan().any())


def random_inputs(problem: RouterProblem, m: int, device: str, generator: torch.Generator) -> Inputs:
    """Normal activations and weights, scaled so that logits have unit variance, as a trained router's do.

    Not zeros: power, and with it the clock, depends on how many bits toggle.
    """

    def normal(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype) * scale

    return Inputs(
        a=normal(m, problem.hidden, dtype=torch.bfloat16),
        b=normal(problem.experts, problem.hidden, scale=problem.hidden**-0.5, dtype=torch.bfloat16),
        bias=normal(problem.experts, scale=BIAS_SCALE if problem.bias else 0.0),
        alpha=torch.ones(1, device=device),
    )


class InputCache:
    """Sets of inputs by problem and M, so that a trial does not draw them again; least recent first out."""

    def __init__(self, device: str, max_bytes: int) -> None:
        self._device = device
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[RouterProblem, int], list[Inputs]] = OrderedDict()

    def sets(self, problem: RouterProblem, m: int, count: int) -> list[Inputs]:
        """`count` different sets, the same at every call: a trial must not be luckier than another."""
        key = (problem, m)
        if len(self._kept.get(key, ())) < count:
            generator = torch.Generator(self._device).manual_seed(m)
            self._kept[key] = [random_inputs(problem, m, self._device, generator) for _ in range(count)]
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and self._bytes() > self._max_bytes:
            self._kept.popitem(last=False)
        return self._kept[key][:count]

    def _bytes(self) -> int:
        return sum(len(sets) * input_bytes(problem, m) for (problem, m), sets in self._kept.items())

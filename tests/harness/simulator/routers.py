"""Small Hopper routers for the simulator: what to compile, their operands, and what they must compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.simulator.run import Program
from kernels.families import family
from kernels.problem import RouterProblem
from kernels.reference import route
from kernels.sm90.config import Sm90Config

PROBLEM = RouterProblem("tiny", hidden=256, experts=64, top_k=6)
FAMILY = "fused_sm90"
ROUTERS = {
    "router_plain": Sm90Config(tile_m=64, tile_n=64, tile_k=64, stages=3, warpgroups=1),
    "router_cluster": Sm90Config(
        tile_m=64, tile_n=32, tile_k=64, stages=3, warpgroups=1, expert_split=2, multicast_a=True
    ),
    "router_split": Sm90Config(tile_m=64, tile_n=64, tile_k=64, stages=3, warpgroups=1, split_k=2),
}


def compile_router(name: str) -> Any:
    """The compiled function of one router."""
    return family(FAMILY).compile(PROBLEM, ROUTERS[name], "sm_90a")


class Operands:
    """Arguments of a launch at `tokens` tokens, and the reference's answer."""

    def __init__(self, name: str, tokens: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        k, experts, top_k = PROBLEM.hidden, PROBLEM.experts, PROBLEM.top_k
        self.a = torch.randn(tokens, k, generator=generator).bfloat16()
        self.b = (torch.randn(experts, k, generator=generator) * k**-0.5).bfloat16()
        self.bias = torch.randn(experts, generator=generator) * 0.1
        self.alpha = torch.ones(1)
        elements = family(FAMILY).workspace_elements(PROBLEM, ROUTERS[name], tokens)
        self.workspace = torch.zeros(max(1, elements))
        self.weights = torch.full((tokens, top_k), float("nan"))
        self.ids = torch.full((tokens, top_k), -1, dtype=torch.int32)

    def arguments(self) -> tuple[Tensor, ...]:
        return self.a, self.b, self.bias, self.alpha, self.workspace, self.weights, self.ids

    def launch(self, program: Program) -> None:
        program(*self.arguments())

    def mismatch(self) -> str:
        """Where the outputs differ from the float64 reference; "" when they do not."""
        weights, ids = route(self.a.double() @ self.b.double().T, PROBLEM, self.bias.double())
        if not torch.equal(ids.int(), self.ids):
            return f"{int((ids != self.ids).sum())} ids differ"
        error = float((weights - self.weights).abs().max())
        return "" if error < 1e-5 else f"weights differ by {error}"

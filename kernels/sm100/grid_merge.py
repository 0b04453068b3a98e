"""Partial lists in global memory, of clusters that share a tile's experts: a grid split's workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass.cute as cute
from cutlass import Int32

from kernels.device.topk import TopK
from kernels.problem import RouterProblem
from kernels.sm100.config import COUNTERS, Sm100Config


@dataclass(frozen=True)
class Published:
    """The workspace: arrival counters, then s, i and a of the lists, (k, grid_split, M) each."""

    counters: cute.Pointer
    s: cute.Tensor
    i: cute.Tensor
    a: cute.Tensor

    @classmethod
    def of_workspace(
        cls, problem: RouterProblem, config: Sm100Config, workspace: cute.Tensor, tokens: Any
    ) -> Published:
        lists = cute.make_layout((problem.top_k, config.grid_split, tokens))
        first = workspace.iterator + COUNTERS
        size = cute.size(lists)
        return cls(
            cute.recast_ptr(workspace.iterator, dtype=Int32),
            cute.make_tensor(first, lists),
            cute.make_tensor(cute.recast_ptr(first + size, dtype=Int32), lists),
            cute.make_tensor(first + 2 * size, lists),
        )

    def store(self, top: TopK, grid_rank: Int32, token: Int32) -> None:
        """Publish one row's list."""
        for held, tensor in zip((top.s, top.i, top.a), (self.s, self.i, self.a), strict=True):
            for p in range(top.k):
                tensor[p, grid_rank, token] = held[p]


def load_published(published: Published, top: TopK, grid_rank: Int32, token: Int32) -> None:
    """Read one row's list past the L1, which may hold what an earlier launch published there."""
    tensors = (published.s, published.i, published.a)
    for held, tensor in zip((top.s, top.i, top.a), tensors, strict=True):
        for p in range(top.k):
            address = tensor.iterator + cute.crd2idx((p, grid_rank, token), tensor.layout)
            held[p] = cute.arch.load(address, tensor.element_type, cop="cg")

"""Which tiles a CTA computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass.cute as cute
from cutlass import Boolean, Int32

from kernels.sm100.config import Sm100Config


@dataclass(frozen=True)
class Work:
    """One CTA's share of the problem.

    Attributes:
        first_token_tile, stride: its first token tile, and how many further on the next one is.
        token_tiles: how many there are; the CTAs of a cluster take the same number.
        first_expert_tile: the first of the expert tiles that it walks for each.
        first_k_tile: where its part of K begins.
        ranks: its place along cluster_m, the expert split and the K split.
        grid_rank: its cluster's place along the grid split.
        leads_mma: whether its MMA warp issues: alone, or for both CTAs of a pair.
    """

    first_token_tile: Int32
    stride: Int32
    token_tiles: Int32
    first_expert_tile: Int32
    first_k_tile: Int32
    ranks: tuple[Int32, Int32, Int32]
    grid_rank: Int32
    leads_mma: Boolean

    @classmethod
    def of_cta(cls, config: Sm100Config, n_tiles: int, k_tiles: int, tokens: Any) -> Work:
        """The share of the CTA that runs this; `n_tiles` and `k_tiles` are those of any one CTA."""
        c = config
        block, expert_block, k_rank = cute.arch.block_idx()
        blocks, _, _ = cute.arch.grid_dim()
        m_rank = block % c.cluster_m
        # The cluster's first tile counts, so that all of its CTAs make the same number of rounds.
        remaining = cute.ceil_div(tokens, c.token_tile) - (block - m_rank)
        return cls(
            block,
            blocks,
            cute.ceil_div(remaining, blocks),
            expert_block * n_tiles,
            k_rank * k_tiles,
            (m_rank, expert_block % c.expert_split, k_rank),
            expert_block // c.expert_split,
            block % c.cta_group == 0,
        )

    def token_tile(self, index: Int32) -> Int32:
        """The token tile of round `index`."""
        return self.first_token_tile + index * self.stride

"""Defects of the Blackwell kernel's loads, scale factors, tensor memory and products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import cutlass.cute as cute
from cutlass import Float8E4M3FN, Int32, pipeline
from cutlass.utils import blockscaled_layout

from kernels.nvfp4_layout import BLOCK
from kernels.problem import RouterProblem
from kernels.sm100 import gemm as gemm_module
from kernels.sm100.config import TILE_K, Sm100Config
from kernels.sm100.gemm import Sm100RouterGemm
from kernels.sm100.tiles import Tiles

# Scale factors.


class SfbFromMainMma(Tiles):
    """The scales of the columns are tiled by the main MMA: its CtaGroup, its columns."""

    def __init__(self, config: Sm100Config) -> None:
        super().__init__(config)
        self.mma_sfb, self.mnk_sfb, self.cluster_sfb = self.mma, self.mnk, self.cluster
        self.share_sfb = self.share_columns


class SfbFollowsCtaGroup(Tiles):
    """The scales of the columns get an MMA of their own, but of the main one's CtaGroup."""

    def __init__(self, config: Sm100Config) -> None:
        super().__init__(config)
        self.mnk_sfb = (config.mma_m, config.scale_columns, self.mnk[2])
        self.mma_sfb = self._tiled_mma(self.group, self.mnk_sfb)


class ScalesOfTheFirstHalfAtom(Tiles):
    def first_scale_column(self, column_tile: Int32) -> Int32:
        return Int32(0)


class ScalesOneColumnOn(Tiles):
    def first_scale_column(self, column_tile: Int32) -> Int32:
        return super().first_scale_column(column_tile) + 1


class ScaleTileOfTheColumns(Tiles):
    """A tile of 64 columns takes the scale atom of its own number, not of half of it."""

    def scale_tile(self, column_tile: Int32) -> Int32:
        return column_tile


def scales_with(order: tuple[int, int]) -> Callable[..., cute.Tensor]:
    """Scales whose atoms follow each other in this order of (rows, hidden size); (2, 1) is right."""

    def scales(swizzled: cute.Tensor, shape: tuple[Any, int]) -> cute.Tensor:
        atom = blockscaled_layout.BlockScaledBasicChunk(BLOCK).layout
        return e4m3(swizzled, cute.tile_to_shape(atom, shape, order))

    return scales


def e4m3(swizzled: cute.Tensor, layout: Any) -> cute.Tensor:
    return cute.make_tensor(cute.recast_ptr(swizzled.iterator, dtype=Float8E4M3FN), layout)


def turned_scales(swizzled: cute.Tensor, shape: tuple[Any, int]) -> cute.Tensor:
    """An atom whose 4 groups of 32 rows lie where its 4 scales of a row should, and the other way round."""
    atom = cute.make_layout(((32, 4), (16, 4)), stride=((16, 1), (0, 4)))
    return e4m3(swizzled, cute.tile_to_shape(atom, shape, (2, 1)))


def plain_scales(swizzled: cute.Tensor, shape: tuple[Any, int]) -> cute.Tensor:
    """Scales as if they lay row after row."""
    rows, hidden = shape
    row = hidden // BLOCK
    layout = cute.make_layout(
        (((32, 4), cute.ceil_div(rows, 128)), ((BLOCK, 4), cute.ceil_div(hidden, 4 * BLOCK))),
        stride=(((row, 32 * row), 128 * row), ((0, 1), 4)),
    )
    return e4m3(swizzled, layout)


# Tensor memory.


class ScalesOverAccumulator(Sm100Config):
    """The scale factors begin in the accumulators' last columns."""

    @property
    def accumulator_columns(self) -> int:
        return super().accumulator_columns - 16


class ScalesOverOtherAccumulator(Sm100Config):
    """The scale factors lie where the second accumulator is."""

    @property
    def accumulator_columns(self) -> int:
        return self.mma_n


class AllocatedTooSmall(Sm100Config):
    @property
    def tmem_allocation(self) -> int:
        return super().tmem_allocation // 2


class ReleasedOneSubtileEarly(Sm100Config):
    @property
    def iter_acc_early_release(self) -> int | None:
        step = super().iter_acc_early_release
        return None if step is None else step - 1


# The ring.


def with_bytes(change: Callable[[Tiles], int]) -> type[Tiles]:
    class Mutant(Tiles):
        def load_bytes(self) -> int:
            return super().load_bytes() + change(self)

    return Mutant


class OwnBarrier(Tiles):
    """Each CTA of a pair tells its own barrier what it loads, not the leader's."""

    def _op(self, ctas: int) -> Any:
        group, self.group = self.group, gemm_module.tcgen05.CtaGroup.ONE
        op = super()._op(ctas)
        self.group = group
        return op


def masked_by(change: Callable[[Any], Any]) -> type[Tiles]:
    class Mutant(Tiles):
        def loads(self, tma: Any, rings: Any, rank: Int32) -> Any:
            return [
                replace(load, mask=None if load.mask is None else change(load.mask))
                for load in super().loads(tma, rings, rank)
            ]

    return Mutant


class LastKTileSkipped(Sm100RouterGemm):
    def __init__(self, problem: RouterProblem, config: Sm100Config, epilogue: Any) -> None:
        super().__init__(problem, config, epilogue)
        self.k_tiles -= 1


class ConsumerSkipsAKTile(Sm100RouterGemm):
    """The MMA warp takes one K tile less than TMA brings."""

    @cute.jit
    def multiply(
        self, ring: Any, accumulators: Any, tiled_mma: Any, rings: Any, base: Any, work: Any
    ) -> None:
        self.k_tiles -= 1
        super().multiply(ring, accumulators, tiled_mma, rings, base, work)
        self.k_tiles += 1


class KRankIgnored(Sm100RouterGemm):
    """Every CTA of a K split loads the first part of K."""

    @cute.jit
    def produce(self, ring: Any, loads: Any, work: Any) -> None:
        super().produce(ring, loads, replace(work, first_k_tile=Int32(0)))


class KTailSkipped(Sm100RouterGemm):
    """K tiles are counted as if K were a multiple of one."""

    def __init__(self, problem: RouterProblem, config: Sm100Config, epilogue: Any) -> None:
        super().__init__(problem, config, epilogue)
        self.k_tiles = problem.hidden // TILE_K


class StaleRingPhase(Sm100RouterGemm):
    """The MMA warp begins with the phase that the ring is in before the first load."""

    @cute.jit
    def multiply(
        self, ring: Any, accumulators: Any, tiled_mma: Any, rings: Any, base: Any, work: Any
    ) -> None:
        producer = pipeline.PipelineUserType.Producer

        def stale(kind: Any, stages: int) -> Any:
            return pipeline_state(producer, stages)

        with patch.object(gemm_module.pipeline, "make_pipeline_state", stale):
            super().multiply(ring, accumulators, tiled_mma, rings, base, work)


pipeline_state = pipeline.make_pipeline_state


def arrive_plainly(self: Any, state: Any) -> None:
    with cute.arch.elect_one():
        cute.arch.mbarrier_arrive(self.sync_object_empty.get_barrier(state.index))


class ReleasesByTheWarp(Sm100RouterGemm):
    """The MMA warp gives a stage back when it has issued the products, not when they are complete."""

    @cute.jit
    def multiply(
        self, ring: Any, accumulators: Any, tiled_mma: Any, rings: Any, base: Any, work: Any
    ) -> None:
        with patch.object(pipeline.PipelineTmaUmma, "consumer_release", arrive_plainly):
            super().multiply(ring, accumulators, tiled_mma, rings, base, work)


class SameRound(Sm100RouterGemm):
    """Every round loads the tokens of the first one."""

    def mma_tile(self, work: Any, index: Int32, tile: Int32) -> tuple[Int32, Int32]:
        return super().mma_tile(work, Int32(0), tile)


class TokenTileOfTheCta(Sm100RouterGemm):
    """A pair's tiles are counted in CTAs' tiles."""

    def mma_tile(self, work: Any, index: Int32, tile: Int32) -> tuple[Int32, Int32]:
        return work.token_tile(index), work.first_expert_tile + tile

"""How the Blackwell test GEMMs move operands: by TMA into shared memory, scales on into tensor memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import cpasync, tcgen05
from cutlass.memory import SmemAllocator
from cutlass.utils.blockscaled_layout import BlockScaledBasicChunk

# Swizzle atoms of 128 bytes x 8 rows begin at multiples of their size.
STAGE_ALIGNMENT = 1024


class Operand(NamedTuple):
    """One matrix's way through TMA: its atom, the tensor of TMA coordinates, its layout in shared memory."""

    tma: cute.CopyAtom
    coordinates: cute.Tensor
    layout: Any


class Flow(NamedTuple):
    """What one CTA loads of an operand: `source` by K tile, `target` by stage, `mask` of the receivers."""

    tma: cute.CopyAtom
    source: cute.Tensor
    target: cute.Tensor
    mask: Any


def one_stage(layout: Any) -> Any:
    """One stage of a layout (MMA, MMA_MN, MMA_K, STAGE)."""
    return cute.slice_(layout, (None, None, None, 0))


def allocate_stages(smem: SmemAllocator, dtype: Any, layout: cute.ComposedLayout) -> cute.Tensor:
    return smem.allocate_tensor(
        element_type=dtype, layout=layout.outer, byte_alignment=STAGE_ALIGNMENT, swizzle=layout.inner
    )


def scale_layout(operand: cute.Tensor, block: int) -> cute.Layout:
    """An operand's scale factors by its own (row, k), in atoms of 128 rows x 4 scales.

    The atom is that of PTX ISA, "tcgen05.mma scale factor layouts"; K is walked first, as in
    `kernels.nvfp4.swizzle_scales`.
    """
    return cute.tile_to_shape(BlockScaledBasicChunk(block).layout, operand.shape, (2, 1))


def overlap_tiles_of_192(coordinates: cute.Tensor) -> cute.Tensor:
    """B's scale factors as tiles of 256 rows, of which tile t holds the rows from 192 t to 192 t + 191.

    Two tiles of 192 are three atoms of 128. The even one reads atoms 0 and 1, the odd one atoms 1 and 2, of
    which it skips the first 64 rows.
    """
    (rows, atoms), k = coordinates.shape
    (row_stride, atom_stride), k_stride = coordinates.stride
    shape = ((rows, ((2, 2), cute.ceil_div(atoms, 3))), k)
    stride = ((row_stride, ((atom_stride, atom_stride), 3 * atom_stride)), k_stride)
    return cute.make_tensor(coordinates.iterator, cute.make_layout(shape, stride=stride))


def route(
    operand: Operand,
    stages: cute.Tensor,
    partition: Callable[[cute.Tensor], cute.Tensor],
    tiler: tuple[int, int],
    tile: Int32,
    vmnk: cute.Layout,
    mode: int,
) -> Flow:
    """This CTA's part of an operand's loads.

    `tiler` is the operand's tile (rows, K), `partition` takes the CTA's half of a pair's tile. Along `mode`
    of the cluster (1: M, 2: N) all CTAs need the same data: each loads a slice and multicasts it.
    """
    rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
    place = vmnk.get_flat_coord(rank)
    tiles = partition(cute.local_tile(operand.coordinates, tiler, (None, None)))
    target, source = cpasync.tma_partition(
        operand.tma,
        place[mode],
        cute.make_layout(cute.size(vmnk, mode=[mode])),
        cute.group_modes(stages, 0, 3),
        cute.group_modes(tiles, 0, 3),
    )
    # A multicast atom has a mask even where the only receivers are the CTA itself and its pair's other half.
    mask = None
    if isinstance(operand.tma.op, cpasync.CopyBulkTensorTileG2SMulticastOp):
        mask = cpasync.create_tma_multicast_mask(vmnk, place, mcast_mode=mode)
    return Flow(operand.tma, cute.filter_zeros(source)[(None, tile, None)], cute.filter_zeros(target), mask)


@dataclass(frozen=True)
class TmemScales:
    """One operand's scale factors in tensor memory: copied stage by stage to `written`, read at `of_mma`."""

    copy: cute.TiledCopy
    source: cute.Tensor
    written: cute.Tensor
    of_mma: cute.Tensor

    @staticmethod
    def make(
        group: tcgen05.CtaGroup, stages: cute.Tensor, scales: cute.Tensor, of_mma: cute.Tensor
    ) -> TmemScales:
        """`stages` in shared memory and `scales` in tensor memory, both (MMA, MMA_MN, MMA_K, ...).

        `tcgen05.cp.4x32x128b` copies the 32 lanes of an atom to all four quarters of tensor memory.
        """
        compact = cute.filter_zeros(scales)
        atom = cute.make_copy_atom(tcgen05.Cp4x32x128bOp(group), scales.element_type)
        copy = tcgen05.make_s2t_copy(atom, compact)
        this = copy.get_slice(0)
        source = tcgen05.get_s2t_smem_desc_tensor(copy, this.partition_S(cute.filter_zeros(stages)))
        return TmemScales(copy, source, this.partition_D(compact), of_mma)

    def load_stage(self, stage: Int32) -> None:
        cute.copy(self.copy, self.source[(None, None, None, None, stage)], self.written)


def fence_after_thread_sync() -> None:
    """Order the tcgen05 operations that follow after the barrier just waited for (PTX ISA, tcgen05.fence)."""
    cute.arch.inline_ptx("tcgen05.fence::after_thread_sync;")


def fence_before_thread_sync() -> None:
    """Order the tcgen05 operations so far before the barrier that follows (PTX ISA, tcgen05.fence)."""
    cute.arch.inline_ptx("tcgen05.fence::before_thread_sync;")

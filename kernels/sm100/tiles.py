"""The MMA, its tiles, and what TMA brings in for it: both operands and their scale factors.

The scale factors of the column operand have an MMA of their own in all that concerns tiling: CtaGroup ONE,
because both CTAs of a pair need all of them, and columns rounded up to 128, the rows of a scale atom. With 64
or 192 columns a tile therefore begins in the middle of an atom every other time (`first_scale_column`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass.cute as cute
from cutlass import Float4E2M1FN, Float8E4M3FN, Int16, Int32
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, tcgen05
from cutlass.utils import blackwell_helpers as sm100_utils
from cutlass.utils import blockscaled_layout

from kernels.nvfp4_layout import BLOCK, SCALE_ROWS
from kernels.sm100.config import SCALE_ROWS_PER_COLUMN, TILE_K, Sm100Config

STAGE = (None, None, None, 0)
LOADS = ("a", "b", "sfa", "sfb")


@dataclass(frozen=True)
class Load:
    """One of the four tensors that TMA loads, as one CTA sees it.

    `source` is ((atom), tiles, K tiles) and `ring` ((atom), stages); `mask` names the CTAs of the cluster
    that receive what this one loads, None where it loads for itself.
    """

    atom: cute.CopyAtom
    source: cute.Tensor
    ring: cute.Tensor
    mask: Any


@dataclass(frozen=True)
class Sharing:
    """How `ctas` CTAs along one mode of the cluster, where ours is at `place`, share a load."""

    cluster: cute.Layout
    place: Any
    mode: int
    ctas: int

    @property
    def part(self) -> Any:
        """Which part of the tile we load."""
        return self.place[self.mode] if self.ctas > 1 else 0

    @property
    def mask(self) -> Any:
        """Who receives our part."""
        if self.ctas == 1:
            return None
        return cpasync.create_tma_multicast_mask(self.cluster, self.place, mcast_mode=self.mode)


class Tiles:
    """Tiled MMAs, shared-memory layouts and TMA atoms of one config: A holds the rows, B the columns."""

    def __init__(self, config: Sm100Config) -> None:
        c = config
        self.config = config
        group = tcgen05.CtaGroup.ONE if c.cta_group == 1 else tcgen05.CtaGroup.TWO
        self.group = group
        self.mnk = (c.mma_m, c.mma_n, TILE_K)
        self.mnk_sfb = (c.rows, c.scale_columns, TILE_K)
        self.mma = self._tiled_mma(group, self.mnk)
        self.mma_sfb = self._tiled_mma(tcgen05.CtaGroup.ONE, self.mnk_sfb)
        # Multicast of the MMA's operands: its rows are shared along N, its columns along M.
        a_shape = (c.cluster_m, c.expert_split, c.split_k)
        shape = (c.expert_split, 1, c.split_k) if c.swap_operands else a_shape
        self.cluster = cute.tiled_divide(cute.make_layout(shape), (self.mma.thr_id.shape,))
        self.cluster_sfb = cute.tiled_divide(cute.make_layout(shape), (self.mma_sfb.thr_id.shape,))
        tokens, experts = c.a_multicast, c.cluster_m // c.cta_group
        self.share_rows, self.share_columns = (experts, tokens) if c.swap_operands else (tokens, experts)
        self.share_sfb = tokens if c.swap_operands else c.cluster_m
        self.layouts = {
            "a": sm100_utils.make_smem_layout_a(self.mma, self.mnk, Float4E2M1FN, c.stages),
            "b": sm100_utils.make_smem_layout_b(self.mma, self.mnk, Float4E2M1FN, c.stages),
            "sfa": blockscaled_layout.make_smem_layout_sfa(self.mma, self.mnk, BLOCK, c.stages),
            "sfb": blockscaled_layout.make_smem_layout_sfb(self.mma, self.mnk, BLOCK, c.stages),
        }

    def _tiled_mma(self, group: tcgen05.CtaGroup, mnk: tuple[int, int, int]) -> cute.TiledMma:
        return sm100_utils.make_blockscaled_trivial_tiled_mma(
            Float4E2M1FN,
            Float4E2M1FN,
            OperandMajorMode.K,
            OperandMajorMode.K,
            Float8E4M3FN,
            BLOCK,
            group,
            mnk[:2],
        )

    def tma(self, rows: cute.Tensor, sfa: cute.Tensor, columns: cute.Tensor, sfb: cute.Tensor) -> Any:
        """The four TMA atoms with the tensors they read, in the order of `LOADS`.

        `rows` and `columns` are bytes [R, K/2]; `sfa` and `sfb` their swizzled scales as bytes.
        """
        stage = {name: cute.slice_(layout, STAGE) for name, layout in self.layouts.items()}
        a, b = elements(rows), elements(columns)
        shares = (1, self.share_columns, self.share_rows, 1)
        shares_sfb = (1, self.share_sfb, 1, 1)
        return (
            cute.nvgpu.make_tiled_tma_atom_A(
                self._op(self.share_rows), a, stage["a"], self.mnk, self.mma, shares
            ),
            cute.nvgpu.make_tiled_tma_atom_B(
                self._op(self.share_columns), b, stage["b"], self.mnk, self.mma, shares
            ),
            cute.nvgpu.make_tiled_tma_atom_A(
                self._op(self.share_rows),
                scales(sfa, a.shape),
                stage["sfa"],
                self.mnk,
                self.mma,
                shares,
                internal_type=Int16,
            ),
            self._pair_up(
                *cute.nvgpu.make_tiled_tma_atom_B(
                    self._op(self.share_sfb),
                    scales(sfb, b.shape),
                    stage["sfb"],
                    self.mnk_sfb,
                    self.mma_sfb,
                    shares_sfb,
                    internal_type=Int16,
                )
            ),
        )

    def _op(self, ctas: int) -> Any:
        if ctas == 1:
            return cpasync.CopyBulkTensorTileG2SOp(self.group)
        return cpasync.CopyBulkTensorTileG2SMulticastOp(self.group)

    def _pair_up(self, atom: cute.CopyAtom, source: cute.Tensor) -> tuple[cute.CopyAtom, cute.Tensor]:
        """With 192 columns, tiles 2 i and 2 i + 1 read the atoms 3 i, 3 i + 1 and 3 i + 1, 3 i + 2."""
        if self.config.mma_n != 192:
            return atom, source
        (rows, atoms), k = source.shape
        (row_stride, atom_stride), k_stride = source.stride
        layout = cute.make_layout(
            ((rows, ((2, 2), cute.ceil_div(atoms, 3))), k),
            stride=((row_stride, ((atom_stride, atom_stride), 3 * atom_stride)), k_stride),
        )
        return atom, cute.make_tensor(source.iterator, layout)

    def load_bytes(self) -> int:
        """What the loads of all CTAs of an MMA bring into one stage, which its leader's mbarrier counts."""
        dtypes = {"a": Float4E2M1FN, "b": Float4E2M1FN, "sfa": Float8E4M3FN, "sfb": Float8E4M3FN}
        of_cta = (cute.size_in_bytes(dtypes[name], cute.slice_(self.layouts[name], STAGE)) for name in LOADS)
        return int(self.config.cta_group * sum(of_cta))

    def loads(self, tma: Any, rings: dict[str, cute.Tensor], rank: Int32) -> list[Load]:
        """Partition what CTA `rank` of the cluster loads, in the order of `LOADS`."""
        place, place_sfb = self.cluster.get_flat_coord(rank), self.cluster_sfb.get_flat_coord(rank)
        of_cta, of_cta_sfb = self.mma.get_slice(place[0]), self.mma_sfb.get_slice(0)
        rows = Sharing(self.cluster, place, 2, self.share_rows)
        columns = Sharing(self.cluster, place, 1, self.share_columns)
        columns_sfb = Sharing(self.cluster_sfb, place_sfb, 1, self.share_sfb)
        plan = (
            (self.mnk[::2], of_cta.partition_A, rows),
            (self.mnk[1:], of_cta.partition_B, columns),
            (self.mnk[::2], of_cta.partition_A, rows),
            (self.mnk_sfb[1:], of_cta_sfb.partition_B, columns_sfb),
        )
        loads = []
        for name, (atom, source), (tiler, partition, sharing) in zip(LOADS, tma, plan, strict=True):
            to_ring, from_source = cpasync.tma_partition(
                atom,
                sharing.part,
                cute.make_layout(sharing.ctas),
                cute.group_modes(rings[name], 0, 3),
                cute.group_modes(partition(cute.local_tile(source, tiler, (None, None))), 0, 3),
            )
            # Along the 16 elements that share a scale the layouts of scales have a stride of 0.
            loads.append(Load(atom, cute.filter_zeros(from_source), cute.filter_zeros(to_ring), sharing.mask))
        return loads

    def scale_tensor_a(self, base: cute.Pointer) -> cute.Tensor:
        """The scales of a stage's rows in tensor memory, at `base`."""
        layout = blockscaled_layout.make_tmem_layout_sfa(
            self.mma, self.mnk, BLOCK, cute.slice_(self.layouts["sfa"], STAGE)
        )
        return cute.make_tensor(cute.recast_ptr(base, dtype=Float8E4M3FN), layout)

    def scale_tensor_b(self, base: cute.Pointer) -> cute.Tensor:
        """The scales of a stage's columns in tensor memory, at `base`."""
        layout = blockscaled_layout.make_tmem_layout_sfb(
            self.mma, self.mnk, BLOCK, cute.slice_(self.layouts["sfb"], STAGE)
        )
        return cute.make_tensor(cute.recast_ptr(base, dtype=Float8E4M3FN), layout)

    def scale_copy(
        self, ring: cute.Tensor, scale: cute.Tensor
    ) -> tuple[cute.TiledCopy, cute.Tensor, cute.Tensor]:
        """The copy of a stage's scales to tensor memory: the copy, its sources (by stage), its destination.

        The scales of 32 rows are written to all four subpartitions of 32 lanes (PTX ISA, tcgen05.cp
        .32x128b.warpx4).
        """
        ring, scale = cute.filter_zeros(ring), cute.filter_zeros(scale)
        atom = cute.make_copy_atom(tcgen05.Cp4x32x128bOp(self.group), Float8E4M3FN)
        copy = tcgen05.make_s2t_copy(atom, scale)
        of_warp = copy.get_slice(0)
        source = tcgen05.get_s2t_smem_desc_tensor(copy, of_warp.partition_S(ring))
        return copy, source, of_warp.partition_D(scale)

    def scale_tile(self, column_tile: Int32) -> Int32:
        """The tile of column scales that a tile of columns reads: one of 128 holds two tiles of 64."""
        return column_tile // 2 if self.config.mma_n == SCALE_ROWS // 2 else column_tile

    def first_scale_column(self, column_tile: Int32) -> Int32:
        """Where in its scales' tensor memory a tile of columns begins: half an atom in, if it is odd."""
        if self.config.mma_n % SCALE_ROWS == 0:
            return Int32(0)
        return column_tile % 2 * (SCALE_ROWS // 2 // SCALE_ROWS_PER_COLUMN)


def elements(packed: cute.Tensor) -> cute.Tensor:
    """Bytes [R, K/2] as e2m1 [R, K]."""
    rows, packed_columns = packed.shape
    hidden = 2 * packed_columns
    pointer = cute.recast_ptr(packed.iterator, dtype=Float4E2M1FN)
    return cute.make_tensor(pointer, cute.make_layout((rows, hidden), stride=(hidden, 1)))


def scales(swizzled: cute.Tensor, shape: tuple[Any, int]) -> cute.Tensor:
    """The swizzled bytes of e4m3 scales as the tensor that lies over operand elements of `shape`."""
    pointer = cute.recast_ptr(swizzled.iterator, dtype=Float8E4M3FN)
    atom = blockscaled_layout.BlockScaledBasicChunk(BLOCK).layout
    return cute.make_tensor(pointer, cute.tile_to_shape(atom, shape, (2, 1)))

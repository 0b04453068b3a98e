"""GEMMs for Blackwell, small and complete: TMA loads, `tcgen05.mma` into tensor memory, TMA stores.

One tile of C for each CTA (or pair of CTAs). Six warps: four drain the accumulator, one issues the MMAs, one
the loads. A ring of shared-memory stages runs between the loads and the MMAs. Block-scaled formats load scale
factors beside each stage's operands and copy them into tensor memory before the stage's MMAs.

M, N and K are dynamic. TMA fills what lies past an edge with zeros and clips the stores there.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import (
    BFloat16,
    Float4E2M1FN,
    Float8E4M3FN,
    Float8E8M0FNU,
    Float16,
    Float32,
    Int16,
    Int32,
    Int64,
    TFloat32,
    const_expr,
    pipeline,
)
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, tcgen05
from cutlass.memory import SmemAllocator, TmemAllocator
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import blackwell_helpers as sm100_utils
from cutlass.utils import blockscaled_layout

from tests.harness.simulator.gemm_epilogue import EPILOGUE_THREADS, store_accumulator
from tests.harness.simulator.gemm_moves import (
    STAGE_ALIGNMENT,
    Operand,
    TmemScales,
    allocate_stages,
    fence_after_thread_sync,
    one_stage,
    overlap_tiles_of_192,
    route,
    scale_layout,
)
from tests.harness.simulator.gemm_params import STORE_STAGES, SUBTILE_COLUMNS, SUBTILE_ROWS, GemmParams

WARP = 32
MMA_WARP = 4
TMA_WARP = 5
THREADS = 6 * WARP
TMEM_BARRIER = 2

ELEMENTS: dict[str, Any] = {
    "f16": Float16,
    "bf16": BFloat16,
    "tf32": Float32,
    "f8": Float8E4M3FN,
    "nvf4": Float4E2M1FN,
    "mxf4": Float4E2M1FN,
    "mxf8": Float8E4M3FN,
}
SCALES: dict[str, Any] = {"nvf4": Float8E4M3FN, "mxf4": Float8E8M0FNU, "mxf8": Float8E8M0FNU}


class Sm100Gemm:
    """The kernel of one `GemmParams`."""

    def __init__(self, params: GemmParams) -> None:
        if reason := params.why_illegal():
            raise ValueError(reason)
        self.params = params
        self.element = ELEMENTS[params.format]
        self.scale = SCALES.get(params.format)
        self.group = tcgen05.CtaGroup.TWO if params.two_cta else tcgen05.CtaGroup.ONE
        self.ctas = 2 if params.two_cta else 1
        self.tiler = (params.mma_m, params.mma_n, params.stage_k)
        # B's scale factors come in atoms of 128 rows whatever N is, and each CTA of a pair needs all of them.
        self.tiler_sfb = (SUBTILE_ROWS, params.scale_rows_n, params.stage_k)

    @cute.jit
    def __call__(
        self, a: cute.Tensor, b: cute.Tensor, scales_a: Any, scales_b: Any, c: cute.Tensor, stream: Any
    ) -> None:
        """Launch on `stream`: a [M, K], b [N, K], c [M, N]; scales are in atoms of 128 rows x 4, or None."""
        p = self.params
        mma = self.make_mma(self.group, self.tiler[:2])
        cluster = cute.make_layout((*p.cluster, 1))
        vmnk = cute.tiled_divide(cluster, (mma.thr_id.shape,))
        load_a, load_b = self.operand_a(a, mma, vmnk), self.operand_b(b, mma, vmnk)
        load_sfa, load_sfb, mma_sfb, vmnk_sfb = None, None, None, None
        if const_expr(p.scaled):
            mma_sfb = self.make_mma(tcgen05.CtaGroup.ONE, self.tiler_sfb[:2])
            vmnk_sfb = cute.tiled_divide(cluster, (mma_sfb.thr_id.shape,))
            load_sfa = self.operand_sfa(scales_a, a, mma, vmnk)
            load_sfb = self.operand_sfb(scales_b, b, mma, mma_sfb, vmnk_sfb)

        subtile = (SUBTILE_ROWS, SUBTILE_COLUMNS)
        store_layout = sm100_utils.make_smem_layout_epi(Float32, LayoutEnum.ROW_MAJOR, subtile, STORE_STAGES)
        store_tma, store_coordinates = cpasync.make_tiled_tma_atom(
            cpasync.CopyBulkTensorTileS2GOp(), c, cute.slice_(store_layout, (None, None, 0)), subtile
        )

        @cute.struct
        class SharedStorage:
            ring: cute.struct.MemRange[Int64, 2 * p.stages]
            accumulator: cute.struct.MemRange[Int64, 2]
            tmem_freed: Int64
            tmem_address: Int32

        self.shared_storage = SharedStorage
        self.kernel(
            mma,
            mma_sfb,
            load_a,
            load_b,
            load_sfa,
            load_sfb,
            Operand(store_tma, store_coordinates, store_layout),
            vmnk,
            vmnk_sfb,
        ).launch(
            grid=(
                cute.round_up(cute.ceil_div(c.shape[0], SUBTILE_ROWS), p.cluster[0]),
                cute.round_up(cute.ceil_div(c.shape[1], p.mma_n), p.cluster[1]),
                1,
            ),
            block=(THREADS, 1, 1),
            cluster=(*p.cluster, 1),
            min_blocks_per_mp=1,
            stream=stream,
        )

    def make_mma(self, group: tcgen05.CtaGroup, shape_mn: tuple[int, int]) -> cute.TiledMma:
        k_major = OperandMajorMode.K
        if self.params.scaled:
            return sm100_utils.make_blockscaled_trivial_tiled_mma(
                self.element,
                self.element,
                k_major,
                k_major,
                self.scale,
                self.params.operand.scale_block,
                group,
                shape_mn,
            )
        element = TFloat32 if self.element is Float32 else self.element
        return sm100_utils.make_trivial_tiled_mma(
            element, element, k_major, k_major, Float32, group, shape_mn
        )

    def operand_a(self, a: cute.Tensor, mma: cute.TiledMma, vmnk: cute.Layout) -> Operand:
        layout = sm100_utils.make_smem_layout_a(mma, self.tiler, self.element, self.params.stages)
        op = sm100_utils.cluster_shape_to_tma_atom_A(self.params.cluster, mma.thr_id)
        tma = cute.nvgpu.make_tiled_tma_atom_A(
            op, a, one_stage(layout), self.tiler, mma, vmnk.shape, internal_type=self.tma_type
        )
        return Operand(*tma, layout)

    def operand_b(self, b: cute.Tensor, mma: cute.TiledMma, vmnk: cute.Layout) -> Operand:
        layout = sm100_utils.make_smem_layout_b(mma, self.tiler, self.element, self.params.stages)
        op = sm100_utils.cluster_shape_to_tma_atom_B(self.params.cluster, mma.thr_id)
        tma = cute.nvgpu.make_tiled_tma_atom_B(
            op, b, one_stage(layout), self.tiler, mma, vmnk.shape, internal_type=self.tma_type
        )
        return Operand(*tma, layout)

    @property
    def tma_type(self) -> Any:
        """What TMA reads the operands as, where it is not what they are: it rounds fp32 to tf32."""
        return TFloat32 if self.element is Float32 else None

    def operand_sfa(
        self, scales: cute.Tensor, a: cute.Tensor, mma: cute.TiledMma, vmnk: cute.Layout
    ) -> Operand:
        block = self.params.operand.scale_block
        layout = blockscaled_layout.make_smem_layout_sfa(mma, self.tiler, block, self.params.stages)
        op = sm100_utils.cluster_shape_to_tma_atom_A(self.params.cluster, mma.thr_id)
        source = cute.make_tensor(scales.iterator, scale_layout(a, block))
        tma = cute.nvgpu.make_tiled_tma_atom_A(
            op, source, one_stage(layout), self.tiler, mma, vmnk.shape, internal_type=Int16
        )
        return Operand(*tma, layout)

    def operand_sfb(
        self,
        scales: cute.Tensor,
        b: cute.Tensor,
        mma: cute.TiledMma,
        mma_sfb: cute.TiledMma,
        vmnk_sfb: cute.Layout,
    ) -> Operand:
        block = self.params.operand.scale_block
        layout = blockscaled_layout.make_smem_layout_sfb(mma, self.tiler, block, self.params.stages)
        op = sm100_utils.cluster_shape_to_tma_atom_SFB(self.params.cluster, mma.thr_id)
        source = cute.make_tensor(scales.iterator, scale_layout(b, block))
        atom, coordinates = cute.nvgpu.make_tiled_tma_atom_B(
            op, source, one_stage(layout), self.tiler_sfb, mma_sfb, vmnk_sfb.shape, internal_type=Int16
        )
        if self.params.mma_n == 192:
            coordinates = overlap_tiles_of_192(coordinates)
        return Operand(atom, coordinates, layout)

    @cute.kernel
    def kernel(
        self,
        mma: cute.TiledMma,
        mma_sfb: Any,
        load_a: Operand,
        load_b: Operand,
        load_sfa: Any,
        load_sfb: Any,
        store: Operand,
        vmnk: cute.Layout,
        vmnk_sfb: Any,
    ) -> None:
        p = self.params
        thread, _, _ = cute.arch.thread_idx()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        m_block, n_tile, _ = cute.arch.block_idx()
        m_tile, pair_rank = m_block // self.ctas, m_block % self.ctas

        smem = SmemAllocator()
        storage = smem.allocate(self.shared_storage)
        ring_a = allocate_stages(smem, self.element, load_a.layout)
        ring_b = allocate_stages(smem, self.element, load_b.layout)
        stores = allocate_stages(smem, Float32, store.layout)
        ring_sfa, ring_sfb = None, None
        if const_expr(p.scaled):
            ring_sfa = smem.allocate_tensor(self.scale, load_sfa.layout, STAGE_ALIGNMENT)
            ring_sfb = smem.allocate_tensor(self.scale, load_sfb.layout, STAGE_ALIGNMENT)

        one_thread = pipeline.CooperativeGroup(pipeline.Agent.Thread)
        # A stage is free when the MMAs of every CTA that shares its data have read it: a row and a column.
        sharers = cute.size(vmnk.shape[1]) + cute.size(vmnk.shape[2]) - 1
        ring = pipeline.PipelineTmaUmma.create(
            barrier_storage=storage.ring.data_ptr(),
            num_stages=p.stages,
            producer_group=one_thread,
            consumer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, sharers),
            tx_count=p.stage_bytes * self.ctas,
            cta_layout_vmnk=vmnk,
            defer_sync=True,
        )
        accumulated = pipeline.PipelineUmmaAsync.create(
            barrier_storage=storage.accumulator.data_ptr(),
            num_stages=1,
            producer_group=one_thread,
            consumer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, EPILOGUE_THREADS * self.ctas),
            cta_layout_vmnk=vmnk,
            defer_sync=True,
        )
        tmem = TmemAllocator(
            storage.tmem_address.ptr,
            barrier_for_retrieve=pipeline.NamedBarrier(
                barrier_id=TMEM_BARRIER, num_threads=EPILOGUE_THREADS + WARP
            ),
            allocator_warp_id=0,
            is_two_cta=p.two_cta,
            two_cta_tmem_dealloc_mbar_ptr=storage.tmem_freed.ptr,
        )
        pipeline.pipeline_init_arrive(cluster_shape_mn=vmnk, is_relaxed=True)
        pipeline.pipeline_init_wait(cluster_shape_mn=vmnk)

        k_tiles = cute.ceil_div(load_a.coordinates.shape[1], p.stage_k)
        fragment = mma.make_fragment_C(mma.partition_shape_C(self.tiler[:2]))
        if warp == TMA_WARP:
            for operand in (load_a, load_b, load_sfa, load_sfb):
                if const_expr(operand is not None):
                    cpasync.prefetch_descriptor(operand.tma)
            this = mma.get_slice(pair_rank)
            rows, columns, k = self.tiler
            flows = [
                route(load_a, ring_a, this.partition_A, (rows, k), m_tile, vmnk, 2),
                route(load_b, ring_b, this.partition_B, (columns, k), n_tile, vmnk, 1),
            ]
            if const_expr(p.scaled):
                whole = mma_sfb.get_slice(0)
                sfb_rows = self.tiler_sfb[1]
                sfb_tile = n_tile // 2 if const_expr(p.mma_n == 64) else n_tile
                flows += [
                    route(load_sfa, ring_sfa, this.partition_A, (rows, k), m_tile, vmnk, 2),
                    route(load_sfb, ring_sfb, whole.partition_B, (sfb_rows, k), sfb_tile, vmnk_sfb, 1),
                ]
            self.produce(ring, flows, k_tiles)
        elif warp == MMA_WARP:
            tmem.wait_for_alloc()
            address = tmem.retrieve_ptr(Float32)
            if pair_rank == 0:
                self.multiply(
                    ring,
                    cute.make_tensor(address, fragment.layout),
                    (ring_a, ring_b, ring_sfa, ring_sfb),
                    k_tiles,
                    n_tile,
                )
                accumulated.producer_commit(
                    pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, 1)
                )
        else:
            tmem.allocate(p.tmem_columns)
            tmem.wait_for_alloc()
            address = tmem.retrieve_ptr(Float32)
            accumulated.consumer_wait(pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, 1))
            fence_after_thread_sync()
            accumulator = cute.make_tensor(address, fragment.layout)
            store_accumulator(accumulator, stores, store, m_block, n_tile, thread, warp, p.mma_n)
            tmem.relinquish_alloc_permit()
            tmem.free(address)
        if const_expr(p.cluster != (1, 1)):
            # Nobody leaves while a neighbour may still load into its shared memory or arrive on its barriers.
            cute.arch.cluster_arrive()
            cute.arch.cluster_wait()

    @cute.jit
    def produce(self, ring: pipeline.PipelineTmaUmma, flows: Any, k_tile_count: Int32) -> None:
        """The TMA warp: load every K tile of this CTA's operands, stage after stage."""
        state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, self.params.stages)
        for k_tile in cutlass.range(k_tile_count, unroll=1):
            ring.producer_acquire(state)
            for flow in flows:
                cute.copy(
                    flow.tma,
                    flow.source[(None, k_tile)],
                    flow.target[(None, state.index)],
                    tma_bar_ptr=ring.producer_get_barrier(state),
                    mcast_mask=flow.mask,
                )
            state.advance()
        ring.producer_tail(state)

    @cute.jit
    def multiply(
        self,
        ring: pipeline.PipelineTmaUmma,
        accumulator: cute.Tensor,
        rings: Any,
        k_tile_count: Int32,
        n_tile: Int32,
    ) -> None:
        """The MMA warp: accumulate every K tile; for a pair of CTAs, its leader multiplies for both."""
        ring_a, ring_b, ring_sfa, ring_sfb = rings
        # Not the kernel's own: `set` changes a field of it, which must not outlive the branch of this warp.
        mma = self.make_mma(self.group, self.tiler[:2])
        a, b = mma.make_fragment_A(ring_a), mma.make_fragment_B(ring_b)
        if const_expr(self.params.scaled):
            scales_a, scales_b = self.scales_in_tmem(mma, accumulator, n_tile, ring_sfa, ring_sfb)
        state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, self.params.stages)
        mma.set(tcgen05.Field.ACCUMULATE, False)
        for _ in cutlass.range(k_tile_count, unroll=1):
            ring.consumer_wait(state)
            fence_after_thread_sync()
            if const_expr(self.params.scaled):
                scales_a.load_stage(state.index)
                scales_b.load_stage(state.index)
            for k_block in cutlass.range_constexpr(cute.size(a, mode=[2])):
                place = (None, None, k_block, state.index)
                if const_expr(self.params.scaled):
                    scale_place = (None, None, k_block)
                    cute.gemm(
                        mma,
                        accumulator,
                        [a[place], scales_a.of_mma[scale_place]],
                        [b[place], scales_b.of_mma[scale_place]],
                        accumulator,
                    )
                else:
                    cute.gemm(mma, accumulator, a[place], b[place], accumulator)
                mma.set(tcgen05.Field.ACCUMULATE, True)
            ring.consumer_release(state)
            state.advance()

    def scales_in_tmem(
        self, mma: cute.TiledMma, accumulator: cute.Tensor, n_tile: Int32, ring_sfa: Any, ring_sfb: Any
    ) -> tuple[TmemScales, TmemScales]:
        """The scale factors' places in tensor memory, behind the accumulator, and the copies to there."""
        block = self.params.operand.scale_block
        layout_a = blockscaled_layout.make_tmem_layout_sfa(mma, self.tiler, block, one_stage(ring_sfa.layout))
        layout_b = blockscaled_layout.make_tmem_layout_sfb(mma, self.tiler, block, one_stage(ring_sfb.layout))
        sfa_column = tcgen05.find_tmem_tensor_col_offset(accumulator)
        sfa_pointer = cute.recast_ptr(accumulator.iterator + sfa_column, dtype=self.scale)
        sfa = cute.make_tensor(sfa_pointer, layout_a)
        sfb_column = sfa_column + tcgen05.find_tmem_tensor_col_offset(sfa)
        sfb = cute.make_tensor(cute.recast_ptr(accumulator.iterator + sfb_column, dtype=self.scale), layout_b)
        sfb_of_mma = sfb
        if self.params.mma_n in (64, 192):
            # Odd tiles begin in the middle of an atom of 128 rows: 64 rows are two columns further.
            shift = (n_tile % 2) * 2
            shifted = cute.recast_ptr(accumulator.iterator + (sfb_column + shift), dtype=self.scale)
            sfb_of_mma = cute.make_tensor(shifted, layout_b)
        return (
            TmemScales.make(self.group, ring_sfa, sfa, sfa),
            TmemScales.make(self.group, ring_sfb, sfb, sfb_of_mma),
        )

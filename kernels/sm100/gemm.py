"""The Blackwell router kernel: persistent and warp-specialized, block-scaled NVFP4 into tensor memory.

One warp issues every TMA load into a ring of shared memory, one copies scale factors to tensor memory and
issues the MMAs, and one or two warpgroups run the epilogue (`kernels.sm100.epilogue`): the whole router, or a
store of the logits. A cluster walks the token tiles; for each, its CTAs walk their expert tiles, and for each
of those their part of K. See `kernels.sm100.config` for how the CTAs of a cluster share the work.

Order between the warps: mbarriers for the ring (TMA to MMA) and for the accumulators (MMA to epilogue), with
`tcgen05.fence` on both sides of every hand-over of tensor memory (PTX ISA, tcgen05 memory consistency model).
The MMA's reads of the ring need no proxy fence: nothing but TMA ever writes it.

Failure semantics: rows at or past M are computed from the zeros that TMA fills in and never written; columns
at or past E never enter a list. The kernel reads no memory that its arguments do not describe.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float4E2M1FN, Float8E4M3FN, Float32, Int32, Int64, Uint8, const_expr, pipeline
from cutlass.cute.nvgpu import cpasync, tcgen05

from kernels.problem import RouterProblem
from kernels.sm100.config import RESIDENT_CTAS, RING_ALIGNMENT, WARP, Sm100Config
from kernels.sm100.epilogue import Epilogue, Outputs, Place
from kernels.sm100.router import RouterEpilogue
from kernels.sm100.sync import fence_after_sync, fence_before_sync
from kernels.sm100.tiles import LOADS, Load, Tiles
from kernels.sm100.work import Work

TMEM_BARRIER = 2  # named barrier: 0 is the block's own and 1 the epilogue's


class Sm100RouterGemm:
    """The kernel for one problem, one legal config and one epilogue (the router, unless told otherwise)."""

    def __init__(
        self, problem: RouterProblem, config: Sm100Config, epilogue: type[Epilogue] = RouterEpilogue
    ) -> None:
        self.problem = problem
        self.config = config
        self.epilogue = epilogue(problem, config)
        self.n_tiles = config.n_tiles(problem)
        self.k_tiles = config.k_tiles(problem) // config.split_k
        self.mma_warp = 4 * config.epi_warpgroups
        self.tma_warp = self.mma_warp + 1

    @cute.jit
    def __call__(
        self,
        a: cute.Tensor,
        a_scale: cute.Tensor,
        b: cute.Tensor,
        b_scale: cute.Tensor,
        bias: cute.Tensor,
        alpha: cute.Tensor,
        workspace: cute.Tensor,
        weights: cute.Tensor,
        ids: cute.Tensor,
        stream: Any,
    ) -> None:
        """Launch on `stream`; `weights` and `ids` are the epilogue's outputs."""
        c = self.config
        tiles = Tiles(c)
        operands = (b, b_scale, a, a_scale) if c.swap_operands else (a, a_scale, b, b_scale)
        size_a, size_b, size_sfa, size_sfb = (cute.cosize(tiles.layouts[name]) for name in LOADS)

        @cute.struct
        class SharedStorage:
            ring_barriers: cute.struct.MemRange[Int64, c.stages * 2]
            accumulator_barriers: cute.struct.MemRange[Int64, c.acc_stages * 2]
            exchange_barriers: cute.struct.MemRange[Int64, 4]
            tmem_dealloc: Int64
            tmem_address: Int32
            arrivals: Int32
            bias: cute.struct.MemRange[Float32, self.n_tiles * c.expert_tile]
            lists: cute.struct.MemRange[Int32, max(1, c.merge_bytes(self.problem) // 4)]
            staging: cute.struct.MemRange[Float32, max(1, c.staging_bytes // 4)]
            padding: cute.struct.MemRange[Uint8, max(1, c.padding_bytes(self.problem))]
            a: cute.struct.Align[cute.struct.MemRange[Float4E2M1FN, size_a], RING_ALIGNMENT]
            b: cute.struct.Align[cute.struct.MemRange[Float4E2M1FN, size_b], RING_ALIGNMENT]
            sfa: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, size_sfa], RING_ALIGNMENT]
            sfb: cute.struct.Align[cute.struct.MemRange[Float8E4M3FN, size_sfb], RING_ALIGNMENT]

        self.shared_storage = SharedStorage
        token_tiles = cute.ceil_div(weights.shape[0], c.token_tile)
        rounds = cute.ceil_div(token_tiles, c.cluster_m)
        resident = max(1, RESIDENT_CTAS // (c.cluster_size * c.grid_split))
        clusters = cutlass.min(rounds, Int32(resident))
        self.kernel(tiles.mma, tiles.tma(*operands), bias, alpha, workspace, weights, ids).launch(
            grid=(clusters * c.cluster_m, c.expert_split * c.grid_split, c.split_k),
            block=(c.threads, 1, 1),
            cluster=(c.cluster_m, c.expert_split, c.split_k),
            min_blocks_per_mp=1,
            stream=stream,
        )

    @cute.kernel
    def kernel(
        self,
        tiled_mma: cute.TiledMma,
        tma: Any,
        bias: cute.Tensor,
        alpha: cute.Tensor,
        workspace: cute.Tensor,
        weights: cute.Tensor,
        ids: cute.Tensor,
    ) -> None:
        c = self.config
        self.tiles = Tiles(c)
        thread, _, _ = cute.arch.thread_idx()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        if warp == self.tma_warp:
            for atom, _ in tma:
                cpasync.prefetch_descriptor(atom)

        storage = cutlass.memory.SmemAllocator().allocate(self.shared_storage)
        ring = self.make_ring(storage.ring_barriers.data_ptr())
        accumulators = self.make_accumulators(storage.accumulator_barriers.data_ptr())
        tmem = cutlass.memory.TmemAllocator(
            storage.tmem_address.ptr,
            barrier_for_retrieve=pipeline.NamedBarrier(TMEM_BARRIER, c.epilogue_threads + WARP),
            allocator_warp_id=0,
            is_two_cta=c.cta_group == 2,
            two_cta_tmem_dealloc_mbar_ptr=storage.tmem_dealloc.ptr,
        )
        work = Work.of_cta(c, self.n_tiles, self.k_tiles, weights.shape[0])
        self.epilogue.init_barriers(storage.exchange_barriers.data_ptr(), work, thread)
        cluster = cute.make_layout((c.cluster_m, c.expert_split, c.split_k))
        pipeline.pipeline_init_arrive(cluster_shape_mn=cluster, is_relaxed=True)
        pipeline.pipeline_init_wait(cluster_shape_mn=cluster)

        rings = {name: ring_tensor(storage, name, self.tiles.layouts[name]) for name in LOADS}
        loads = self.tiles.loads(tma, rings, rank)
        if warp == self.tma_warp:
            self.produce(ring, loads, work)
        if warp == self.mma_warp:
            tmem.wait_for_alloc()
            fence_after_sync()
            base = tmem.retrieve_ptr(Float32)
            if work.leads_mma:
                self.multiply(ring, accumulators, tiled_mma, rings, base, work)
        if warp < self.mma_warp:
            tmem.allocate(c.tmem_allocation)
            tmem.relinquish_alloc_permit()
            fence_before_sync()
            tmem.wait_for_alloc()
            fence_after_sync()
            base = tmem.retrieve_ptr(Float32)
            place = Place(
                thread,
                work,
                self.accumulator_tensor(tiled_mma, base),
                storage.bias.get_tensor(cute.make_layout(self.n_tiles * c.expert_tile)),
                storage.lists.data_ptr(),
                storage.staging.data_ptr(),
                storage.exchange_barriers.data_ptr(),
                storage.arrivals.ptr,
                alpha[0],
            )
            self.epilogue.run(accumulators, place, bias, Outputs(weights, ids, workspace))
            fence_before_sync()
            self.epilogue.barrier()
            fence_after_sync()
            tmem.free(base)
        if const_expr(c.cluster_size > 1):
            # Nobody leaves while a neighbour may still read its shared memory or arrive on its barriers.
            cute.arch.cluster_arrive()
            cute.arch.cluster_wait()

    def make_ring(self, barriers: cute.Pointer) -> pipeline.PipelineTmaUmma:
        """The stages of shared memory that TMA fills and MMAs empty.

        A stage is empty once the MMAs of every CTA that loads for it, or that it loads for, have read theirs.
        """
        c, tiles = self.config, self.tiles
        columns_shared = c.cta_group > 1 or tiles.share_columns > 1
        rows_shared = tiles.share_rows > 1
        shared = columns_shared or rows_shared
        return pipeline.PipelineTmaUmma.create(
            barrier_storage=barriers,
            num_stages=c.stages,
            producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread),
            consumer_group=pipeline.CooperativeGroup(
                pipeline.Agent.Thread, tiles.share_rows + tiles.share_columns - 1
            ),
            tx_count=tiles.load_bytes(),
            cta_layout_vmnk=tiles.cluster if shared else cute.make_layout((1, 1, 1, 1)),
            mcast_mode_mn=(int(rows_shared), int(columns_shared)) if shared else (1, 1),
            defer_sync=True,
        )

    def make_accumulators(self, barriers: cute.Pointer) -> pipeline.PipelineUmmaAsync:
        """The accumulators that MMAs fill and the epilogue's warps, one arrival each, give back."""
        c = self.config
        return pipeline.PipelineUmmaAsync.create(
            barrier_storage=barriers,
            num_stages=c.acc_stages,
            producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread),
            consumer_group=pipeline.CooperativeGroup(
                pipeline.Agent.Thread, c.epilogue_threads // WARP * c.cta_group
            ),
            cta_layout_vmnk=self.tiles.cluster if c.cta_group > 1 else cute.make_layout((1, 1, 1, 1)),
            defer_sync=True,
        )

    def accumulator_tensor(self, tiled_mma: cute.TiledMma, base: cute.Pointer) -> cute.Tensor:
        """The accumulators in tensor memory: (MMA, 1, 1, accumulators); two where they overlap."""
        c = self.config
        shape = tiled_mma.partition_shape_C((c.mma_m, c.mma_n))
        layout = tiled_mma.make_fragment_C(cute.append(shape, 2 if c.overlaps else c.acc_stages)).layout
        if c.overlaps:
            shared = c.sfa_tmem_columns + c.sfb_tmem_columns
            stride = (*layout.stride[:3], (c.mma_n - shared) * layout.stride[0][1])
            layout = cute.make_layout(layout.shape, stride=stride)
        return cute.make_tensor(base, layout)

    def mma_tile(self, work: Work, index: Int32, tile: Int32) -> tuple[Int32, Int32]:
        """The tile of the MMA's rows and of its columns, in tiles of the whole MMA."""
        tokens = work.token_tile(index) // self.config.cta_group
        experts = work.first_expert_tile + tile
        return (experts, tokens) if self.config.swap_operands else (tokens, experts)

    @cute.jit
    def produce(
        self,
        ring: pipeline.PipelineTmaUmma,
        loads: tuple[Load, Load, Load, Load],
        work: Work,
    ) -> None:
        """The TMA warp: every load of this CTA, for each K tile of each expert tile of each token tile."""
        state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, self.config.stages)
        for index in cutlass.range(work.token_tiles, unroll=1):
            for tile in cutlass.range(self.n_tiles, unroll=1):
                row_tile, column_tile = self.mma_tile(work, index, tile)
                at = (row_tile, column_tile, row_tile, self.tiles.scale_tile(column_tile))
                for step in cutlass.range(self.k_tiles, unroll=1):
                    ring.producer_acquire(state)
                    barrier = ring.producer_get_barrier(state)
                    for load, place in zip(loads, at, strict=True):
                        cute.copy(
                            load.atom,
                            load.source[(None, place, work.first_k_tile + step)],
                            load.ring[(None, state.index)],
                            tma_bar_ptr=barrier,
                            mcast_mask=load.mask,
                        )
                    state.advance()
        ring.producer_tail(state)

    @cute.jit
    def multiply(
        self,
        ring: pipeline.PipelineTmaUmma,
        accumulators: pipeline.PipelineUmmaAsync,
        tiled_mma: cute.TiledMma,
        rings: Any,
        base: cute.Pointer,
        work: Work,
    ) -> None:
        """The MMA warp of a leading CTA: accumulator = A_tile @ B_tile^T for each tile, scales applied."""
        c = self.config
        fragment_a = tiled_mma.make_fragment_A(rings["a"])
        fragment_b = tiled_mma.make_fragment_B(rings["b"])
        every_accumulator = self.accumulator_tensor(tiled_mma, base)
        scale_base = base + c.accumulator_columns
        sfa = self.tiles.scale_tensor_a(scale_base)
        sfb = self.tiles.scale_tensor_b(scale_base + c.sfa_tmem_columns)
        copy_sfa, from_sfa, to_sfa = self.tiles.scale_copy(rings["sfa"], sfa)
        copy_sfb, from_sfb, to_sfb = self.tiles.scale_copy(rings["sfb"], sfb)
        read = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, c.stages)
        write = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, c.acc_stages)
        for index in cutlass.range(work.token_tiles, unroll=1):
            for tile in cutlass.range(self.n_tiles, unroll=1):
                _, column_tile = self.mma_tile(work, index, tile)
                # The producer's phase starts at 1, so that overlapping accumulators alternate from 0.
                place = write.phase ^ 1 if const_expr(c.overlaps) else write.index
                accumulator = every_accumulator[(None, None, None, place)]
                sfb_of_tile = self.tiles.scale_tensor_b(
                    scale_base + c.sfa_tmem_columns + self.tiles.first_scale_column(column_tile)
                )
                accumulators.producer_acquire(write)
                fence_after_sync()
                for step in cutlass.range(self.k_tiles, unroll=1):
                    ring.consumer_wait(read)
                    stage = (None, None, None, None, read.index)
                    cute.copy(copy_sfa, from_sfa[stage], to_sfa)
                    cute.copy(copy_sfb, from_sfb[stage], to_sfb)
                    tiled_mma.set(tcgen05.Field.ACCUMULATE, Boolean(step != 0))
                    block = (None, None, None, read.index)
                    cute.gemm(
                        tiled_mma,
                        accumulator,
                        [fragment_a[block], sfa],
                        [fragment_b[block], sfb_of_tile],
                        accumulator,
                    )
                    ring.consumer_release(read)
                    read.advance()
                accumulators.producer_commit(write)
                write.advance()
        accumulators.producer_tail(write)


def ring_tensor(storage: Any, name: str, layout: Any) -> cute.Tensor:
    """One operand's ring of stages: swizzled for elements, plain for scales."""
    memory = getattr(storage, name)
    if isinstance(layout, cute.ComposedLayout):
        return memory.get_tensor(layout.outer, swizzle=layout.inner)
    return memory.get_tensor(layout)

"""The Hopper router kernel: a GEMM fed by TMA into wgmma, with an epilogue that sees whole accumulators.

One warpgroup produces (its first warp issues every TMA load), one to three consume. A CTA walks its expert
tiles one after the other; for each, the consumers run the K loop over the stages of a ring of shared memory,
then hand the accumulators, still in registers, to the epilogue (`kernels.sm90.epilogue`): the whole router,
or a store of the logits. See `kernels.sm90.config` for the cluster's dimensions and the schedules.

Failure semantics: rows at or past M are computed from the zeros that TMA fills in and never written; columns
at or past E never enter a list. The kernel reads no memory that its arguments do not describe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float32, Int32, Int64, const_expr, pipeline
from cutlass.cute.nvgpu import cpasync, warpgroup
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as sm90_utils

from kernels.problem import RouterProblem
from kernels.sm90.config import REGISTER_SPLIT, WARPGROUP, WGMMA_M, Schedule, Sm90Config
from kernels.sm90.epilogue import Epilogue, Outputs, Place, RouterEpilogue

PRODUCER_THREADS = WARPGROUP
# What one thread stores at once.
VECTOR_BYTES = 16
# Named barriers 2 and 3, one for each pingpong warpgroup; 0 is the block's own and 1 the epilogue's.
TURN_BARRIER = 2


@dataclass(frozen=True)
class Operand:
    """One operand of the GEMM on its way in: its TMA atom, the tensor TMA reads, and its ring of stages."""

    tma: cute.CopyAtom
    source: cute.Tensor
    ring: cute.Tensor


class Sm90RouterGemm:
    """The kernel for one problem, one legal config and one epilogue (the router, unless told otherwise)."""

    def __init__(
        self, problem: RouterProblem, config: Sm90Config, epilogue: type[Epilogue] = RouterEpilogue
    ) -> None:
        self.problem = problem
        self.config = config
        self.epilogue = epilogue(problem, config)
        self.pingpong = config.schedule == Schedule.PINGPONG
        self.n_tiles = config.n_tiles(problem)
        self.k_tiles = -(-problem.hidden // config.tile_k) // config.split_k
        self.mma_mnk = (config.mma_rows, config.tile_n, config.tile_k)
        self.threads = PRODUCER_THREADS + WARPGROUP * config.warpgroups

    @cute.jit
    def __call__(
        self,
        a: cute.Tensor,
        b: cute.Tensor,
        bias: cute.Tensor,
        alpha: cute.Tensor,
        workspace: cute.Tensor,
        weights: cute.Tensor,
        ids: cute.Tensor,
        stream: Any,
    ) -> None:
        """Launch on `stream`; `weights` and `ids` are the epilogue's outputs."""
        c = self.config
        warpgroups = {
            Schedule.COOPERATIVE_M: (c.warpgroups, 1, 1),
            Schedule.COOPERATIVE_N: (1, c.warpgroups, 1),
            Schedule.PINGPONG: (1, 1, 1),
        }[Schedule(c.schedule)]
        major = cute.nvgpu.OperandMajorMode.K
        tiled_mma = sm90_utils.make_trivial_tiled_mma(
            BFloat16, BFloat16, major, major, Float32, warpgroups, tiler_mn=(WGMMA_M, c.columns_per_warpgroup)
        )
        a_layout = sm90_utils.make_smem_layout_a(LayoutEnum.ROW_MAJOR, self.mma_mnk, BFloat16, c.stages)
        b_layout = sm90_utils.make_smem_layout_b(LayoutEnum.ROW_MAJOR, self.mma_mnk, BFloat16, c.stages)
        tma_a, source_a = make_tma(a, loaded_rows(a_layout, c), (c.tile_m, c.tile_k), c.a_multicast)
        tma_b, source_b = make_tma(b, b_layout, (c.tile_n, c.tile_k), c.cluster_m)

        @cute.struct
        class SharedStorage:
            barriers: cute.struct.MemRange[Int64, c.stages * 2]
            arrivals: cute.struct.MemRange[Int32, 1]
            bias: cute.struct.MemRange[Float32, self.n_tiles * c.tile_n]
            scratch: cute.struct.MemRange[Float32, self.epilogue.scratch_elements]
            ring_a: cute.struct.Align[cute.struct.MemRange[BFloat16, cute.cosize(a_layout)], 1024]
            ring_b: cute.struct.Align[cute.struct.MemRange[BFloat16, cute.cosize(b_layout)], 1024]

        self.shared_storage = SharedStorage
        m_tiles = cute.ceil_div(weights.shape[0], c.tile_m)
        self.kernel(
            tma_a,
            source_a,
            tma_b,
            source_b,
            tiled_mma,
            a_layout,
            b_layout,
            bias,
            alpha,
            workspace,
            weights,
            ids,
        ).launch(
            grid=(cute.round_up(m_tiles, c.cluster_m), c.expert_split * c.grid_split, c.split_k),
            block=(self.threads, 1, 1),
            cluster=(c.cluster_m, c.expert_split, c.split_k),
            min_blocks_per_mp=1,
            stream=stream,
        )

    @cute.kernel
    def kernel(
        self,
        tma_a: cute.CopyAtom,
        source_a: cute.Tensor,
        tma_b: cute.CopyAtom,
        source_b: cute.Tensor,
        tiled_mma: cute.TiledMma,
        a_layout: cute.ComposedLayout,
        b_layout: cute.ComposedLayout,
        bias: cute.Tensor,
        alpha: cute.Tensor,
        workspace: cute.Tensor,
        weights: cute.Tensor,
        ids: cute.Tensor,
    ) -> None:
        c = self.config
        thread, _, _ = cute.arch.thread_idx()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        if warp == 0:
            cpasync.prefetch_descriptor(tma_a)
            cpasync.prefetch_descriptor(tma_b)

        storage = cutlass.memory.SmemAllocator().allocate(self.shared_storage)
        operand_a = Operand(
            tma_a, source_a, storage.ring_a.get_tensor(a_layout.outer, swizzle=a_layout.inner)
        )
        operand_b = Operand(
            tma_b, source_b, storage.ring_b.get_tensor(b_layout.outer, swizzle=b_layout.inner)
        )
        smem_bias = storage.bias.get_tensor(cute.make_layout(self.n_tiles * c.tile_n))

        # Without multicast no other CTA touches this one's ring, and its loads need not wait for the cluster.
        shares = c.a_multicast > 1 or c.cluster_m > 1
        sharing = cute.make_layout((1, c.cluster_m, c.expert_split, c.split_k) if shares else (1, 1, 1, 1))
        warps_of_a_stage = 4 if self.pingpong else 4 * c.warpgroups
        ring = pipeline.PipelineTmaAsync.create(
            barrier_storage=storage.barriers.data_ptr(),
            num_stages=c.stages,
            producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread),
            consumer_group=pipeline.CooperativeGroup(
                pipeline.Agent.Thread, (c.cluster_m + c.a_multicast - 1) * warps_of_a_stage
            ),
            tx_count=c.load_bytes,
            cta_layout_vmnk=sharing,
            mcast_mode_mn=(int(c.a_multicast > 1), 1),
            defer_sync=True,
        )
        pipeline.pipeline_init_arrive(cluster_shape_mn=sharing, is_relaxed=True)
        pipeline.pipeline_init_wait(cluster_shape_mn=sharing)

        producer_registers, consumer_registers = REGISTER_SPLIT[c.warpgroups]
        if thread < PRODUCER_THREADS:
            cute.arch.setmaxregister_decrease(producer_registers)
            if warp == 0:
                self.produce(ring, operand_a, operand_b)
            for _ in cutlass.range_constexpr(int(c.split_k > 1) + self.epilogue.finish_cluster_barriers):
                cute.arch.cluster_arrive_relaxed()  # it has written nothing that others read
                cute.arch.cluster_wait()
        else:
            cute.arch.setmaxregister_increase(consumer_registers)
            self.consume(
                ring,
                tiled_mma,
                operand_a.ring,
                operand_b.ring,
                bias,
                smem_bias,
                storage.scratch.data_ptr(),
                storage.ring_a.data_ptr(),
                alpha[0],
                thread - PRODUCER_THREADS,
                Outputs(weights, ids, workspace, storage.arrivals.data_ptr()),
            )
        if const_expr(c.cluster_size > 1):
            # Nobody leaves while a neighbour may still read its shared memory or arrive on its barriers; what
            # was read has been used by then, so this orders no memory (a release costs 0.5 us here).
            cute.arch.cluster_arrive_relaxed()
            cute.arch.cluster_wait()

    @cute.jit
    def load_bias(
        self, bias: cute.Tensor, smem_bias: cute.Tensor, first_expert: Int32, thread: Int32
    ) -> None:
        """The selection bias of this CTA's experts, once; experts past E get 0 and are masked later."""
        columns = self.n_tiles * self.config.tile_n
        threads = WARPGROUP * self.config.warpgroups
        for step in cutlass.range_constexpr(-(-columns // threads)):
            column = thread + step * threads
            if column < columns:
                value = Float32(0.0)
                if first_expert + column < self.problem.experts:
                    value = bias[first_expert + column]
                smem_bias[column] = value

    @cute.jit
    def produce(self, ring: pipeline.PipelineTmaAsync, operand_a: Operand, operand_b: Operand) -> None:
        """Issue every load of this CTA: its part of A and of B for each K tile of each expert tile."""
        c = self.config
        m_tile, expert_block, k_rank = cute.arch.block_idx()
        m_rank, expert_rank = m_tile % c.cluster_m, expert_block % c.expert_split
        cluster = cute.make_layout((c.cluster_m, c.expert_split, c.split_k))
        rank = (m_rank, expert_rank, k_rank)
        a_mask, a_slice = 0, 0
        if const_expr(c.a_multicast > 1):
            a_mask, a_slice = cute.make_layout_image_mask(cluster, rank, mode=1), expert_rank
        b_mask = 0
        if const_expr(c.cluster_m > 1):
            b_mask = cute.make_layout_image_mask(cluster, rank, mode=0)
        tiles_a = cute.local_tile(operand_a.source, (c.tile_m, c.tile_k), (m_tile, None))
        tiles_b = cute.local_tile(operand_b.source, (c.tile_n, c.tile_k), (None, None))
        to_a, from_a = cpasync.tma_partition(
            operand_a.tma,
            a_slice,
            cute.make_layout(c.a_multicast),
            cute.group_modes(loaded_rows(operand_a.ring, c), 0, 2),
            cute.group_modes(tiles_a, 0, 2),
        )
        to_b, from_b = cpasync.tma_partition(
            operand_b.tma,
            m_rank,
            cute.make_layout(c.cluster_m),
            cute.group_modes(operand_b.ring, 0, 2),
            cute.group_modes(tiles_b, 0, 2),
        )
        state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, c.stages)
        for tile in cutlass.range(self.n_tiles, unroll=1):
            for step in cutlass.range(self.k_tiles, unroll=1):
                k_tile = k_rank * self.k_tiles + step
                n_tile = expert_block * self.n_tiles + tile
                ring.producer_acquire(state)
                barrier = ring.producer_get_barrier(state)
                cute.copy(
                    operand_a.tma,
                    from_a[(None, k_tile)],
                    to_a[(None, state.index)],
                    tma_bar_ptr=barrier,
                    mcast_mask=a_mask,
                )
                cute.copy(
                    operand_b.tma,
                    from_b[(None, n_tile, k_tile)],
                    to_b[(None, state.index)],
                    tma_bar_ptr=barrier,
                    mcast_mask=b_mask,
                )
                state.advance()
        ring.producer_tail(state)

    @cute.jit
    def consume(
        self,
        ring: pipeline.PipelineTmaAsync,
        tiled_mma: cute.TiledMma,
        ring_a: cute.Tensor,
        ring_b: cute.Tensor,
        bias: cute.Tensor,
        smem_bias: cute.Tensor,
        scratch: cute.Pointer,
        overlay: cute.Pointer,
        alpha: Float32,
        thread: Int32,
        out: Outputs,
    ) -> None:
        """One consumer thread's whole life: every tile's MMA and epilogue, then the end of the epilogue."""
        c = self.config
        group = cute.arch.make_warp_uniform(thread // WARPGROUP)
        # A pingpong warpgroup computes whole tiles: towards the MMA each of the two is the only one.
        mma_group = 0 if const_expr(self.pingpong) else group
        mma_thread = thread % WARPGROUP if const_expr(self.pingpong) else thread
        groups = cute.make_layout(1 if self.pingpong else c.warpgroups, stride=WARPGROUP)
        of_group = tiled_mma.get_slice(groups(mma_group))
        fragments = (
            tiled_mma.make_fragment_A(of_group.partition_A(ring_a)),
            tiled_mma.make_fragment_B(of_group.partition_B(ring_b)),
        )
        coordinates = tiled_mma.get_slice(mma_thread).partition_C(
            cute.make_identity_tensor((c.mma_rows, c.tile_n))
        )
        accumulator = cute.make_rmem_tensor(coordinates.shape, Float32)
        m_tile, expert_block, _ = cute.arch.block_idx()
        first_expert = expert_block * (self.n_tiles * c.tile_n)
        place = Place(
            thread, m_tile, first_expert, coordinates, self.epilogue.scratch_of_warp(scratch, thread)
        )
        state = self.epilogue.start()

        self.load_bias(bias, smem_bias, first_expert, thread)
        if const_expr(c.tile_m < c.mma_rows):
            self.clear_padding(overlay, thread)
        self.epilogue.consumer_barrier()
        if const_expr(self.pingpong):
            self.alternate(
                ring, tiled_mma, fragments, accumulator, state, smem_bias, alpha, group, place, out
            )
        elif const_expr(c.split_k > 1):
            self.multiply(ring, tiled_mma, fragments, accumulator, 0)
            self.epilogue.reduce(accumulator, state, alpha, smem_bias, overlay, place, out)
        else:
            for tile in cutlass.range(self.n_tiles, unroll=1):
                self.multiply(ring, tiled_mma, fragments, accumulator, tile * self.k_tiles)
                self.epilogue.walk(accumulator, state, alpha, smem_bias, tile, place, out)
        self.epilogue.finish(state, overlay, place, out)

    @cute.jit
    def clear_padding(self, ring_a: cute.Pointer, thread: Int32) -> None:
        """Zero the rows of A's ring that TMA never writes, before the first MMA reads them."""
        c = self.config
        # Each 64 columns of a stage are rows of 128 bytes, one after the other in atoms of 8.
        vectors = 128 * (c.mma_rows - c.tile_m) // VECTOR_BYTES
        padding = cute.make_tensor(
            cute.recast_ptr(ring_a, dtype=Int32) + 32 * c.tile_m,
            cute.make_layout(
                (VECTOR_BYTES // 4, vectors, c.stages * c.tile_k // 64),
                stride=(1, VECTOR_BYTES // 4, 32 * c.mma_rows),
            ),
        )
        zeros = cute.make_rmem_tensor((VECTOR_BYTES // 4,), Int32)
        zeros.fill(0)
        threads = WARPGROUP * c.warpgroups
        for block in cutlass.range(c.stages * c.tile_k // 64, unroll=2):
            for step in cutlass.range_constexpr(-(-vectors // threads)):
                vector = thread + step * threads
                if vector < vectors:
                    cute.autovec_copy(zeros, padding[(None, vector, block)])
        cute.arch.fence_proxy("async.shared", space="cta")

    @cute.jit
    def alternate(
        self,
        ring: pipeline.PipelineTmaAsync,
        tiled_mma: cute.TiledMma,
        fragments: tuple[cute.Tensor, cute.Tensor],
        accumulator: cute.Tensor,
        state: list[Any],
        bias: cute.Tensor,
        alpha: Float32,
        group: Int32,
        place: Place,
        out: Outputs,
    ) -> None:
        """Pingpong: warpgroup 0 takes the even tiles and warpgroup 1 the odd ones, in turns.

        With early release the turn passes as soon as the accumulator is complete, so that the other
        warpgroup's MMA runs under this one's epilogue; without, it passes after the epilogue.
        """
        both = 2 * WARPGROUP
        if group == 1:
            cute.arch.barrier_arrive(barrier_id=TURN_BARRIER, number_of_threads=both)
        for turn in cutlass.range((self.n_tiles + 1 - group) // 2, unroll=1):
            tile = 2 * turn + group
            cute.arch.barrier(barrier_id=TURN_BARRIER + group, number_of_threads=both)
            self.multiply(ring, tiled_mma, fragments, accumulator, tile * self.k_tiles)
            if const_expr(not self.config.early_release):
                self.epilogue.walk(accumulator, state, alpha, bias, tile, place, out)
            if tile + 1 < self.n_tiles:
                cute.arch.barrier_arrive(barrier_id=TURN_BARRIER + 1 - group, number_of_threads=both)
            if const_expr(self.config.early_release):
                self.epilogue.walk(accumulator, state, alpha, bias, tile, place, out)

    @cute.jit
    def multiply(
        self,
        ring: pipeline.PipelineTmaAsync,
        tiled_mma: cute.TiledMma,
        fragments: tuple[cute.Tensor, cute.Tensor],
        accumulator: cute.Tensor,
        first_step: Int32,
    ) -> None:
        """accumulator = A_tile @ B_tile^T over this CTA's K tiles, from step `first_step` of the ring on."""
        stages = self.config.stages
        step = Int32(first_step)
        read = pipeline.PipelineState(stages, step, step % stages, (step // stages) % 2)
        release = pipeline.PipelineState(stages, step, step % stages, (step // stages) % 2)
        self.clear(accumulator, step)
        tiled_mma.set(warpgroup.Field.ACCUMULATE, True)
        warpgroup.fence()
        # One wgmma group stays in flight: a stage is released once the next one's MMA has been issued.
        self.multiply_stage(ring, tiled_mma, fragments, accumulator, read)
        read.advance()
        for _ in cutlass.range(1, self.k_tiles, unroll=1):
            self.multiply_stage(ring, tiled_mma, fragments, accumulator, read)
            warpgroup.wait_group(1)
            ring.consumer_release(release)
            release.advance()
            read.advance()
        warpgroup.wait_group(0)
        ring.consumer_release(release)

    def clear(self, accumulator: cute.Tensor, first_step: Int32) -> None:
        """Start an expert tile, whose first step of the ring is `first_step`."""
        accumulator.fill(0.0)

    @cute.jit
    def multiply_stage(
        self,
        ring: pipeline.PipelineTmaAsync,
        tiled_mma: cute.TiledMma,
        fragments: tuple[cute.Tensor, cute.Tensor],
        accumulator: cute.Tensor,
        state: pipeline.PipelineState,
    ) -> None:
        """Wait for one stage and issue its MMAs as one wgmma group."""
        fragment_a, fragment_b = fragments
        ring.consumer_wait(state)
        for k_block in cutlass.range_constexpr(cute.size(fragment_a, mode=[2])):
            block = (None, None, k_block, state.index)
            cute.gemm(tiled_mma, accumulator, fragment_a[block], fragment_b[block], accumulator)
        warpgroup.commit_group()


def make_tma(
    tensor: cute.Tensor, layout: cute.ComposedLayout, tile: tuple[int, int], multicast: int
) -> tuple[cute.CopyAtom, cute.Tensor]:
    """The TMA atom that loads one stage's tile, 1/`multicast` of it for each CTA that shares it."""
    op = cpasync.CopyBulkTensorTileG2SOp() if multicast == 1 else cpasync.CopyBulkTensorTileG2SMulticastOp()
    stage = cute.slice_(layout, (None, None, 0))
    atom, source = cpasync.make_tiled_tma_atom(op, tensor, stage, tile, num_multicast=multicast)
    return atom, source


def loaded_rows(staged: Any, config: Sm90Config) -> Any:
    """The rows of A's ring (or of its layout) that TMA fills: all of them, unless tile_m is padded to 64."""
    if config.tile_m == config.mma_rows:
        return staged
    c = config
    shape = (c.tile_m, c.tile_k, c.stages)
    return cute.composition(staged, cute.make_layout(shape, stride=(1, c.mma_rows, c.mma_rows * c.tile_k)))

"""What happens to a finished accumulator, and, on the two-kernel path, the store of its logits.

`kernels.sm100.router` is the other epilogue.

An epilogue warp reads the 32 lanes of tensor memory that it may (by its index in its warpgroup: PTX ISA,
tcgen05.ld, access restrictions), `epi_n` columns at a time: a thread gets consecutive columns of one row.

With tokens as rows, the thread owns its token: the columns go straight from its registers into its running
top k. Only the walk over the subtiles is a rolled loop, so the code is as long as `epi_n` insertions.

Split-K and swapped operands stage the accumulator in shared memory first, where a thread reads what belongs
to its token from every CTA that has a part of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, const_expr, pipeline
from cutlass.cute.nvgpu import tcgen05
from cutlass.cutlass_dsl import select_

from kernels.device.logits import store_logits
from kernels.device.peers import load_peer
from kernels.problem import RouterProblem
from kernels.sm100.config import STAGING_PADDING, TMEM_LANES, WARP, WARPGROUP, Sm100Config
from kernels.sm100.exchange import BARRIERS, Exchange
from kernels.sm100.sync import fence_after_sync, fence_before_sync
from kernels.sm100.work import Work

EPILOGUE_BARRIER = 1
# Staged logits that a thread reads and scores at once: enough to cover the latencies of loads from other
# CTAs, of exp, rcp and sqrt. With 8 or 16 the model sees no more gain, only more code to fetch.
STAGED_BATCH = 4
# Logits stored at once: 32 bytes, a whole sector (`st.global.v8`).
VECTOR = 8


@dataclass(frozen=True)
class Outputs:
    """What the kernel writes: `weights` [M, k] fp32 and `ids` [M, k] int32; or `weights` is logits [M, E].

    `workspace` is the launch's.
    """

    weights: cute.Tensor
    ids: cute.Tensor
    workspace: cute.Tensor


@dataclass(frozen=True)
class Place:
    """Where an epilogue thread stands, and what it works with.

    Attributes:
        thread: its index among the epilogue's threads.
        tensor: all accumulators in tensor memory.
        bias: [experts of this CTA] fp32 in shared memory.
        lists, staging: shared memory for partial lists and for one staged accumulator.
        barriers: shared memory of the mbarriers of both exchanges with other CTAs.
        arrivals: one int32 of shared memory for what a grid split counts.
    """

    thread: Int32
    work: Work
    tensor: cute.Tensor
    bias: cute.Tensor
    lists: cute.Pointer
    staging: cute.Pointer
    barriers: cute.Pointer
    arrivals: cute.Pointer
    alpha: Float32


class Epilogue:
    """What both epilogues share: the walk over the tiles, and staging in shared memory."""

    def __init__(self, problem: RouterProblem, config: Sm100Config) -> None:
        self.problem = problem
        self.config = config
        self.n_tiles = config.n_tiles(problem)
        self.group = config.group_size

    def start(self) -> Any:
        """The state that `take` updates: a `TopK`, or None."""
        raise NotImplementedError

    def take(
        self, state: Any, logit: Float32, index: Int32, token_tile: Int32, place: Place, out: Outputs
    ) -> None:
        """Consume one logit of this thread's token; `index` counts experts from the CTA's first."""
        raise NotImplementedError

    def take_subtile(
        self, state: Any, values: cute.Tensor, first: Int32, token_tile: Int32, place: Place, out: Outputs
    ) -> None:
        """Consume a subtile of this thread's token: `values` [epi_n], of the experts from `first` on."""
        for column in range(self.config.epi_n):
            self.take(state, values[column] * place.alpha, first + column, token_tile, place, out)

    def finish(self, state: Any, turn: Int32, token_tile: Int32, place: Place, out: Outputs) -> None:
        """After the last expert tile of a token tile, the `turn`-th of this CTA."""
        raise NotImplementedError

    def barrier(self) -> None:
        """Wait for all epilogue threads of the CTA."""
        cute.arch.barrier(barrier_id=EPILOGUE_BARRIER, number_of_threads=self.config.epilogue_threads)

    def list_exchange(self, barriers: cute.Pointer, work: Work) -> Exchange:
        """Between all CTAs with our tokens."""
        c = self.config
        return Exchange(barriers, self.group, work.ranks[0], c.cluster_m, c.epilogue_threads // WARP)

    def staging_exchange(self, barriers: cute.Pointer, work: Work) -> Exchange:
        """Between the CTAs with our tokens and our experts."""
        c = self.config
        m_rank, expert_rank, _ = work.ranks
        first = m_rank + c.cluster_m * expert_rank
        stride = c.cluster_m * c.expert_split
        return Exchange(barriers + BARRIERS, c.split_k, first, stride, c.epilogue_threads // WARP)

    @cute.jit
    def init_barriers(self, barriers: cute.Pointer, work: Work, thread: Int32) -> None:
        """Set up the mbarriers of the exchanges that this config needs."""
        if thread == 0:
            if const_expr(self.group > 1):
                self.list_exchange(barriers, work).init()
            if const_expr(self.config.split_k > 1):
                self.staging_exchange(barriers, work).init()

    @cute.jit
    def run(
        self, accumulators: pipeline.PipelineUmmaAsync, place: Place, bias: cute.Tensor, out: Outputs
    ) -> None:
        """An epilogue thread's whole life: every expert tile of every token tile."""
        c = self.config
        self.load_bias(bias, place)
        self.barrier()
        copy, source, fragment = self.tmem_load(place)
        values = cute.make_tensor(fragment.iterator, cute.make_layout(c.epi_n))
        state = self.start()
        release_step = -1 if c.iter_acc_early_release is None else c.iter_acc_early_release
        read = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, c.acc_stages)
        for turn in cutlass.range(place.work.token_tiles, unroll=1):
            token_tile = place.work.token_tile(turn)
            if const_expr(state is not None):
                state.clear()
            for tile in cutlass.range(self.n_tiles, unroll=1):
                accumulators.consumer_wait(read)
                fence_after_sync()
                # Overlapping accumulators alternate; the first of them shares its last columns.
                index = read.phase if const_expr(c.overlaps) else read.index
                accumulator = source[(None, None, None, None, index)]
                if const_expr(c.stages_accumulators):
                    use = turn * self.n_tiles + tile
                    self.stage(accumulators, copy, accumulator, fragment, values, use, read, place)
                    self.walk_staged(state, tile, use, token_tile, place, out)
                else:
                    for step in cutlass.range(c.walk_steps, unroll=1):
                        subtile = step * c.epi_warpgroups + place.thread // WARPGROUP
                        if const_expr(c.overlaps):
                            subtile = select_(index == 0, c.subtiles - 1 - subtile, subtile)
                        cute.copy(copy, accumulator[(None, None, None, subtile)], fragment)
                        cute.arch.fence_view_async_tmem_load()
                        if step == release_step:
                            self.give_back(accumulators, read)
                        first = tile * c.expert_tile + subtile * c.epi_n
                        self.take_subtile(state, values, first, token_tile, place, out)
                    if const_expr(c.iter_acc_early_release is None):
                        self.give_back(accumulators, read)
                read.advance()
            self.finish(state, turn, token_tile, place, out)

    @cute.jit
    def load_bias(self, bias: cute.Tensor, place: Place) -> None:
        """The selection bias of this CTA's experts, once; experts past E get 0 and are masked later."""
        c = self.config
        columns = self.n_tiles * c.expert_tile
        first_expert = place.work.first_expert_tile * c.expert_tile
        of_cta = place.bias
        for step in cutlass.range_constexpr(-(-columns // c.epilogue_threads)):
            column = place.thread + step * c.epilogue_threads
            if column < columns:
                value = Float32(0.0)
                if first_expert + column < self.problem.experts:
                    value = bias[first_expert + column]
                of_cta[column] = value

    def tmem_load(self, place: Place) -> tuple[cute.TiledCopy, cute.Tensor, cute.Tensor]:
        """The load of a subtile: the copy, its sources (..., subtiles, accumulators), its registers."""
        c = self.config
        op = tcgen05.Ld32x32bOp(tcgen05.Repetition(c.epi_n), tcgen05.Pack.NONE)
        subtile = (TMEM_LANES, c.epi_n)
        tensor = cute.flat_divide(place.tensor[((None, None), 0, 0, None)], subtile)
        copy = tcgen05.make_tmem_copy(cute.make_copy_atom(op, Float32), tensor[(None, None, 0, 0, 0)])
        of_thread = copy.get_slice(place.thread % WARPGROUP)
        source = of_thread.partition_S(tensor[(None, None, 0, None, None)])
        registers = of_thread.partition_D(cute.make_identity_tensor(subtile))
        return copy, source, cute.make_rmem_tensor(registers.shape, Float32)

    @cute.jit
    def give_back(self, accumulators: pipeline.PipelineUmmaAsync, state: pipeline.PipelineState) -> None:
        """Let the MMA warp overwrite the accumulator, as far as this warp is concerned."""
        fence_before_sync()
        with cute.arch.elect_one():
            accumulators.consumer_release(state)

    def staged(self, place: Place) -> cute.Tensor:
        """The staged accumulator: [rows, columns] of the MMA, fp32."""
        c = self.config
        layout = cute.make_layout((c.rows, c.mma_n), stride=(1, c.rows + STAGING_PADDING))
        return cute.make_tensor(place.staging, layout)

    @cute.jit
    def stage(
        self,
        accumulators: pipeline.PipelineUmmaAsync,
        copy: cute.TiledCopy,
        accumulator: cute.Tensor,
        fragment: cute.Tensor,
        values: cute.Tensor,
        use: Int32,
        read: pipeline.PipelineState,
        place: Place,
    ) -> None:
        """Store the accumulator in shared memory, for the `use`-th time, and give it back."""
        c = self.config
        staged = self.staged(place)
        exchange = self.staging_exchange(place.barriers, place.work)
        if const_expr(c.split_k > 1):
            exchange.acquire(use)
        else:
            self.barrier()
        row = place.thread % WARPGROUP
        for step in cutlass.range(c.walk_steps, unroll=1):
            subtile = step * c.epi_warpgroups + place.thread // WARPGROUP
            cute.copy(copy, accumulator[(None, None, None, subtile)], fragment)
            cute.arch.fence_view_async_tmem_load()
            for column in cutlass.range_constexpr(c.epi_n):
                staged[row, subtile * c.epi_n + column] = values[column]
        self.give_back(accumulators, read)
        if const_expr(c.split_k > 1):
            exchange.publish()
            exchange.await_peers(use)
        else:
            self.barrier()

    @cute.jit
    def walk_staged(
        self,
        state: Any,
        tile: Int32,
        use: Int32,
        token_tile: Int32,
        place: Place,
        out: Outputs,
    ) -> None:
        """Consume this CTA's share of the experts of a staged tile, added up over the K split."""
        c = self.config
        staged = self.staged(place)
        exchange = self.staging_exchange(place.barriers, place.work)
        token, slot = place.thread % c.token_tile, place.thread // c.token_tile
        share = c.expert_tile // c.split_k
        first = place.work.ranks[2] * share
        parts = [exchange.address(staged, member) for member in range(c.split_k)] if c.split_k > 1 else []
        steps = share // c.lists_per_row
        batch = math.gcd(steps, STAGED_BATCH)
        # Rows past M would cost as much as others; most are, when tokens are few.
        if token_tile * c.token_tile + token < out.weights.shape[0]:
            for turn in cutlass.range(steps // batch, unroll=1):
                expert = first + turn * batch * c.lists_per_row + slot
                totals = self.read_staged(staged, parts, expert, token, batch)
                for step in cutlass.range_constexpr(batch):
                    index = tile * c.expert_tile + expert + step * c.lists_per_row
                    self.take(state, totals[step] * place.alpha, index, token_tile, place, out)
        if const_expr(c.split_k > 1):
            exchange.release(use + 1 < place.work.token_tiles * self.n_tiles)

    def read_staged(
        self, staged: cute.Tensor, parts: list[cute.Pointer], expert: Int32, token: Int32, batch: int
    ) -> list[Float32]:
        """A token's logits of `batch` experts, `expert` the first, added up over `parts`.

        Every load comes before the first addition. The compiler does not move inline PTX, so that loads from
        other CTAs, some 200 cycles each, would wait for the insertion of the expert before (modelled at
        M = 1: 19.9 us with that, 16.7 without).
        """
        c = self.config
        experts = [expert + step * c.lists_per_row for step in range(batch)]
        coordinates = [(one, token) if c.swap_operands else (token, one) for one in experts]
        if not parts:
            return [staged[coordinate] for coordinate in coordinates]
        loaded = [[load_peer(part, staged, coordinate) for part in parts] for coordinate in coordinates]
        return [sum(values, Float32(0.0)) for values in loaded]


class LogitsEpilogue(Epilogue):
    """Store alpha * accumulator as logits [M, E] fp32."""

    def start(self) -> Any:
        return None

    @cute.jit
    def take(
        self, state: Any, logit: Float32, index: Int32, token_tile: Int32, place: Place, out: Outputs
    ) -> None:
        c = self.config
        token = token_tile * c.token_tile + place.thread % c.token_tile
        expert = place.work.first_expert_tile * c.expert_tile + index
        if token < out.weights.shape[0] and expert < self.problem.experts:
            out.weights[token, expert] = logit

    @cute.jit
    def take_subtile(
        self, state: Any, values: cute.Tensor, first: Int32, token_tile: Int32, place: Place, out: Outputs
    ) -> None:
        c, experts = self.config, self.problem.experts
        if const_expr(experts % VECTOR):
            super().take_subtile(state, values, first, token_tile, place, out)
        else:
            token = token_tile * c.token_tile + place.thread % c.token_tile
            expert = place.work.first_expert_tile * c.expert_tile + first
            if token < out.weights.shape[0]:
                for column in cutlass.range_constexpr(0, c.epi_n, VECTOR):
                    if expert + column < experts:
                        logits = [values[column + element] * place.alpha for element in range(VECTOR)]
                        store_logits(logits, token, expert + column, out.weights)

    def finish(self, state: Any, turn: Int32, token_tile: Int32, place: Place, out: Outputs) -> None:
        pass

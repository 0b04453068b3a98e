"""What happens to a finished accumulator: the router, or, on the two-kernel path, a store of the logits.

A consumer warp holds 16 rows of each of its 64-row blocks, four lanes to a row (PTX ISA, "register fragments
for wgmma.mma_async.m64nNk16", matrix D): lane l has rows l/4 and l/4 + 8, columns 8 j + 2 (l % 4) + {0, 1}.

The router takes `epi_n` columns at a time through a scratch of the warp's own in shared memory, where two
lanes own a row and walk its columns in a rolled loop. Fed straight from the fragment, the scores and
insertions of every column are code of their own, 100 KB of it and executed once: on an H100 (2026-11-23) a
launch at M = 1 took 19 us however short its K loop was, most of it waiting for instructions.

A row's two lists are merged by shuffle, left in shared memory, and merged over all warpgroups and CTAs that
hold some of the row's experts; every CTA of the group merges an equal share of the rows. Lists and split-K
partials overlay the ring of stages: every load that targets a CTA's ring has been waited for by its own
consumers before any of them passes the barrier that precedes the overlay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, const_expr
from cutlass.cutlass_dsl import select_

from kernels.device.fences import sync_cluster_shared
from kernels.device.logits import store_logits
from kernels.device.peers import load_peer
from kernels.device.score import activation
from kernels.device.topk import EMPTY_KEY, TopK, lanes_for, sort_key, write_row
from kernels.problem import RouterProblem
from kernels.sm90.config import COUNTERS, SCRATCH_PADDING, SCRATCH_ROWS, WARPGROUP, WGMMA_M, Sm90Config

CONSUMER_BARRIER = 1
WARP = 32
PAIR = 2  # neighbouring columns that a lane holds
# Columns in flight in the rolled loops: enough to cover the latency of exp, rcp and sqrt.
ROLLED = 4


@dataclass(frozen=True)
class Outputs:
    """What the kernel writes: `weights` [M, k] fp32 and `ids` [M, k] int32; or `weights` is logits [M, E].

    `workspace` is the launch's; `arrivals` is one int32 of shared memory for what a grid split counts there.
    """

    weights: cute.Tensor
    ids: cute.Tensor
    workspace: cute.Tensor
    arrivals: cute.Pointer


@dataclass(frozen=True)
class Place:
    """Where a consumer thread stands: its index among the consumers, and its CTA's part of the problem."""

    thread: Int32
    m_tile: Int32
    first_expert: Int32
    coordinates: cute.Tensor  # (row, column) in the CTA's tile of each element of the accumulator
    scratch: cute.Tensor  # [16, epi_n] fp32 in shared memory, of this warp alone

    @property
    def lane(self) -> Int32:
        return self.thread % WARP

    def first_row(self, block: int) -> Int32:
        """The tile's row where the 16 rows of this warp in its 64-row block `block` begin."""
        return self.coordinates[((0, 0, 0), block, 0)][0] - self.lane // 4

    def first_column(self) -> Int32:
        """The tile's column where those of this warpgroup begin."""
        return self.coordinates[((0, 0, 0), 0, 0)][1] - 2 * (self.lane % 4)


class Epilogue:
    """What both epilogues share: the exchange through shared memory and the sum over a K split."""

    # Cluster barriers inside `finish`, which the producer warpgroup has to join.
    finish_cluster_barriers = 0

    def __init__(self, problem: RouterProblem, config: Sm90Config) -> None:
        self.problem = problem
        self.config = config
        self.n_tiles = config.n_tiles(problem)
        self.group = config.group_size
        self.consumer_threads = WARPGROUP * config.warpgroups
        self.blocks = config.rows_per_warpgroup // WGMMA_M
        self.scratch_elements = config.scratch_bytes // 4

    def scratch_of_warp(self, scratch: cute.Pointer, thread: Int32) -> cute.Tensor:
        """The part of the CTA's scratch that the warp of consumer `thread` has to itself."""
        stride = self.config.epi_n + SCRATCH_PADDING
        layout = cute.make_layout((SCRATCH_ROWS, self.config.epi_n), stride=(stride, 1))
        return cute.make_tensor(scratch + thread // WARP * SCRATCH_ROWS * stride, layout)

    def start(self) -> list[TopK]:
        """The state that `take` updates, one for each row that a lane owns."""
        raise NotImplementedError

    def walk(
        self,
        accumulator: cute.Tensor,
        state: list[TopK],
        alpha: Float32,
        bias: cute.Tensor,
        tile: Int32,
        place: Place,
        out: Outputs,
    ) -> None:
        """Consume one expert tile."""
        raise NotImplementedError

    def take(
        self,
        state: list[TopK],
        block: int,
        logit: Float32,
        column: Int32,
        bias: cute.Tensor,
        place: Place,
        out: Outputs,
    ) -> None:
        """Consume one logit of this lane's row of block `block`; `column` counts from the CTA's first."""
        raise NotImplementedError

    def finish(self, state: list[TopK], overlay: cute.Pointer, place: Place, out: Outputs) -> None:
        """After the last tile."""
        raise NotImplementedError

    def exchange(
        self, accumulator: cute.Tensor, block: int, first: int, columns: int, rows: cute.Tensor, place: Place
    ) -> None:
        """Store columns `first` to `first + columns` of a block's fragment into `rows` [16, columns]."""
        row, pair = place.lane // 4, 2 * (place.lane % 4)
        for j in range(columns // 8):
            for half in range(2):
                for lower in range(2):
                    value = accumulator[((half, lower, first // 8 + j), block, 0)]
                    rows[row + 8 * lower, 8 * j + pair + half] = value

    @cute.jit
    def reduce(
        self,
        accumulator: cute.Tensor,
        state: list[TopK],
        alpha: Float32,
        bias: cute.Tensor,
        overlay: cute.Pointer,
        place: Place,
        out: Outputs,
    ) -> None:
        """Split K: add the accumulators of the CTAs with our experts; consume our part of the columns."""
        c = self.config
        _, expert_block, k_rank = cute.arch.block_idx()
        expert_rank = expert_block % c.expert_split
        columns, first_column = c.columns_per_warpgroup, place.first_column()
        ours = columns // c.split_k
        partial = cute.make_tensor(
            cute.recast_ptr(overlay, dtype=Float32),
            cute.make_layout((c.mma_rows, c.tile_n), stride=(c.tile_n + SCRATCH_PADDING, 1)),
        )
        self.consumer_barrier()
        for block in cutlass.range_constexpr(self.blocks):
            rows = cute.domain_offset((place.first_row(block), first_column), partial)
            self.exchange(accumulator, block, 0, columns, rows, place)
        sync_cluster_shared()
        peers = [
            self.peer_address(partial, expert_rank + c.expert_split * peer, place)
            for peer in range(c.split_k)
        ]
        steps = ours // 2
        batch = math.gcd(steps, ROLLED)
        for block in cutlass.range_constexpr(self.blocks):
            row = place.first_row(block) + place.lane // 2
            # Rows without a token would read as much from the other CTAs; with few tokens most are.
            if row < c.tile_m and place.m_tile * c.tile_m + row < out.weights.shape[0]:
                for turn in cutlass.range(steps // batch, unroll=1):
                    first = first_column + k_rank * ours + 2 * batch * turn + place.lane % 2
                    # Every load comes before the first addition: inline PTX stays in its order.
                    loaded = [
                        [load_peer(peer, partial, (row, first + 2 * step)) for peer in peers]
                        for step in range(batch)
                    ]
                    for step in cutlass.range_constexpr(batch):
                        total = sum(loaded[step], Float32(0.0))
                        self.take(state, block, total * alpha, first + 2 * step, bias, place, out)

    def consumer_barrier(self) -> None:
        """Wait for all consumer threads of the CTA."""
        cute.arch.barrier(barrier_id=CONSUMER_BARRIER, number_of_threads=self.consumer_threads)

    def peer_address(self, tensor: cute.Tensor, group_rank: Int32, place: Place) -> cute.Pointer:
        """Where `tensor`, one of our shared-memory tensors, begins in a CTA with the same tokens as ours."""
        m_rank = place.m_tile % self.config.cluster_m
        return cute.arch.map_dsmem_ptr(tensor.iterator, m_rank + self.config.cluster_m * group_rank)


class LogitsEpilogue(Epilogue):
    """Store alpha * accumulator as logits [M, E] fp32, from the fragment.

    A lane stores its two neighbouring columns at once, so that a quad fills a 32-byte sector: an SM passes it
    in 1.4 cycles, measured on an H200. One by one, each of two stores leaves gaps in it and takes some 4.
    """

    def __init__(self, problem: RouterProblem, config: Sm90Config) -> None:
        super().__init__(problem, config)
        self.scratch_elements = 1

    def start(self) -> list[TopK]:
        return []

    def walk(
        self,
        accumulator: cute.Tensor,
        state: list[TopK],
        alpha: Float32,
        bias: cute.Tensor,
        tile: Int32,
        place: Place,
        out: Outputs,
    ) -> None:
        for block in range(self.blocks):
            for j in range(self.config.columns_per_warpgroup // 8):
                for lower in range(2):
                    pair = [((element, lower, j), block, 0) for element in range(PAIR)]
                    row, column = place.coordinates[pair[0]]
                    logits = [accumulator[index] * alpha for index in pair]
                    self.store_pair(logits, row, column + tile * self.config.tile_n, place, out)

    def take(
        self,
        state: list[TopK],
        block: int,
        logit: Float32,
        column: Int32,
        bias: cute.Tensor,
        place: Place,
        out: Outputs,
    ) -> None:
        self.store(logit, place.first_row(block) + place.lane // 2, column, place, out)

    @cute.jit
    def store(self, logit: Float32, row: Int32, column: Int32, place: Place, out: Outputs) -> None:
        """Write one logit unless it is past M or E."""
        token = place.m_tile * self.config.tile_m + row
        expert = place.first_expert + column
        if row < self.config.tile_m and token < out.weights.shape[0] and expert < self.problem.experts:
            out.weights[token, expert] = logit

    @cute.jit
    def store_pair(
        self, logits: list[Float32], row: Int32, column: Int32, place: Place, out: Outputs
    ) -> None:
        """Write the logits of `column`, an even one, and of the next, unless they are past M or E."""
        experts = self.problem.experts
        if const_expr(experts % PAIR):
            for element in cutlass.range_constexpr(PAIR):
                self.store(logits[element], row, column + element, place, out)
        else:
            token = place.m_tile * self.config.tile_m + row
            expert = place.first_expert + column
            if row < self.config.tile_m and token < out.weights.shape[0] and expert < experts:
                store_logits(logits, token, expert, out.weights)

    def finish(self, state: list[TopK], overlay: cute.Pointer, place: Place, out: Outputs) -> None:
        pass


class RouterEpilogue(Epilogue):
    """Score, bias, running top k, merge, renormalize, scale, write."""

    def __init__(self, problem: RouterProblem, config: Sm90Config) -> None:
        super().__init__(problem, config)
        self.finish_cluster_barriers = int(self.group > 1)
        ctas = config.expert_split * config.grid_split
        self.masked = config.tile_n * self.n_tiles * ctas > problem.experts

    def start(self) -> list[TopK]:
        return [TopK.empty(self.problem.top_k) for _ in range(self.blocks)]

    @cute.jit
    def walk(
        self,
        accumulator: cute.Tensor,
        state: list[TopK],
        alpha: Float32,
        bias: cute.Tensor,
        tile: Int32,
        place: Place,
        out: Outputs,
    ) -> None:
        c = self.config
        for block in cutlass.range_constexpr(self.blocks):
            for subtile in cutlass.range_constexpr(c.columns_per_warpgroup // c.epi_n):
                self.exchange(accumulator, block, subtile * c.epi_n, c.epi_n, place.scratch, place)
                cute.arch.sync_warp()
                first = tile * c.tile_n + place.first_column() + subtile * c.epi_n
                for step in cutlass.range(c.epi_n // 2, unroll=ROLLED):
                    column = 2 * step + place.lane % 2
                    logit = place.scratch[place.lane // 2, column] * alpha
                    self.take(state, block, logit, first + column, bias, place, out)
                cute.arch.sync_warp()

    def take(
        self,
        state: list[TopK],
        block: int,
        logit: Float32,
        column: Int32,
        bias: cute.Tensor,
        place: Place,
        out: Outputs,
    ) -> None:
        score = activation(self.problem.score, logit)
        key = sort_key(score + bias[column] if self.problem.bias else score)
        expert = place.first_expert + column
        if self.masked:
            key = select_(expert < self.problem.experts, key, Float32(EMPTY_KEY))
        state[block].insert(key, expert, score)

    def finish(self, state: list[TopK], overlay: cute.Pointer, place: Place, out: Outputs) -> None:
        self.leave_lists(state, overlay, place)
        self.merge(overlay, place, out)

    def merge_tensors(self, overlay: cute.Pointer) -> tuple[cute.Tensor, cute.Tensor, cute.Tensor]:
        """s_merge_s, s_merge_i and s_merge_a: (k, tile_m, lists per row), behind the split-K partials."""
        c = self.config
        layout = cute.make_layout((self.problem.top_k, c.mma_rows, c.lists_per_row))
        first = cute.recast_ptr(overlay, dtype=Float32) + c.reduction_bytes // 4
        size = cute.size(layout)
        return (
            cute.make_tensor(first, layout),
            cute.make_tensor(cute.recast_ptr(first + size, dtype=Int32), layout),
            cute.make_tensor(first + 2 * size, layout),
        )

    @cute.jit
    def leave_lists(self, state: list[TopK], overlay: cute.Pointer, place: Place) -> None:
        """Merge each row's two lists and leave them in shared memory for the merge of the row."""
        s_merge = self.merge_tensors(overlay)
        slot = place.thread // WARPGROUP if const_expr(self.config.lists_per_row > 1) else 0
        if const_expr(self.config.split_k == 1):
            self.consumer_barrier()  # every MMA has read the ring that the lists overlay
        for block in cutlass.range_constexpr(self.blocks):
            top = state[block]
            top.merge_lanes(2)
            if place.lane % 2 == 0:
                in_tile = place.first_row(block) + place.lane // 2
                for p in cutlass.range_constexpr(self.problem.top_k):
                    for held, tensor in zip((top.s, top.i, top.a), s_merge, strict=True):
                        tensor[p, in_tile, slot] = held[p]
        if const_expr(self.group > 1):
            sync_cluster_shared()
        else:
            self.consumer_barrier()

    @cute.jit
    def merge(self, overlay: cute.Pointer, place: Place, out: Outputs) -> None:
        """Merge this CTA's share of the rows over the cluster's lists; write them, or pass them on."""
        c = self.config
        lists = c.lists_per_row * self.group
        lanes = lanes_for(lists)
        share = -(-c.tile_m // self.group)
        at_once = self.consumer_threads // lanes
        first_row = share * self.group_rank()
        for step in cutlass.range(-(-share // at_once), unroll=1):
            row = step * at_once + place.thread // lanes
            lane = place.thread % lanes
            in_tile = first_row + row
            token = place.m_tile * c.tile_m + in_tile
            # Whole warps stay together for the shuffles; a lane without a row or a list merges empty ones.
            ours = (row < share) & (in_tile < c.tile_m) & (token < out.weights.shape[0])
            top = self.read_list(overlay, in_tile, lane, place, ours & (lane < lists))
            top.merge_lanes(lanes)
            if lane == 0 and ours:
                if const_expr(c.grid_split > 1):
                    self.publish(top, out, token)
                else:
                    self.write(top, out, token)
        if const_expr(c.grid_split > 1):
            self.merge_published(first_row, share, place, out)

    def write(self, top: TopK, out: Outputs, token: Int32) -> None:
        """Write one finished row."""
        write_row(top, self.problem, out.weights, out.ids, token)

    def group_rank(self) -> Int32:
        """This CTA's rank among those of its cluster that work on the same tokens."""
        _, expert_block, k_rank = cute.arch.block_idx()
        return expert_block % self.config.expert_split + self.config.expert_split * k_rank

    def published(self, out: Outputs) -> tuple[cute.Tensor, cute.Tensor, cute.Tensor, cute.Tensor]:
        """The workspace: arrival counters, then s, i and a of the lists, (k, grid_split, M) each."""
        lists = cute.make_layout((self.problem.top_k, self.config.grid_split, out.weights.shape[0]))
        first = out.workspace.iterator + COUNTERS
        size = cute.size(lists)
        return (
            cute.make_tensor(
                cute.recast_ptr(out.workspace.iterator, dtype=Int32), cute.make_layout(COUNTERS)
            ),
            cute.make_tensor(first, lists),
            cute.make_tensor(cute.recast_ptr(first + size, dtype=Int32), lists),
            cute.make_tensor(first + 2 * size, lists),
        )

    def publish(self, top: TopK, out: Outputs, token: Int32) -> None:
        """Leave one row's list where the last cluster of the grid split will find it."""
        _, expert_block, _ = cute.arch.block_idx()
        _, *tensors = self.published(out)
        for held, tensor in zip((top.s, top.i, top.a), tensors, strict=True):
            for p in range(self.problem.top_k):
                tensor[p, expert_block // self.config.expert_split, token] = held[p]

    @cute.jit
    def merge_published(self, first_row: Int32, share: int, place: Place, out: Outputs) -> None:
        """The last CTA to arrive merges the published lists of its share of the rows.

        Each counter returns to zero, ready for the next launch.
        """
        c = self.config
        counters, *tensors = self.published(out)
        counter = counters.iterator + place.m_tile * self.group + self.group_rank()
        arrivals = cute.make_tensor(out.arrivals, cute.make_layout(1))
        # The barriers on both sides make thread 0's release and acquire those of the whole CTA (PTX ISA,
        # memory consistency model, causality order); a fence in every thread would cost each 0.7 us.
        self.consumer_barrier()
        if place.thread == 0:
            arrivals[0] = cute.arch.atomic_add(counter, Int32(1), sem="acq_rel", scope="gpu")
        self.consumer_barrier()
        if arrivals[0] == c.grid_split - 1:
            if place.thread == 0:
                cute.make_tensor(counter, cute.make_layout(1))[0] = Int32(0)
            lanes = lanes_for(c.grid_split)
            at_once = self.consumer_threads // lanes
            for step in cutlass.range(-(-share // at_once), unroll=1):
                row = step * at_once + place.thread // lanes
                lane = place.thread % lanes
                token = place.m_tile * c.tile_m + first_row + row
                ours = (row < share) & (first_row + row < c.tile_m) & (token < out.weights.shape[0])
                top = TopK.empty(self.problem.top_k)
                if ours and lane < c.grid_split:
                    for held, tensor in zip((top.s, top.i, top.a), tensors, strict=True):
                        for p in cutlass.range_constexpr(self.problem.top_k):
                            # Past the L1, which may hold what an earlier launch published here.
                            address = tensor.iterator + cute.crd2idx((p, lane, token), tensor.layout)
                            held[p] = cute.arch.load(address, tensor.element_type, cop="cg")
                top.merge_lanes(lanes)
                if lane == 0 and ours:
                    self.write(top, out, token)

    @cute.jit
    def read_list(
        self, overlay: cute.Pointer, row: Int32, index: Int32, place: Place, exists: Boolean
    ) -> TopK:
        """The partial list `index` of a row of the tile: from the CTA of the group that holds it."""
        c = self.config
        top = TopK.empty(self.problem.top_k)
        if exists:
            for held, tensor in zip((top.s, top.i, top.a), self.merge_tensors(overlay), strict=True):
                for p in cutlass.range_constexpr(self.problem.top_k):
                    coordinate = (p, row, index % c.lists_per_row)
                    if const_expr(self.group > 1):
                        address = self.peer_address(tensor, index // c.lists_per_row, place)
                        held[p] = load_peer(address, tensor, coordinate)
                    else:
                        held[p] = tensor[coordinate]
        return top

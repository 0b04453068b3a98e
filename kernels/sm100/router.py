"""The router as an epilogue: score, bias, running top k, merge, renormalize, scale, write.

A row's lists, of several warpgroups or CTAs, are left in shared memory and merged by as many lanes as there
are lists; every CTA of the group merges an equal share of the rows. In a grid split the merged lists go to
global memory, where the last CTA to arrive merges them once more.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, const_expr
from cutlass.cutlass_dsl import select_

from kernels.device.peers import load_peer
from kernels.device.score import activation
from kernels.device.topk import EMPTY_ID, EMPTY_KEY, TopK, lanes_for, sort_key, write_row
from kernels.problem import RouterProblem
from kernels.sm100.config import Sm100Config
from kernels.sm100.epilogue import Epilogue, Outputs, Place
from kernels.sm100.exchange import Exchange
from kernels.sm100.grid_merge import Published, load_published


class RouterEpilogue(Epilogue):
    """Score, bias, running top k, merge, renormalize, scale, write."""

    def __init__(self, problem: RouterProblem, config: Sm100Config) -> None:
        super().__init__(problem, config)
        self.lists = config.lists_per_row * self.group
        ctas = config.expert_split * config.grid_split
        self.masked = config.expert_tile * self.n_tiles * ctas > problem.experts
        self.share = -(-config.token_tile // self.group)

    def start(self) -> Any:
        return TopK.empty(self.problem.top_k)

    def take(
        self, state: Any, logit: Float32, index: Int32, token_tile: Int32, place: Place, out: Outputs
    ) -> None:
        score = activation(self.problem.score, logit)
        key = sort_key(score + place.bias[index] if self.problem.bias else score)
        expert = place.work.first_expert_tile * self.config.expert_tile + index
        if self.masked:
            exists = expert < self.problem.experts
            key = select_(exists, key, Float32(EMPTY_KEY))
            expert = select_(exists, expert, Int32(EMPTY_ID))
        state.insert(key, expert, score)

    def take_subtile(
        self, state: Any, values: cute.Tensor, first: Int32, token_tile: Int32, place: Place, out: Outputs
    ) -> None:
        """Consume a subtile. Overlapping accumulators are also walked in reverse: held ids may be higher.

        Two passes over the list a subtile are 3 % of its instructions at 32 columns; comparing ids in every
        insertion would be 30 % more.
        """
        if not self.config.overlaps:
            super().take_subtile(state, values, first, token_tile, place, out)
            return
        expert = place.work.first_expert_tile * self.config.expert_tile + first
        state.lower_from(expert)
        super().take_subtile(state, values, first, token_tile, place, out)
        state.raise_from(expert + self.config.epi_n)

    @cute.jit
    def finish(self, state: Any, turn: Int32, token_tile: Int32, place: Place, out: Outputs) -> None:
        c = self.config
        if const_expr(self.lists == 1):
            token = token_tile * c.token_tile + place.thread
            if token < out.weights.shape[0]:
                self.put(state, token, place, out)
        else:
            exchange = self.list_exchange(place.barriers, place.work)
            if const_expr(self.group > 1):
                exchange.acquire(turn)
            else:
                self.barrier()
            self.leave_list(state, place)
            if const_expr(self.group > 1):
                exchange.publish()
                exchange.await_peers(turn)
            else:
                self.barrier()
            self.merge(exchange, token_tile, place, out)
            if const_expr(self.group > 1):
                exchange.release(turn + 1 < place.work.token_tiles)
        if const_expr(c.grid_split > 1):
            self.merge_published(token_tile, place, out)

    def merge_tensors(self, place: Place) -> tuple[cute.Tensor, cute.Tensor, cute.Tensor]:
        """s_merge_s, s_merge_i and s_merge_a: (k, tokens, lists per row)."""
        c = self.config
        layout = cute.make_layout((self.problem.top_k, c.token_tile, c.lists_per_row))
        size = cute.size(layout)
        floats = cute.recast_ptr(place.lists, dtype=Float32)
        return (
            cute.make_tensor(floats, layout),
            cute.make_tensor(place.lists + size, layout),
            cute.make_tensor(floats + 2 * size, layout),
        )

    def leave_list(self, top: TopK, place: Place) -> None:
        """Leave this thread's list in shared memory for the merge of its row."""
        c = self.config
        token, slot = place.thread % c.token_tile, place.thread // c.token_tile
        for held, tensor in zip((top.s, top.i, top.a), self.merge_tensors(place), strict=True):
            for p in range(self.problem.top_k):
                tensor[p, token, slot] = held[p]

    @cute.jit
    def merge(self, exchange: Exchange, token_tile: Int32, place: Place, out: Outputs) -> None:
        """Merge this CTA's share of the rows over the cluster's lists; write them, or pass them on."""
        c = self.config
        lanes = lanes_for(self.lists)
        at_once = c.epilogue_threads // lanes
        first_row = self.share * self.group_rank(place)
        for step in cutlass.range(-(-self.share // at_once), unroll=1):
            row = step * at_once + place.thread // lanes
            lane = place.thread % lanes
            in_tile = first_row + row
            token = token_tile * c.token_tile + in_tile
            # Whole warps stay together for the shuffles; a lane without a row or a list merges empty ones.
            ours = (row < self.share) & (in_tile < c.token_tile) & (token < out.weights.shape[0])
            top = self.read_list(exchange, in_tile, lane, place, ours & (lane < self.lists))
            top.merge_lanes(lanes)
            if lane == 0 and ours:
                self.put(top, token, place, out)

    @cute.jit
    def read_list(self, exchange: Exchange, row: Int32, index: Int32, place: Place, exists: Boolean) -> TopK:
        """The partial list `index` of a row of the tile: from the CTA of the group that holds it."""
        c = self.config
        top = TopK.empty(self.problem.top_k)
        member = cutlass.min(index // c.lists_per_row, self.group - 1)
        if exists:
            for held, tensor in zip((top.s, top.i, top.a), self.merge_tensors(place), strict=True):
                for p in cutlass.range_constexpr(self.problem.top_k):
                    coordinate: Any = (p, row, index % c.lists_per_row)
                    if const_expr(self.group > 1):
                        held[p] = self.read_member(exchange, tensor, coordinate, member)
                    else:
                        held[p] = tensor[coordinate]
        return top

    def read_member(self, exchange: Exchange, tensor: cute.Tensor, coordinate: Any, member: Int32) -> Any:
        """One element of `tensor`, a tensor in our shared memory, as `member` of the exchange has it."""
        return load_peer(exchange.address(tensor, member), tensor, coordinate)

    def group_rank(self, place: Place) -> Int32:
        """This CTA's rank among those of its cluster that work on the same tokens."""
        _, expert_rank, k_rank = place.work.ranks
        return expert_rank + self.config.expert_split * k_rank

    def put(self, top: TopK, token: Int32, place: Place, out: Outputs) -> None:
        """Write one row, or, in a grid split, leave it where the last cluster will find it."""
        if self.config.grid_split == 1:
            write_row(top, self.problem, out.weights, out.ids, token)
        else:
            published = Published.of_workspace(self.problem, self.config, out.workspace, out.weights.shape[0])
            published.store(top, place.work.grid_rank, token)

    @cute.jit
    def merge_published(self, token_tile: Int32, place: Place, out: Outputs) -> None:
        """The last CTA to arrive merges the published lists of its share of a token tile's rows."""
        c = self.config
        published = Published.of_workspace(self.problem, c, out.workspace, out.weights.shape[0])
        counter = published.counters + token_tile * self.group + self.group_rank(place)
        arrivals = cute.make_tensor(place.arrivals, cute.make_layout(1))
        # The barriers on both sides make thread 0's release and acquire those of the whole CTA (PTX ISA,
        # memory consistency model, causality order).
        self.barrier()
        if place.thread == 0:
            arrivals[0] = cute.arch.atomic_add(counter, Int32(1), sem="acq_rel", scope="gpu")
        self.barrier()
        if arrivals[0] == c.grid_split - 1:
            if place.thread == 0:
                cute.make_tensor(counter, cute.make_layout(1))[0] = Int32(0)  # ready for the next launch
            lanes = lanes_for(c.grid_split)
            at_once = c.epilogue_threads // lanes
            first_row = self.share * self.group_rank(place)
            for step in cutlass.range(-(-self.share // at_once), unroll=1):
                row = step * at_once + place.thread // lanes
                lane = place.thread % lanes
                token = token_tile * c.token_tile + first_row + row
                ours = (row < self.share) & (first_row + row < c.token_tile) & (token < out.weights.shape[0])
                top = TopK.empty(self.problem.top_k)
                if ours and lane < c.grid_split:
                    load_published(published, top, lane, token)
                top.merge_lanes(lanes)
                if lane == 0 and ours:
                    write_row(top, self.problem, out.weights, out.ids, token)

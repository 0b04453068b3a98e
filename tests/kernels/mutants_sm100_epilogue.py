"""Defects of the Blackwell kernel's epilogue and of its exchanges between CTAs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.cutlass_dsl import select_

from kernels.device.peers import load_peer
from kernels.device.score import activation
from kernels.device.topk import TopK, sort_key
from kernels.problem import RouterProblem
from kernels.sm100 import epilogue as epilogue_module
from kernels.sm100 import router as router_module
from kernels.sm100.config import Sm100Config
from kernels.sm100.epilogue import Outputs, Place
from kernels.sm100.exchange import Exchange
from kernels.sm100.router import RouterEpilogue
from tests.kernels.planting import Without, nothing

# The epilogue.


def taking(change: Callable[..., tuple[Any, ...]]) -> type[RouterEpilogue]:
    class Mutant(RouterEpilogue):
        def take(
            self, state: Any, logit: Float32, index: Int32, token_tile: Int32, place: Place, out: Outputs
        ) -> None:
            score, key = change(self, logit, index, place)
            expert = place.work.first_expert_tile * self.config.expert_tile + index
            state.insert(sort_key(key), expert, score)

    return Mutant


def alpha_after_score(self: Any, logit: Any, index: Any, place: Any) -> Any:
    score = activation(self.problem.score, logit / place.alpha) * place.alpha
    return score, score + place.bias[index]


def alpha_forgotten(self: Any, logit: Any, index: Any, place: Any) -> Any:
    score = activation(self.problem.score, logit / place.alpha)
    return score, score + place.bias[index]


def bias_before_score(self: Any, logit: Any, index: Any, place: Any) -> Any:
    score = activation(self.problem.score, logit)
    return score, activation(self.problem.score, logit + place.bias[index])


def bias_in_weight(self: Any, logit: Any, index: Any, place: Any) -> Any:
    score = activation(self.problem.score, logit) + place.bias[index]
    return score, score


class NoBarrierAfterTheLoads(RouterEpilogue):
    """The warp that frees tensor memory waits for nobody."""

    @cute.jit
    def run(self, accumulators: Any, place: Place, bias: cute.Tensor, out: Outputs) -> None:
        super().run(accumulators, place, bias, out)
        self.barrier = nothing


class BiasUnawaited(RouterEpilogue):
    """The bias in shared memory is read as soon as a warp has stored its own part."""

    @cute.jit
    def load_bias(self, bias: cute.Tensor, place: Place) -> None:
        super().load_bias(bias, place)
        self.barrier = Without(super().barrier, 1)


class LastPartMissing(RouterEpilogue):
    @cute.jit
    def walk_staged(
        self, state: Any, tile: Int32, use: Int32, token_tile: Int32, place: Place, out: Outputs
    ) -> None:
        parts = []

        def load(address: Any, tensor: Any, coordinate: Any) -> Any:
            parts.append(address)
            missing = len(parts) % self.config.split_k == 0
            return Float32(0.0) if missing else load_peer(address, tensor, coordinate)

        with patch.object(epilogue_module, "load_peer", load):
            super().walk_staged(state, tile, use, token_tile, place, out)


class CounterKept(RouterEpilogue):
    """A grid split's counter is not set back for the next launch."""

    @cute.jit
    def merge_published(self, token_tile: Int32, place: Place, out: Outputs) -> None:
        with patch.object(router_module, "Int32", lambda value: Int32(value or self.config.grid_split)):
            super().merge_published(token_tile, place, out)


class Unmasked(RouterEpilogue):
    def __init__(self, problem: RouterProblem, config: Sm100Config) -> None:
        super().__init__(problem, config)
        self.masked = False


class TailUnguarded(RouterEpilogue):
    def finish(self, state: Any, turn: Int32, token_tile: Int32, place: Place, out: Outputs) -> None:
        self.put(state, token_tile * self.config.token_tile + place.thread, place, out)


class ForwardIds(RouterEpilogue):
    """On the reversed walk of overlapping accumulators, experts are counted as on the forward one."""

    def take_subtile(
        self, state: Any, values: cute.Tensor, first: Int32, token_tile: Int32, place: Place, out: Outputs
    ) -> None:
        forward, taken = self.walked
        super().take_subtile(
            state, values, first + (forward - taken) * self.config.epi_n, token_tile, place, out
        )

    @cute.jit
    def run(self, accumulators: Any, place: Place, bias: cute.Tensor, out: Outputs) -> None:
        def remembering(condition: Any, reverse: Any, forward: Any) -> Any:
            taken = select_(condition, reverse, forward)
            self.walked = forward, taken
            return taken

        with patch.object(epilogue_module, "select_", remembering):
            super().run(accumulators, place, bias, out)


class NeverCleared(TopK):
    """Empty when it is made, and not cleared for the next token tile."""

    def clear(self) -> None:
        pass


class NeverLowered(TopK):
    """A newcomer never wins a tie, though a reversed walk meets higher ids first."""

    def lower_from(self, first: Int32) -> None:
        pass

    def raise_from(self, first: Int32) -> None:
        pass


class NeverRaised(TopK):
    """Keys that were lowered for a reversed walk stay so, and lose ties against the next tile's experts."""

    def raise_from(self, first: Int32) -> None:
        pass


def listing(lists: type[TopK]) -> type[RouterEpilogue]:
    class Mutant(RouterEpilogue):
        def start(self) -> Any:
            return lists(**vars(TopK.empty(self.problem.top_k)))

    return Mutant


# Exchanges between CTAs.


def exchanging(**overrides: Any) -> type[RouterEpilogue]:
    exchange = type("MutantExchange", (Exchange,), overrides)

    class Mutant(RouterEpilogue):
        def list_exchange(self, barriers: Any, work: Any) -> Any:
            return exchange(**vars(super().list_exchange(barriers, work)))

        def staging_exchange(self, barriers: Any, work: Any) -> Any:
            return exchange(**vars(super().staging_exchange(barriers, work)))

    return Mutant


def own_address(self: Any, tensor: cute.Tensor, member: Any) -> cute.Pointer:
    return cute.arch.map_dsmem_ptr(tensor.iterator, cute.arch.block_idx_in_cluster())


def first_address(self: Any, tensor: cute.Tensor, member: Any) -> cute.Pointer:
    return cute.arch.map_dsmem_ptr(tensor.iterator, self.rank(0))


def stale_await(self: Any, turn: Int32) -> None:
    cute.arch.mbarrier_wait(self.barriers, (turn & 1) ^ 1)


def stale_acquire(self: Any, turn: Int32) -> None:
    cute.arch.mbarrier_wait(self.barriers + 1, turn & 1)


class PublishedInOnePlace(RouterEpilogue):
    def put(self, top: TopK, token: Int32, place: Place, out: Outputs) -> None:
        super().put(top, token, replace(place, work=replace(place.work, grid_rank=Int32(0))), out)


class GivenBackUnfenced(RouterEpilogue):
    @cute.jit
    def give_back(self, accumulators: Any, state: Any) -> None:
        with cute.arch.elect_one():
            accumulators.consumer_release(state)

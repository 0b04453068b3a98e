"""Deliberate defects planted in the compiled kernel: each is a subclass that overrides one small thing.

Every mutant compiles and runs; the check has to reject it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.cutlass_dsl import select_

from kernels.device.score import activation
from kernels.device.topk import EMPTY_KEY, TopK, sort_key
from kernels.problem import RouterProblem
from kernels.sm90 import epilogue as router
from kernels.sm90.config import Sm90Config
from kernels.sm90.epilogue import Outputs, Place, RouterEpilogue
from kernels.sm90.gemm import Sm90RouterGemm
from kernels.sm90.launch import compile_gemm
from tests.kernels.planted import NO_DEFECT


def taking(change: Callable[..., tuple[Any, ...]]) -> type[RouterEpilogue]:
    """An epilogue whose `take` passes (score, key, expert) through `change(self, logit, column, ...)`."""

    class Mutant(RouterEpilogue):
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
            score, biased, expert = change(self, logit, column, bias, place)
            state[block].insert(sort_key(biased), expert, score)

    return Mutant


def score_of(self: RouterEpilogue, logit: Float32) -> Float32:
    return activation(self.problem.score, logit)


def right(self: RouterEpilogue, logit: Float32, column: Int32, bias: cute.Tensor, place: Place) -> Any:
    score = score_of(self, logit)
    return score, score + bias[column], place.first_expert + column


def dropped_bias(self, logit, column, bias, place):  # type: ignore[no-untyped-def]
    score, _, expert = right(self, logit, column, bias, place)
    return score, score, expert


def bias_in_weight(self, logit, column, bias, place):  # type: ignore[no-untyped-def]
    _, biased, expert = right(self, logit, column, bias, place)
    return biased, biased, expert


def selection_by_logit(self, logit, column, bias, place):  # type: ignore[no-untyped-def]
    score, _, expert = right(self, logit, column, bias, place)
    return score, logit, expert


def bias_of_the_neighbour(self, logit, column, bias, place):  # type: ignore[no-untyped-def]
    score, _, expert = right(self, logit, column, bias, place)
    return score, score + bias[column ^ 1], expert


def wrong_tile_offset(self, logit, column, bias, place):  # type: ignore[no-untyped-def]
    score, biased, _ = right(self, logit, column, bias, place)
    return score, biased, place.first_expert + column % self.config.tile_n


def wrong_subtile_order(self, logit, column, bias, place):  # type: ignore[no-untyped-def]
    score, biased, expert = right(self, logit, column, bias, place)
    return score, biased, expert ^ 32


def off_by_one_at_the_tile_boundary(self, logit, column, bias, place):  # type: ignore[no-untyped-def]
    score, biased, expert = right(self, logit, column, bias, place)
    last = column % self.config.tile_n == self.config.tile_n - 1
    return score, biased, select_(last, expert - 1, expert)


def last_tile_skipped(self, logit, column, bias, place):  # type: ignore[no-untyped-def]
    score, biased, expert = right(self, logit, column, bias, place)
    last = column >= (self.n_tiles - 1) * self.config.tile_n
    return score, select_(last, Float32(EMPTY_KEY), biased), expert


def naive_softplus(self, logit, column, bias, place):  # type: ignore[no-untyped-def]
    score = cute.math.sqrt(cute.math.log(cute.math.exp(logit) + 1.0))
    return score, score + bias[column], place.first_expert + column


class AlphaAfterScore(RouterEpilogue):
    def walk(self, accumulator, state, alpha, bias, tile, place, out):  # type: ignore[no-untyped-def]
        self.alpha = alpha
        super().walk(accumulator, state, Float32(1.0), bias, tile, place, out)

    def take(self, state, block, logit, column, bias, place, out):  # type: ignore[no-untyped-def]
        score = score_of(self, logit) * self.alpha
        state[block].insert(sort_key(score + bias[column]), place.first_expert + column, score)


class AlphaDropped(RouterEpilogue):
    def walk(self, accumulator, state, alpha, bias, tile, place, out):  # type: ignore[no-untyped-def]
        super().walk(accumulator, state, Float32(1.0), bias, tile, place, out)


class InsertedTwice(RouterEpilogue):
    def take(self, state, block, logit, column, bias, place, out):  # type: ignore[no-untyped-def]
        super().take(state, block, logit, column, bias, place, out)
        super().take(state, block, logit, column, bias, place, out)


@dataclass(frozen=True)
class TieUp(TopK):
    """Of two equal keys the later, higher id wins."""

    def _beats(self, s, p):  # type: ignore[no-untyped-def]
        return s >= self.s[p]


@dataclass(frozen=True)
class UnclampedNaN(TopK):
    """Keeps empty slots where every key is NaN."""

    def insert(self, s, i, a):  # type: ignore[no-untyped-def]
        lowest = s <= -3.0e38
        super().insert(select_(lowest, Float32(EMPTY_KEY), s), i, a)


def starting(top: type[TopK]) -> type[RouterEpilogue]:
    class Mutant(RouterEpilogue):
        def start(self) -> list[TopK]:
            return [top.empty(self.problem.top_k) for _ in range(self.blocks)]

    return Mutant


class SecondLaneUnheard(RouterEpilogue):
    """Only the first of the two lanes that share a row is heard."""

    def finish(self, state, overlay, place, out):  # type: ignore[no-untyped-def]
        for top in state:
            for p in range(self.problem.top_k):
                top.s[p] = select_(place.lane % 2 == 0, top.s[p], Float32(EMPTY_KEY))
        super().finish(state, overlay, place, out)


class StaleLists(RouterEpilogue):
    """The rows of a thread's second block start from the first block's lists."""

    def finish(self, state, overlay, place, out):  # type: ignore[no-untyped-def]
        for p in range(self.problem.top_k):
            state[1].insert(state[0].s[p], state[0].i[p], state[0].a[p])
        super().finish(state, overlay, place, out)


class FirstBlockTwice(RouterEpilogue):
    """The rows of a thread's second block get the first block's lists."""

    def finish(self, state, overlay, place, out):  # type: ignore[no-untyped-def]
        super().finish([state[0], state[0]], overlay, place, out)


class RowsShuffled(RouterEpilogue):
    """The exchange puts rows where another layout would have them."""

    def exchange(self, accumulator, block, first, columns, rows, place):  # type: ignore[no-untyped-def]
        swapped = cute.make_tensor(
            rows.iterator,
            cute.make_layout(((2, 8), columns), stride=((8 * rows.stride[0], rows.stride[0]), 1)),
        )
        super().exchange(accumulator, block, first, columns, swapped, place)


def writing(change: Callable[[TopK, RouterProblem, Outputs, Int32], None]) -> type[RouterEpilogue]:
    """An epilogue that writes a finished row with `change`."""

    class Mutant(RouterEpilogue):
        def write(self, top: TopK, out: Outputs, token: Int32) -> None:
            change(top, self.problem, out, token)

    return Mutant


def scale_twice(top, problem, out, token):  # type: ignore[no-untyped-def]
    router.write_row(top, replace(problem, routed_scale=problem.routed_scale**2), out.weights, out.ids, token)


def scale_dropped(top, problem, out, token):  # type: ignore[no-untyped-def]
    router.write_row(top, replace(problem, routed_scale=1.0), out.weights, out.ids, token)


def renorm_dropped(top, problem, out, token):  # type: ignore[no-untyped-def]
    router.write_row(top, replace(problem, renorm=False), out.weights, out.ids, token)


def bf16_weights(top, problem, out, token):  # type: ignore[no-untyped-def]
    for p, weight in enumerate(top.weights(problem)):
        out.weights[token, p] = Float32(weight).to(cutlass.BFloat16).to(Float32)
        out.ids[token, p] = top.i[p]


def reversed_order(top, problem, out, token):  # type: ignore[no-untyped-def]
    for p, weight in enumerate(reversed(top.weights(problem))):
        out.weights[token, p] = weight
        out.ids[token, p] = top.i[problem.top_k - 1 - p]


def one_wrong_expert(top, problem, out, token):  # type: ignore[no-untyped-def]
    router.write_row(top, problem, out.weights, out.ids, token)
    out.ids[token, 0] = select_(token == 0, (top.i[0] + 1) % problem.experts, top.i[0])


def weights_shifted(top, problem, out, token):  # type: ignore[no-untyped-def]
    for p, weight in enumerate(top.weights(problem)):
        out.weights[token, (p + 1) % problem.top_k] = weight
        out.ids[token, p] = top.i[p]


def row_past_the_end(top, problem, out, token):  # type: ignore[no-untyped-def]
    router.write_row(top, problem, out.weights, out.ids, token + 1)


class LastRowSkipped(RouterEpilogue):
    @cute.jit
    def write(self, top: TopK, out: Outputs, token: Int32) -> None:
        if token + 1 < out.weights.shape[0]:
            router.write_row(top, self.problem, out.weights, out.ids, token)


class StaleAccumulator(Sm90RouterGemm):
    """The accumulator is not cleared between expert tiles."""

    def clear(self, accumulator: cute.Tensor, first_step: Int32) -> None:
        for index in range(cute.size(accumulator)):
            accumulator[index] = select_(Int32(first_step) == 0, Float32(0.0), accumulator[index])


EPILOGUES: dict[str, type[RouterEpilogue]] = {
    "dropped_bias": taking(dropped_bias),
    "bias_in_weight": taking(bias_in_weight),
    "selection_by_logit": taking(selection_by_logit),
    "bias_of_the_neighbour": taking(bias_of_the_neighbour),
    "wrong_tile_offset": taking(wrong_tile_offset),
    "wrong_subtile_order": taking(wrong_subtile_order),
    "off_by_one_at_the_tile_boundary": taking(off_by_one_at_the_tile_boundary),
    "last_tile_skipped": taking(last_tile_skipped),
    "naive_softplus": taking(naive_softplus),
    "alpha_after_score": AlphaAfterScore,
    "alpha_dropped": AlphaDropped,
    "inserted_twice": InsertedTwice,
    "tie_to_the_higher_id": starting(TieUp),
    "nan_unclamped": starting(UnclampedNaN),
    "second_lane_unheard": SecondLaneUnheard,
    "stale_lists": StaleLists,
    "first_block_twice": FirstBlockTwice,
    "rows_shuffled": RowsShuffled,
    "scale_twice": writing(scale_twice),
    "scale_dropped": writing(scale_dropped),
    "renorm_dropped": writing(renorm_dropped),
    "bf16_weights": writing(bf16_weights),
    "reversed_order": writing(reversed_order),
    "one_wrong_expert": writing(one_wrong_expert),
    "weights_shifted": writing(weights_shifted),
    "row_past_the_end": writing(row_past_the_end),
    "last_row_skipped": LastRowSkipped,
}


class OwnCtaOnly(RouterEpilogue):
    """Every peer of the cluster is taken to be this CTA itself."""

    def peer_address(self, tensor, group_rank, place):  # type: ignore[no-untyped-def]
        return super().peer_address(tensor, self.group_rank(), place)


class PublishedInOnePlace(RouterEpilogue):
    """Each cluster of a grid split overwrites the lists of the one before."""

    def publish(self, top, out, token):  # type: ignore[no-untyped-def]
        _, *tensors = self.published(out)
        for held, tensor in zip((top.s, top.i, top.a), tensors, strict=True):
            for p in range(self.problem.top_k):
                tensor[p, 0, token] = held[p]


GEMMS: dict[str, type[Sm90RouterGemm]] = {"stale_accumulator": StaleAccumulator}

# Defects that need CTAs to share a token, each with what it shares.
SHARED: dict[str, tuple[type[RouterEpilogue], dict[str, int]]] = {
    "lists_of_peers_unread": (OwnCtaOnly, {"expert_split": 2}),
    "partials_of_peers_unread": (OwnCtaOnly, {"split_k": 2, "tile_n": 128, "tile_m": 64}),
    "published_in_one_place": (PublishedInOnePlace, {"grid_split": 2}),
}

MUTANTS = (*EPILOGUES, *GEMMS, *SHARED)


def config_of(name: str, config: Sm90Config) -> Sm90Config:
    """`config`, with what the named defect needs."""
    return replace(config, **SHARED[name][1]) if name in SHARED else config


def compile_mutant(name: str, problem: RouterProblem, config: Sm90Config) -> Any:
    """The kernel with the named defect, or without, as a `launch` like any other."""
    if name in GEMMS:
        return compile_gemm(GEMMS[name](problem, config), problem)
    epilogues = {NO_DEFECT: RouterEpilogue} | EPILOGUES | {key: value[0] for key, value in SHARED.items()}
    return compile_gemm(Sm90RouterGemm(problem, config, epilogues[name]), problem)

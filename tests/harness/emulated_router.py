"""A stand-in for the fused kernel: its structure in torch, on the CPU, behind the launch signature.

Tiles over M and N, fp32 accumulation over chunks of K, the epilogue by subtiles of columns, and a running top
k merged subtile by subtile. `EmulatedRouter` is right; each subclass in `MUTATIONS` plants one fault that a
kernel could have, in the step where it would arise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.problem import RouterProblem, Score

LOWEST = torch.finfo(torch.float32).min


class EmulatedRouter:
    """`launch(a, b, bias, alpha, workspace, weights, ids)` for one problem."""

    tile_m, tile_n, tile_k, epi_n = 128, 128, 64, 32

    def __init__(self, problem: RouterProblem) -> None:
        self.problem = problem
        self.launches = 0
        self.accumulator: Tensor | None = None
        self.top: tuple[Tensor, Tensor, Tensor] | None = None

    @staticmethod
    def workspace_elements(m: int) -> int:
        return m

    def __call__(
        self,
        a: Tensor,
        b: Tensor,
        bias: Tensor,
        alpha: Tensor,
        workspace: Tensor,
        weights: Tensor,
        ids: Tensor,
    ) -> None:
        self.launches += 1
        self.accumulator = self.top = None
        for row in range(0, len(a), self.tile_m):
            rows = slice(row, min(row + self.tile_m, len(a)))
            self.row_tile(a[rows], b, bias, alpha, weights[rows], ids[rows])
        workspace.fill_(float(self.launches))

    def row_tile(
        self, a: Tensor, b: Tensor, bias: Tensor, alpha: Tensor, weights: Tensor, ids: Tensor
    ) -> None:
        self.top = self.empty_top(len(a))
        for tile in self.column_tiles(len(b)):
            columns = slice(tile, min(tile + self.tile_n, len(b)))
            accumulator = self.accumulate(a, b[columns])
            for subtile, column in enumerate(range(0, accumulator.shape[1], self.epi_n)):
                logits = self.logits(accumulator[:, column : column + self.epi_n], alpha)
                expert = self.expert_ids(tile, subtile, logits.shape[1], len(b))
                activation = self.activation(logits)
                key = self.key(activation, logits, self.bias_of(bias, expert, subtile))
                self.top = self.merge(self.top, (key, expert.expand_as(key), activation))
        _, found, activations = self.top
        self.store(self.finish(activations), found, weights, ids)

    def empty_top(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        k = self.problem.top_k
        lowest = torch.full((rows, k), -torch.inf)
        return lowest, torch.full((rows, k), 2**31 - 1), torch.zeros(rows, k)

    def column_tiles(self, experts: int) -> list[int]:
        return list(range(0, experts, self.tile_n))

    def k_chunks(self, hidden: int) -> list[slice]:
        return [slice(k, min(k + self.tile_k, hidden)) for k in range(0, hidden, self.tile_k)]

    def cleared(self, rows: int, columns: int) -> Tensor:
        return torch.zeros(rows, columns)

    def accumulate(self, a: Tensor, b: Tensor) -> Tensor:
        accumulator = self.cleared(len(a), len(b))
        a, b = self.loaded_a(a), self.loaded_b(b)
        for chunk in self.k_chunks(a.shape[1]):
            accumulator += a[:, chunk].float() @ b[:, chunk].float().T
        self.accumulator = accumulator
        return accumulator

    def loaded_a(self, a: Tensor) -> Tensor:
        return a

    def loaded_b(self, b: Tensor) -> Tensor:
        return b

    def logits(self, accumulator: Tensor, alpha: Tensor) -> Tensor:
        return accumulator * alpha

    def expert_ids(self, tile: int, subtile: int, columns: int, experts: int) -> Tensor:
        return torch.arange(columns) + tile + subtile * self.epi_n

    def bias_of(self, bias: Tensor, expert: Tensor, subtile: int) -> Tensor:
        return bias[expert]

    def activation(self, logits: Tensor) -> Tensor:
        if self.problem.score is Score.SQRT_SOFTPLUS:
            return torch.sqrt(self.softplus(logits))
        if self.problem.score is Score.SIGMOID:
            return torch.sigmoid(logits)
        return logits

    def softplus(self, x: Tensor) -> Tensor:
        return x.clamp(min=0.0) + torch.log1p(torch.exp(-x.abs()))

    def key(self, activation: Tensor, logits: Tensor, bias: Tensor) -> Tensor:
        return torch.nan_to_num(activation + bias, nan=LOWEST, posinf=torch.inf, neginf=LOWEST)

    def merge(
        self, top: tuple[Tensor, Tensor, Tensor], new: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        keys, ids, activations = (torch.cat(pair, dim=1) for pair in zip(top, new, strict=True))
        order = self.order(keys)[:, : self.problem.top_k]
        return keys.gather(1, order), ids.gather(1, order), activations.gather(1, order)

    def order(self, keys: Tensor) -> Tensor:
        # What is held comes first and has the lower ids, so a stable sort breaks ties by id.
        return torch.sort(keys, dim=1, descending=True, stable=True).indices

    def finish(self, activations: Tensor) -> Tensor:
        if self.problem.score is Score.SOFTMAX:
            activations = torch.exp(activations - self.softmax_shift(activations))
        if self.problem.renorm:
            total = self.total(activations)
            activations = torch.where(total == 0.0, 0.0, activations / total)
        return activations * self.problem.routed_scale

    def softmax_shift(self, selected: Tensor) -> Tensor:
        return selected[:, :1]

    def total(self, activations: Tensor) -> Tensor:
        return activations.sum(1, keepdim=True)

    def store(self, values: Tensor, found: Tensor, weights: Tensor, ids: Tensor) -> None:
        weights.copy_(values)
        ids.copy_(found)


MUTATIONS: dict[str, type[EmulatedRouter]] = {}
# Faults that exist only for a softmax router.
SOFTMAX_MUTATIONS: dict[str, type[EmulatedRouter]] = {}


def mutation(cls: type[EmulatedRouter]) -> type[EmulatedRouter]:
    """Register a fault under its class name in kebab case."""
    MUTATIONS[_kebab(cls.__name__)] = cls
    return cls


def softmax_mutation(cls: type[EmulatedRouter]) -> type[EmulatedRouter]:
    SOFTMAX_MUTATIONS[_kebab(cls.__name__)] = cls
    return cls


def _kebab(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


# Operands and main loop


@mutation
class ScaleOffByOneUlp(EmulatedRouter):
    """One e4m3 scale of B one ulp too high, by the least that can be: significand 15 / 8 to 16 / 8."""

    expert, block = 200, 2

    def row_tile(
        self, a: Tensor, b: Tensor, bias: Tensor, alpha: Tensor, weights: Tensor, ids: Tensor
    ) -> None:
        b = b.clone()
        b[self.expert, 16 * self.block : 16 * (self.block + 1)] *= 16 / 15
        super().row_tile(a, b, bias, alpha, weights, ids)


@mutation
class NibblesSwappedInOneRow(EmulatedRouter):
    """In one row of each tile of N."""

    def loaded_b(self, b: Tensor) -> Tensor:
        b = b.clone()
        b[5] = b[5].view(-1, 2).flip(1).flatten()
        return b


@mutation
class ActivationScalesSwapped(EmulatedRouter):
    """Two neighbouring blocks of one token exchanged, as by a wrong swizzle."""

    def loaded_a(self, a: Tensor) -> Tensor:
        a = a.clone()
        a[-1, :32] = a[-1, :32].roll(16)
        return a


@mutation
class StaleAccumulator(EmulatedRouter):
    """Not cleared between the tiles of N."""

    def cleared(self, rows: int, columns: int) -> Tensor:
        held = self.accumulator
        return super().cleared(rows, columns) if held is None or held.shape != (rows, columns) else held


@mutation
class LastKChunkSkipped(EmulatedRouter):
    def k_chunks(self, hidden: int) -> list[slice]:
        return super().k_chunks(hidden)[:-1] or super().k_chunks(hidden)


@mutation
class KTailCountedTwice(EmulatedRouter):
    def k_chunks(self, hidden: int) -> list[slice]:
        return [*super().k_chunks(hidden), slice(hidden - 16, hidden)]


@mutation
class HalfPrecisionAccumulator(EmulatedRouter):
    def accumulate(self, a: Tensor, b: Tensor) -> Tensor:
        return super().accumulate(a, b).bfloat16().float()


@mutation
class TailRowsReadTheRowBefore(EmulatedRouter):
    """The last row of a tile that is not full holds its neighbour's data."""

    def loaded_a(self, a: Tensor) -> Tensor:
        if len(a) in (1, self.tile_m):
            return a
        return torch.cat((a[:-1], a[-2:-1]))


# Epilogue: logits, scores, keys


@mutation
class AlphaDropped(EmulatedRouter):
    def logits(self, accumulator: Tensor, alpha: Tensor) -> Tensor:
        return accumulator


@mutation
class AlphaAfterTheScore(EmulatedRouter):
    alpha = torch.ones(1)

    def logits(self, accumulator: Tensor, alpha: Tensor) -> Tensor:
        self.alpha = alpha
        return accumulator

    def activation(self, logits: Tensor) -> Tensor:
        return super().activation(logits) * self.alpha


@mutation
class AlphaInHalfPrecision(EmulatedRouter):
    def logits(self, accumulator: Tensor, alpha: Tensor) -> Tensor:
        return accumulator * alpha.bfloat16().float()


@mutation
class DroppedBias(EmulatedRouter):
    def bias_of(self, bias: Tensor, expert: Tensor, subtile: int) -> Tensor:
        return torch.zeros_like(bias[expert])


@mutation
class BiasOfTheFirstTile(EmulatedRouter):
    def bias_of(self, bias: Tensor, expert: Tensor, subtile: int) -> Tensor:
        return bias[expert % self.tile_n]


@mutation
class BiasInTheWeight(EmulatedRouter):
    def merge(
        self, top: tuple[Tensor, Tensor, Tensor], new: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        keys, ids, _ = new
        return super().merge(top, (keys, ids, keys))


@mutation
class BiasAddedToTheLogits(EmulatedRouter):
    def key(self, activation: Tensor, logits: Tensor, bias: Tensor) -> Tensor:
        return super().key(self.activation(logits + bias), logits, torch.zeros_like(bias))


@mutation
class TopKOfTheLogits(EmulatedRouter):
    def key(self, activation: Tensor, logits: Tensor, bias: Tensor) -> Tensor:
        return super().key(logits, logits, bias)


@mutation
class NaiveSoftplus(EmulatedRouter):
    """log(1 + exp(x)): 0 below -16.64, infinite above 88.7."""

    def softplus(self, x: Tensor) -> Tensor:
        return torch.log(1.0 + torch.exp(x))


@mutation
class UnclampedSoftplus(EmulatedRouter):
    """log1p(exp(x)): right on the left, infinite above 88.7."""

    def softplus(self, x: Tensor) -> Tensor:
        return torch.log1p(torch.exp(x))


@mutation
class SoftplusLinearTooEarly(EmulatedRouter):
    """The threshold of torch's softplus, 20, set to 5: softplus up to 1.3e-3 too small just above it."""

    def softplus(self, x: Tensor) -> Tensor:
        return torch.where(x > 5.0, x, super().softplus(x))


@mutation
class SquareRootForgotten(EmulatedRouter):
    def activation(self, logits: Tensor) -> Tensor:
        return super().activation(logits) ** 2


# Expert ids and the running top k


@mutation
class WrongTileOffset(EmulatedRouter):
    """The offset of the tile of N missing from the expert id."""

    def expert_ids(self, tile: int, subtile: int, columns: int, experts: int) -> Tensor:
        return super().expert_ids(0, subtile, columns, experts)


@mutation
class WrongSubtileOrder(EmulatedRouter):
    """Ids as if the subtiles were walked in reverse."""

    def expert_ids(self, tile: int, subtile: int, columns: int, experts: int) -> Tensor:
        last = self.tile_n // self.epi_n - 1
        return super().expert_ids(tile, last - subtile, columns, experts) % experts


@mutation
class IdOffByOneAtATileBoundary(EmulatedRouter):
    def expert_ids(self, tile: int, subtile: int, columns: int, experts: int) -> Tensor:
        ids = super().expert_ids(tile, subtile, columns, experts)
        return torch.where(ids == self.tile_n, ids - 1, ids)


@mutation
class LastTileOfNSkipped(EmulatedRouter):
    def column_tiles(self, experts: int) -> list[int]:
        return super().column_tiles(experts)[:-1]


@mutation
class LastExpertSkipped(EmulatedRouter):
    def key(self, activation: Tensor, logits: Tensor, bias: Tensor) -> Tensor:
        return super().key(activation, logits, bias).index_fill(1, torch.tensor([self.epi_n - 1]), -torch.inf)


@mutation
class TieToTheHighestId(EmulatedRouter):
    def order(self, keys: Tensor) -> Tensor:
        last = keys.shape[1] - 1
        return last - torch.sort(keys.flip(1), dim=1, descending=True, stable=True).indices


@mutation
class TieToTheNewcomerOfALaterTile(EmulatedRouter):
    """Right within a subtile, wrong between them: `>=` where `>` belongs."""

    def order(self, keys: Tensor) -> Tensor:
        k, columns = self.problem.top_k, keys.shape[1]
        newcomers_first = torch.arange(columns).roll(-k)
        order = torch.sort(keys[:, newcomers_first], dim=1, descending=True, stable=True).indices
        return newcomers_first[order]


@mutation
class StaleTopK(EmulatedRouter):
    """The list of the row tile before, not emptied."""

    def empty_top(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.top is None or len(self.top[0]) < rows:
            return super().empty_top(rows)
        keys, ids, activations = (part[:rows] for part in self.top)
        return keys, ids, activations


@mutation
class ListOneTooShort(EmulatedRouter):
    """The last slot keeps the first newcomer that reached it."""

    def merge(
        self, top: tuple[Tensor, Tensor, Tensor], new: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        merged = super().merge(top, new)
        if bool((top[0][:, -1] == -torch.inf).any()):
            return merged
        for part, held in zip(merged, top, strict=True):
            part[:, -1] = held[:, -1]
        return merged


@mutation
class NanRanksFirst(EmulatedRouter):
    def key(self, activation: Tensor, logits: Tensor, bias: Tensor) -> Tensor:
        return torch.nan_to_num(activation + bias, nan=torch.inf, posinf=torch.inf, neginf=LOWEST)


# Weights


@mutation
class RoutedScaleDropped(EmulatedRouter):
    def finish(self, activations: Tensor) -> Tensor:
        return super().finish(activations) / self.problem.routed_scale


@mutation
class RoutedScaleTwice(EmulatedRouter):
    def finish(self, activations: Tensor) -> Tensor:
        return super().finish(activations) * self.problem.routed_scale


@mutation
class RenormDropped(EmulatedRouter):
    def total(self, activations: Tensor) -> Tensor:
        return torch.ones(len(activations), 1)


@mutation
class RenormWithoutTheLast(EmulatedRouter):
    def total(self, activations: Tensor) -> Tensor:
        return activations[:, :-1].sum(1, keepdim=True)


@mutation
class WeightsInHalfPrecision(EmulatedRouter):
    def finish(self, activations: Tensor) -> Tensor:
        return super().finish(activations.bfloat16().float())


@mutation
class WeightsOutOfOrder(EmulatedRouter):
    """The ids sorted, their weights left behind."""

    def finish(self, activations: Tensor) -> Tensor:
        return super().finish(activations).roll(1, dims=1)


@mutation
class NanWeightBecomesZero(EmulatedRouter):
    def finish(self, activations: Tensor) -> Tensor:
        return torch.nan_to_num(super().finish(activations), nan=0.0, posinf=torch.inf)


# Stores and state


class StoreFault(EmulatedRouter):
    """A fault in what has been stored, by `spoil`."""

    def __call__(
        self,
        a: Tensor,
        b: Tensor,
        bias: Tensor,
        alpha: Tensor,
        workspace: Tensor,
        weights: Tensor,
        ids: Tensor,
    ) -> None:
        super().__call__(a, b, bias, alpha, workspace, weights, ids)
        self.spoil(weights, ids)

    def spoil(self, weights: Tensor, ids: Tensor) -> None:
        raise NotImplementedError


@mutation
class OneWrongExpertId(StoreFault):
    """In one row the last expert chosen is one that was not; its weight stays."""

    def spoil(self, weights: Tensor, ids: Tensor) -> None:
        held = set(ids[-1].tolist())
        ids[-1, -1] = next(e for e in range(self.problem.experts) if e not in held)


@mutation
class DuplicateId(StoreFault):
    def spoil(self, weights: Tensor, ids: Tensor) -> None:
        ids[0, 1] = ids[0, 0]


@mutation
class IdsOfOneRowInTheWrongOrder(StoreFault):
    def spoil(self, weights: Tensor, ids: Tensor) -> None:
        ids[0], weights[0] = ids[0].flip(0), weights[0].flip(0)


@mutation
class NeighboursSwapped(StoreFault):
    """Two rows exchanged, ids and weights alike."""

    def spoil(self, weights: Tensor, ids: Tensor) -> None:
        if len(ids) > 1:
            ids[:2], weights[:2] = ids[:2].flip(0), weights[:2].flip(0)


@mutation
class LastRowSkipped(EmulatedRouter):
    def store(self, values: Tensor, found: Tensor, weights: Tensor, ids: Tensor) -> None:
        super().store(values[:-1], found[:-1], weights[:-1], ids[:-1])


@mutation
class NanRowYieldsMinusOne(EmulatedRouter):
    def store(self, values: Tensor, found: Tensor, weights: Tensor, ids: Tensor) -> None:
        super().store(values, torch.where(values.isnan(), -1, found), weights, ids)


@mutation
class NanRowYieldsTheNumberOfExperts(EmulatedRouter):
    def store(self, values: Tensor, found: Tensor, weights: Tensor, ids: Tensor) -> None:
        super().store(values, torch.where(values.isnan(), self.problem.experts, found), weights, ids)


@mutation
class RowPastTheEndWritten(StoreFault):
    """Row M, in memory that is not the output's."""

    def spoil(self, weights: Tensor, ids: Tensor) -> None:
        m, k = ids.shape
        ids.as_strided((1, k), (k, 1), ids.storage_offset() + m * k).zero_()


@mutation
class RowBeforeTheStartWritten(StoreFault):
    def spoil(self, weights: Tensor, ids: Tensor) -> None:
        k = weights.shape[1]
        weights.as_strided((1, k), (k, 1), weights.storage_offset() - k).zero_()


@mutation
class WorkspaceOverrun(EmulatedRouter):
    def __call__(
        self,
        a: Tensor,
        b: Tensor,
        bias: Tensor,
        alpha: Tensor,
        workspace: Tensor,
        weights: Tensor,
        ids: Tensor,
    ) -> None:
        workspace = workspace.as_strided((len(workspace) + 1,), (1,), workspace.storage_offset())
        super().__call__(a, b, bias, alpha, workspace, weights, ids)


@mutation
class InputModified(EmulatedRouter):
    def loaded_a(self, a: Tensor) -> Tensor:
        return a.copy_(a.nan_to_num(nan=0.0))


@mutation
class WorkspaceExpectedZero(EmulatedRouter):
    """A counter in the workspace that the launch before did not put back to zero."""

    def __call__(
        self,
        a: Tensor,
        b: Tensor,
        bias: Tensor,
        alpha: Tensor,
        workspace: Tensor,
        weights: Tensor,
        ids: Tensor,
    ) -> None:
        offset = int(workspace[0].nan_to_num(nan=0.0) != 0.0)
        super().__call__(a, b, bias, alpha, workspace, weights, ids)
        weights.mul_(1 + offset)


@mutation
class SecondRunDiffers(StoreFault):
    """A race: every second launch rounds one weight differently."""

    def spoil(self, weights: Tensor, ids: Tensor) -> None:
        if self.launches % 2 == 0:
            weights[0, 0] = torch.nextafter(weights[0, 0], torch.tensor(9.0))


@softmax_mutation
class SoftmaxWithoutTheMaximum(EmulatedRouter):
    def softmax_shift(self, selected: Tensor) -> Tensor:
        return torch.zeros(len(selected), 1)


@softmax_mutation
class SoftmaxNotRenormalized(EmulatedRouter):
    def total(self, activations: Tensor) -> Tensor:
        return activations.sum(1, keepdim=True) + torch.exp(activations[:, -1:] * 0)

"""Orders of a search space that meet every pair of choices early."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.family import ParamValue
from sweeps.space import Space

Pair = tuple[tuple[str, ParamValue], ...]


def covering_order(
    space: Space, seed: int, known: Sequence[Mapping[str, ParamValue]] = (), shard: tuple[int, int] = (0, 1)
) -> Iterator[dict[str, ParamValue]]:
    """Every legal config but the `known` ones, first some that have every pair of choices which those lack.

    Each of these brings the most pairs that none before it has. Ties, and the other configs, come in random
    order. `shard` (i, n) is the i-th of n parts of the space that have no config in common.
    """
    done = {space.index(params) for params in known}
    order = np.random.default_rng(seed).permutation(len(space))
    order = np.array([i for i in order if i % shard[1] == shard[0] and i not in done], np.intp)
    numbers: dict[Pair, int] = {}
    pairs: npt.NDArray[Any] = np.array(
        [[numbers.setdefault(pair, len(numbers)) for pair in _pairs(space.params(i))] for i in order]
    )
    missing = np.ones(len(numbers), np.bool_)
    for pair in chain.from_iterable(map(_pairs, known)):
        if pair in numbers:
            missing[numbers[pair]] = False
    left = np.ones(len(order), np.bool_)
    while missing.any():
        best = int(missing[pairs].sum(1).argmax())
        missing[pairs[best]] = False
        left[best] = False
        yield space.params(order[best])
    for index in order[left]:
        yield space.params(index)


def pairs_met(space: Space, configs: Iterable[Mapping[str, ParamValue]]) -> tuple[int, int]:
    """How many pairs of choices of two parameters occur in `configs`, and in the legal configs of `space`."""
    legal = {pair for index in range(len(space)) for pair in _pairs(space.params(index))}
    return len(legal & {pair for params in configs for pair in _pairs(params)}), len(legal)


def _pairs(params: Mapping[str, ParamValue]) -> Iterator[Pair]:
    return combinations(params.items(), 2)

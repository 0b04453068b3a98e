"""Samples of a search space that meet rare choices early."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kernels.family import ParamValue
from sweeps.space import Space

DRAWN = 64
ENOUGH = 8  # configs with a choice, after which more of it count for nothing


def covering_order(space: Space, seed: int) -> Iterator[dict[str, ParamValue]]:
    """Every legal config once, in a random order in which each choice of each parameter comes up early.

    A uniform draw would hardly meet rare choices: of each 64 drawn, the one whose choices are rarest so far.
    """
    rng = np.random.default_rng(seed)
    left = rng.permutation(len(space)).tolist()
    seen: dict[tuple[str, ParamValue], int] = {}
    while left:
        window = left[-DRAWN:]
        rarity = [sum(min(seen.get(item, 0), ENOUGH) for item in space.params(i).items()) for i in window]
        place = int(np.argmin(rarity))
        params = space.params(window[place])
        del left[len(left) - len(window) + place]
        for item in params.items():
            seen[item] = seen.get(item, 0) + 1
        yield params

"""Registers as several smaller numbers: packed pairs and PTX's vector operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.simulator.registry import Bits, Execute

_UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def pack(*pieces: Bits) -> Bits:
    """One register of the concatenated pieces, the first in the lowest bits: `mov.b64 d, {a, b}`."""
    width = 8 * pieces[0].dtype.itemsize
    dtype = _UNSIGNED[pieces[0].dtype.itemsize * len(pieces)]
    result = pieces[0].astype(dtype)
    for index, piece in enumerate(pieces[1:], 1):
        result = result | (piece.astype(dtype) << dtype(width * index))
    return result


def unpack(register: Bits, count: int) -> tuple[Bits, ...]:
    """The register as `count` equal pieces, the lowest bits first: `mov.b64 {a, b}, d`."""
    dtype = register.dtype.type
    piece = _UNSIGNED[register.dtype.itemsize // count]
    width = 8 * register.dtype.itemsize // count
    return tuple((register >> dtype(width * index)).astype(piece) for index in range(count))


def halves(function: Callable[..., Bits], piece: type[np.unsignedinteger[Any]]) -> Execute:
    """`function` of raw bits, applied to both halves of its operands, which are registers of two `piece`s."""
    itemsize = np.dtype(piece).itemsize
    whole = _UNSIGNED[2 * itemsize]

    def execute(*operands: Bits) -> Bits:
        split = (np.ascontiguousarray(x[..., None]).view(piece) for x in operands)
        return np.ascontiguousarray(function(*split)).view(whole)[..., 0][()]

    return execute

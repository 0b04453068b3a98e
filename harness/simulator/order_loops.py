"""The loops of `order.c` on numpy arrays: clocks int32 [n, agents], whose rows barriers and warps name.

All are contiguous. What is named is known to be there: nothing looks at bounds.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import numpy.typing as npt

from harness.simulator import c_library
from harness.simulator.c_arrays import address, indices

Int64s = npt.NDArray[np.int64]
Clocks = npt.NDArray[np.int32]


@cache
def load_order() -> ctypes.CDLL:
    """The library; raises `ToolchainError` when it cannot be built or loaded."""
    library = c_library.load("order")
    number, array = ctypes.c_int64, ctypes.c_void_p
    library.turn.argtypes = (array, array, array, number, number, array, array)
    library.raise_rows.argtypes = (array, array, array, array, number, number)
    library.publish.argtypes = (array, array, array, array, array, array, number, number)
    library.turn.restype = library.raise_rows.restype = library.publish.restype = None
    return library


def turn(open_: Clocks, closed: Clocks, phase: Int64s, keys: Int64s, phases: Int64s) -> None:
    """Barriers `keys` [n] are in `phases` [n] now: `closed` of those that were not is what `open_` was."""
    keys, phases = indices(keys), indices(phases)
    load_order().turn(
        address(open_), address(closed), address(phase), open_.shape[1], len(keys), address(keys),
        address(phases)
    )  # fmt: skip


def raise_rows(known: Clocks, keys: Int64s, clocks: Clocks, rows: Int64s) -> None:
    """Raise rows `keys` [n] of `known`, which may repeat, to `rows` [n] of other `clocks`."""
    keys, rows = indices(keys), indices(rows)
    load_order().raise_rows(
        address(known), address(keys), address(clocks), address(rows), known.shape[1], len(keys)
    )


def publish(known: Clocks, keys: Int64s, seen: Clocks, warps: Int64s, agent: Int64s, epoch: Clocks) -> None:
    """Raise rows `keys` [n] of `known`, which may repeat, to what `warps` [n] have `seen`.

    Of itself, each warp w, which is the agent `agent[w]`, has seen all up to `epoch[w]`.
    """
    keys, warps = indices(keys), indices(warps)
    load_order().publish(
        address(known), address(keys), address(seen), address(warps), address(agent), address(epoch),
        known.shape[1], len(keys)
    )  # fmt: skip

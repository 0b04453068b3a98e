"""The loops of `races.c` on the arrays of `SharedRaces`: whether accesses are in order, and noting those.

What a loop says no to, `SharedRaces` looks at itself: these may refuse what is in order, and never the
opposite.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator import c_library
from harness.simulator.c_arrays import address, indices

Array = npt.NDArray[Any]
Int32s = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
_Number, _Array = ctypes.c_int64, ctypes.c_void_p


class Reads(ctypes.Structure):
    """The last reads of places, as `Reads` in races.c; its arrays belong to whoever made it."""

    _fields_ = (
        ("any", _Array),
        ("any_far", _Array),
        ("near", _Array),
        ("far", _Array),
        ("of_row", _Number),
        ("count", _Number),
    )

    @classmethod
    def of(cls, read: Bools, read_from_far: Bools, near: Int32s, of_row: int) -> Reads:
        """Of the places [n], `of_row` of each CTA: whether anybody, and anybody from another CTA, has read
        them, and the epochs of those that are near [n, warps of a CTA]."""
        return cls(address(read), address(read_from_far), address(near), None, of_row, len(read))

    def add_far(self, far: Int32s) -> None:
        """Have the reads from other CTAs noted too, in `far` [n, warps of a cluster]."""
        self.far = address(far)


class _Races(ctypes.Structure):
    _fields_ = (
        ("writer", _Array),
        ("written", _Array),
        ("seen", _Array),
        ("epoch", _Array),
        ("known", _Array),
        ("per_row", _Number),
        ("per_cluster", _Number),
        ("page_words", _Number),
        ("words", ctypes.POINTER(Reads)),
        ("pages", ctypes.POINTER(Reads)),
    )


@cache
def load_races() -> ctypes.CDLL:
    """The library; raises `ToolchainError` when it cannot be built or loaded."""
    library = c_library.load("races")
    state = ctypes.POINTER(_Races)
    library.read_words.argtypes = library.write_words.argtypes = (state, _Number, _Array, _Array)
    library.read_operands.argtypes = (
        state, _Number, _Number, _Array, _Number, _Array, _Number, ctypes.c_int
    )  # fmt: skip
    library.write_tiles.argtypes = (state, _Number, _Array, _Number, _Array, _Array)
    return library


class Races:
    """The loops for one `SharedRaces`, whose arrays stay where they are.

    `writes` are each word's last writer and its epoch, `clocks` what warps have seen, their epochs, and what
    they know by an order of cluster scope, if scopes matter; `warps` how many a CTA and a cluster have;
    `reads` those of words and pages.
    """

    def __init__(
        self,
        writes: tuple[Int32s, Int32s],
        clocks: tuple[Int32s, Int32s, Int32s | None],
        warps: tuple[int, int],
        page_words: int,
        reads: tuple[Reads, Reads],
    ) -> None:
        self._kept = writes, clocks, reads
        writer, written = (address(array) for array in writes)
        seen, epoch, known = (None if array is None else address(array) for array in clocks)
        words, pages = (ctypes.pointer(one) for one in reads)
        self._state = ctypes.pointer(
            _Races(writer, written, seen, epoch, known, *warps, page_words, words, pages)
        )
        self._library = load_races()

    def read_words(self, words: Array, warps: Array) -> bool:
        """Whether `warps` [n] may read the flat `words` [n]; if so, they have."""
        return self._of_words(self._library.read_words, words, warps)

    def write_words(self, words: Array, warps: Array) -> bool:
        """Whether `warps` [n] may write the flat `words` [n]; if so, they have."""
        return self._of_words(self._library.write_words, words, warps)

    def _of_words(self, loop: Any, words: Array, warps: Array) -> bool:
        words, warps = indices(words), indices(warps)
        assert words.shape == warps.shape
        return bool(loop(self._state, len(words), address(words), address(warps)))

    def read_operands(self, places: Array, warps: Array, together: int, whole: bool) -> bool:
        """Whether groups of `together` of `warps` may read `places` [1 or G, n] of their CTAs.

        They are words or, if `whole`, pages. If so, they have.
        """
        places, warps = indices(places), indices(warps)
        groups, rest = divmod(len(warps), together)
        assert not rest
        assert len(places) in (1, groups)
        each = places.shape[1]
        return bool(
            self._library.read_operands(
                self._state, groups, together, address(warps), each, address(places),
                each if len(places) > 1 else 0, whole
            )
        )  # fmt: skip

    def write_tiles(self, starts: Array, count: int, warps: Array, copies: Array) -> bool:
        """Whether copies of epochs `copies` [n] that `warps` [n] issue may write `count` words from each of
        `starts` [n]; if so, they have."""
        starts, warps = indices(starts), indices(warps)
        copies = np.ascontiguousarray(copies, np.int32)
        assert starts.shape == warps.shape == copies.shape
        return bool(
            self._library.write_tiles(
                self._state, len(starts), address(starts), count, address(warps), address(copies)
            )
        )

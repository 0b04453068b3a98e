"""The loops of `pages.c` on numpy arrays.

`pages` [1 or G, p] are those of CTAs, or of warpgroups, `rows` [G]: of each a row of a table [rows, pages].
Tiles are `size` bytes at `offsets` [n] of CTAs `rows` [n].
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator import c_library

Array = npt.NDArray[Any]


@cache
def load_pages() -> ctypes.CDLL:
    """The library; raises `ToolchainError` when it cannot be built or loaded."""
    library = c_library.load("pages")
    number, state = ctypes.c_int64, ctypes.c_int
    states, flags, stamps, last, many = (
        np.ctypeslib.ndpointer(dtype, flags="C_CONTIGUOUS")
        for dtype in (np.uint8, np.bool_, np.uint32, np.int32, np.int64)
    )
    of_rows, of_tiles = (number, many, many, number, number), (number, many, many, number)
    library.pages_are.argtypes = (states, number, *of_rows, flags)
    library.note_reads.argtypes = (last, number, *of_rows, many)
    library.any_in_flight.argtypes = (last, number, number, *of_tiles, many)
    library.any_are.argtypes = (states, number, *of_tiles, state)
    library.set_pages.argtypes = (states, stamps, number, *of_tiles, flags, state)
    library.note_reads.restype = library.set_pages.restype = None
    return library


def pages_are(state: Array, rows: Array, pages: Array, allowed: Array) -> bool:
    """Whether `allowed`, bool by state, has the state of all `pages`."""
    return bool(load_pages().pages_are(state, state.shape[1], *_of_rows(rows, pages), allowed))


def note_reads(last: Array, rows: Array, pages: Array, committed: Array) -> None:
    """`last` of all `pages` becomes the number behind their warpgroup's `committed`."""
    load_pages().note_reads(last, last.shape[1], *_of_rows(rows, pages), committed)


def any_in_flight(last: Array, retired: Array, per_cta: int, rows: Array, offsets: Array, size: int) -> bool:
    """Whether, of a page of these tiles, `last` is later than what its warpgroup has `retired`.

    A CTA's `per_cta` warpgroups are neighbours in both tables.
    """
    tiles = _of_tiles(rows, offsets, size)
    return bool(load_pages().any_in_flight(last, last.shape[1], per_cta, *tiles, retired))


def any_are(state: Array, rows: Array, offsets: Array, size: int, what: int) -> bool:
    """Whether a page of these tiles, which are whole pages, is in the state `what`."""
    return bool(load_pages().any_are(state, state.shape[1], *_of_tiles(rows, offsets, size), what))


def set_pages(
    state: Array, stamps: Array, rows: Array, offsets: Array, size: int, stamped: Array, what: int
) -> None:
    """Put the pages of these tiles, which are whole pages, into the state `what`.

    Of those in a state that `stamped`, bool by state, has, the words' `stamps` become 0.
    """
    tiles = _of_tiles(rows, offsets, size)
    load_pages().set_pages(state, stamps, state.shape[1], *tiles, stamped, what)


def _of_rows(rows: Array, pages: Array) -> tuple[int, Array, Array, int, int]:
    rows, pages = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(pages, np.int64)
    assert len(pages) in (1, len(rows))
    return len(rows), rows, pages, pages.shape[1] if len(pages) > 1 else 0, pages.shape[1]


def _of_tiles(rows: Array, offsets: Array, size: int) -> tuple[int, Array, Array, int]:
    assert len(rows) == len(offsets)
    return len(rows), np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(offsets, np.int64), size

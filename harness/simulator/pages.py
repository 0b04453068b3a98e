"""The loops of `pages.c` on numpy arrays.

`pages` [1 or G, p] are those of CTAs, or of warpgroups, `rows` [G]: of each a row of a table [rows, pages].
Tiles are `size` bytes at `offsets` [n] of CTAs `rows` [n].
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy.typing as npt

from harness.simulator import c_library
from harness.simulator.c_arrays import address, indices

Array = npt.NDArray[Any]


@cache
def load_pages() -> ctypes.CDLL:
    """The library; raises `ToolchainError` when it cannot be built or loaded."""
    library = c_library.load("pages")
    number, array, state = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    of_rows, of_tiles = (number, array, array, number, number), (number, array, array, number)
    library.pages_are.argtypes = library.note_reads.argtypes = (array, number, *of_rows, array)
    library.any_in_flight.argtypes = (array, number, number, *of_tiles, array)
    library.set_pages.argtypes = (array, array, number, *of_tiles, array, state)
    library.note_reads.restype, library.set_pages.restype = None, number
    return library


def pages_are(state: Array, rows: Array, pages: Array, allowed: Array) -> bool:
    """Whether `allowed`, bool by state, has the state of all `pages`."""
    return bool(_of_rows(load_pages().pages_are, state, rows, pages, allowed))


def note_reads(last: Array, rows: Array, pages: Array, committed: Array) -> None:
    """`last` of all `pages` becomes the number behind their warpgroup's `committed`."""
    _of_rows(load_pages().note_reads, last, rows, pages, committed)


def any_in_flight(last: Array, retired: Array, per_cta: int, rows: Array, offsets: Array, size: int) -> bool:
    """Whether, of a page of these tiles, `last` is later than what its warpgroup has `retired`.

    A CTA's `per_cta` warpgroups are neighbours in both tables.
    """
    rows, offsets = _tiles(rows, offsets)
    return bool(
        load_pages().any_in_flight(
            address(last), last.shape[1], per_cta, len(rows), address(rows), address(offsets), size,
            address(retired)
        )
    )  # fmt: skip


def set_pages(
    state: Array, stamps: Array, rows: Array, offsets: Array, size: int, stamped: Array, what: int
) -> int | None:
    """Put the pages of these tiles, which are whole pages, into the state `what`.

    Of those in a state that `stamped`, bool by state, has, the words' `stamps` become 0. Returns the first
    page that was in the state `what` already, as its position in the flat `state`; None where none was.
    """
    rows, offsets = _tiles(rows, offsets)
    found: int = load_pages().set_pages(
        address(state), address(stamps), state.shape[1], len(rows), address(rows), address(offsets), size,
        address(stamped), what
    )  # fmt: skip
    return None if found < 0 else found


def _of_rows(loop: Any, table: Array, rows: Array, pages: Array, by: Array) -> Any:
    rows, pages = indices(rows), indices(pages)
    assert len(pages) in (1, len(rows))
    count = pages.shape[1]
    step = count if len(pages) > 1 else 0
    return loop(
        address(table), table.shape[1], len(rows), address(rows), address(pages), step, count, address(by)
    )


def _tiles(rows: Array, offsets: Array) -> tuple[Array, Array]:
    assert len(rows) == len(offsets)
    return indices(rows), indices(offsets)

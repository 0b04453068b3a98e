"""Who holds which columns of tensor memory: `tcgen05.alloc`, `.dealloc` and `.relinquish_alloc_permit`.

PTX ISA, "Tensor Memory Allocation" and "tcgen05.alloc, dealloc, relinquish_alloc_permit": a power of two of
columns, at least 32; the CTAs of an SM share its 512 columns, and an allocation blocks while they are not
free; a pair of CTAs allocates together and gets the same columns; everything is freed before the CTA exits.
"The number of columns to be allocated should not be increased between any two allocations in the execution
order within the CTA."
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError
from harness.simulator.tensor_memory import COLUMNS

Array = npt.NDArray[Any]
LEAST = 32


def checked_size(columns: int) -> int:
    """The size of an allocation; raises for one that does not exist."""
    if columns < LEAST or columns > COLUMNS or columns & (columns - 1):
        raise SimulationError(
            f"an allocation of {columns} columns of tensor memory: "
            f"want a power of two from {LEAST} to {COLUMNS}"
        )
    return columns


class Allocations:
    """`held` bool [rows, 512]: the columns each CTA has; `sm_of_row` says which CTAs share an SM's.

    `cta_name`: a row's CTA, for messages.
    """

    def __init__(self, sm_of_row: Array, cta_name: Callable[[int], str] = str) -> None:
        rows = len(sm_of_row)
        self._cta_name = cta_name
        _, self._sm = np.unique(sm_of_row, return_inverse=True)
        self._taken = np.zeros((rows, COLUMNS), np.bool_)  # by SM
        self.held = np.zeros((rows, COLUMNS), np.bool_)
        self._sizes: dict[tuple[int, int], int] = {}
        self._relinquished = np.zeros(rows, np.bool_)
        self._asked: dict[int, int] = {}
        self._last = np.full(rows, COLUMNS)  # columns of the last allocation of a CTA
        self._asking: dict[int, str] = {}
        self._places: dict[tuple[int, int], str] = {}
        self._granted: dict[int, tuple[int, float]] = {}
        self._freed_at = np.zeros((rows, COLUMNS))  # by SM: the clock with which a column was last given back

    def ask(self, row: int, columns: int, place: str = "") -> None:
        """A CTA wants columns; raises when it could never get them. `place`: warp and instruction."""
        checked_size(columns)
        if self._relinquished[row]:
            raise SimulationError("tcgen05.alloc after tcgen05.relinquish_alloc_permit")
        own = int(self.held[row].sum())
        if own + columns > COLUMNS:
            raise SimulationError(
                f"an allocation of {columns} columns of tensor memory by a CTA that holds {own} of {COLUMNS}"
            )
        if columns > self._last[row]:
            raise SimulationError(
                f"an allocation of {columns} columns of tensor memory behind one of {self._last[row]}: "
                "they may not grow"
            )
        if row in self._asked:
            raise SimulationError("two warps of a CTA allocate tensor memory at the same time")
        self._asked[row] = self._last[row] = columns
        self._asking[row] = place

    def grant(self, rows: tuple[int, ...]) -> None:
        """Give the CTAs `rows`, which allocate together, what they want if all have asked and it is free."""
        if not all(row in self._asked for row in rows):
            return
        sizes = {self._asked[row] for row in rows}
        if len(sizes) > 1:
            raise SimulationError(
                f"the CTAs of a pair allocate {sizes} columns of tensor memory: "
                f"CTAs {' and '.join(self._cta_name(row) for row in rows)}"
            )
        (columns,) = sizes
        taken = np.logical_or.reduce([self._taken[self._sm[row]] for row in rows])
        for first in range(0, COLUMNS - columns + 1, LEAST):
            if not taken[first : first + columns].any():
                end = first + columns
                free = max(float(self._freed_at[self._sm[row], first:end].max()) for row in rows)
                for row in rows:
                    del self._asked[row]
                    self._granted[row] = first, free
                    self._sizes[row, first] = columns
                    self._places[row, first] = self._asking.pop(row)
                    self._taken[self._sm[row], first:end] = True
                    self.held[row, first:end] = True
                return

    def collect(self, row: int) -> tuple[int, float] | None:
        """What was granted to a CTA and not collected yet: its first column, and since when it is free."""
        return self._granted.pop(row, None)

    def free(self, row: int, first: int, columns: int, time: float) -> None:
        """A CTA gives an allocation back at `time` (cycles); raises unless it is exactly one of its own."""
        checked_size(columns)
        size = self._sizes.pop((row, first), None)
        if size != columns:
            what = "nothing is allocated there" if size is None else f"the allocation there has {size}"
            raise SimulationError(f"tcgen05.dealloc of {columns} columns from column {first}: {what}")
        del self._places[row, first]
        self._taken[self._sm[row], first : first + columns] = False
        self._freed_at[self._sm[row], first : first + columns] = time
        self.held[row, first : first + columns] = False

    def relinquish(self, rows: Array) -> None:
        self._relinquished[rows] = True

    def check(self, rows: Array, first: Array, columns: int) -> None:
        """Raise unless each CTA of `rows` [G] holds `columns` columns from `first` [G] on."""
        if (first == first[0]).all():
            start = int(first[0])
            held = self.held[rows, start : start + columns]
        else:
            held = self.held[rows[:, None], np.minimum(first[:, None] + np.arange(columns), COLUMNS - 1)]
        wrong = (first + columns > COLUMNS) | ~held.all(1)
        if wrong.any():
            start = int(first[wrong][0])
            raise SimulationError(
                f"columns {start} to {start + columns - 1} of tensor memory are not allocated", wrong
            )

    def check_exit(self, rows: Array) -> None:
        """CTAs of `rows` exit: they may hold nothing."""
        kept = self.held[rows].sum(1)
        if kept.any():
            row = int(rows[np.argmax(kept)])
            place = next(place for (owner, _), place in self._places.items() if owner == row)
            raise SimulationError(
                f"a CTA exits with {int(kept.max())} columns of tensor memory allocated by {place}"
            )

    def waits_for(self, row: int) -> str:
        """What a blocked allocation of a CTA waits for."""
        free = COLUMNS - int(self._taken[self._sm[row]].sum())
        return f"{self._asked.get(row, 0)} columns of tensor memory ({free} are free on its SM)"

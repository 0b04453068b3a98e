"""Shared memory of all resident CTAs, with a shadow that remembers who wrote each word and when.

One row of `bytes` for each CTA. A shared address is `rank << 24 | offset`: the shared::cta window of a CTA
lies in its cluster's shared::cluster window, at the CTA's rank (what `mapa` computes; PTX ISA, "State
spaces", and CUTLASS's `Sm100MmaPeerBitMask`, which clears bit 24 to reach the even CTA of a pair).

The shadow catches what hardware is silent about: a read of a word nobody wrote, a read or a store where a
tile load is under way, and a read by the asynchronous proxy (TMA, tensor cores) of a word written by ordinary
stores without a proxy fence in between (PTX ISA, "Async proxy"). A fence covers the writes of its own thread
and, behind a barrier, those of the whole CTA before that barrier: causality order needs the fence on the
path, in whichever thread.

It remembers words: a store of one byte counts for all four of its word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError
from harness.simulator.machine_constants import RESERVED_SMEM_BYTES
from harness.simulator.pages import pages_are, set_pages

Array = npt.NDArray[Any]
RANK_SHIFT = 24
OFFSET_MASK = (1 << RANK_SHIFT) - 1
PAGE_WORDS = 64
PAGE_BYTES = 4 * PAGE_WORDS
CHUNK = np.dtype("V16")
# A stamp has 32 bits: 11 for the thread, of 1024 at most, and 21 for the step.
WRITER_BITS = 11
ASYNC = (1 << WRITER_BITS) - 1
MAX_STEPS = (1 << 32 - WRITER_BITS) - 1
PAGES_AT_ONCE = 256  # so that what is computed of their stamps stays in the cache

# States of a page. WORDS: its words' stamps tell everything. LOADED: a tile load wrote all of the page, and
# nothing has since. MIXED: as LOADED, but where a word has a stamp, that is newer. FILLING: a load comes.
# CLEAN: as WORDS, and all of them are known to be written, and fenced where they must be. ZERO: as CLEAN, and
# all of its bytes are 0, as where a tile is padded: nobody need read it to know.
UNTOUCHED, WORDS, LOADED, MIXED, FILLING, CLEAN, ZERO = range(7)
_AFTER_WRITE = np.array([WORDS, WORDS, MIXED, MIXED, FILLING, WORDS, WORDS], np.uint8)
_IN_ORDER = np.isin(np.arange(7), (LOADED, CLEAN, ZERO))  # the async proxy may read all of it
_STAMPED = np.isin(np.arange(7), (WORDS, MIXED, CLEAN, ZERO))
_NO_STATE = np.zeros(7, np.bool_)


class SharedMemory:
    """`rows` CTAs of `size` bytes each; `threads` of a CTA may write.

    A word's stamp is `step << WRITER_BITS | writer` of its last write, 0 when there was none. A tile load
    that fills whole pages sets their state and leaves their words without stamps.
    """

    def __init__(self, rows: int, size: int, threads: int) -> None:
        self.size = -(-size // 1024) * 1024
        self.limit = size
        self.bytes = np.zeros((rows, self.size), np.uint8)
        self.stamps = np.zeros((rows, self.size // 4), np.uint32)
        self.state = np.zeros((rows, self.size // PAGE_BYTES), np.uint8)
        self.fenced_at = np.zeros((rows, threads), np.uint32)  # step of a thread's last proxy fence
        self.barrier_at = np.zeros(rows, np.uint32)  # step of the CTA's last barrier
        self.covered = np.zeros(rows, np.uint32)  # a fence behind a barrier covers writes before this step
        self.alive = np.ones(rows, np.bool_)

    def index(self, rows: Array, offsets: Array, size: int, active: Array | None) -> Array:
        """Flat byte positions of `size`-byte accesses at `offsets` of CTAs `rows`, both checked."""
        if self.alive.all() and self._within(offsets, size):
            return rows.astype(np.int64) * self.size + offsets
        wrong = (offsets < RESERVED_SMEM_BYTES) | (offsets > self.limit - size)
        if size > 1:
            wrong |= (offsets & (size - 1)) != 0
        dead = None if self.alive.all() else ~self.alive[rows]
        if active is not None:
            wrong = wrong & active
        if wrong.any():
            offset = int(np.broadcast_to(offsets, wrong.shape)[wrong].flat[0])
            own = f"outside the CTA's own bytes, {RESERVED_SMEM_BYTES:#x} to {self.limit:#x}"
            what = "misaligned" if offset % size else own
            raise SimulationError(f"shared address {offset:#x}, {size} bytes: {what}", wrong)
        if dead is not None:
            late = dead if active is None else dead & active
            if late.any():
                raise SimulationError("access to the shared memory of a CTA that has exited", late)
        return rows.astype(np.int64) * self.size + offsets

    def _within(self, offsets: Array, size: int) -> bool:
        """Whether all of `offsets` are aligned and a CTA's own."""
        low, high = int(offsets.min(initial=RESERVED_SMEM_BYTES)), int(offsets.max(initial=0))
        aligned = size == 1 or not int(np.bitwise_or.reduce(offsets, axis=None)) & (size - 1)
        return aligned and low >= RESERVED_SMEM_BYTES and high <= self.limit - size

    def check_initialized(self, words: Array, active: Array | None) -> None:
        """Raise unless every flat word position has been written."""
        unwritten: Array = self.stamps.reshape(-1)[words] == 0
        if active is not None:
            unwritten = unwritten & active
        if not unwritten.any():
            return
        state = self.state.reshape(-1)[words // PAGE_WORDS]
        unwritten = unwritten & (state != LOADED) & (state != MIXED)
        if unwritten.any():
            word = int(np.broadcast_to(words, unwritten.shape)[unwritten].flat[0])
            state = np.broadcast_to(state, unwritten.shape)[unwritten].flat[0]
            raise SimulationError(
                f"read of shared memory at {4 * word % self.size:#x}, {_unwritten(state)}", unwritten
            )

    def mark(self, words: Array, writers: Array | int, step: int, count: int = 1) -> None:
        """Note ordinary writes by threads of their CTA: `count` words, a power of two, from each of the flat
        word positions, multiples of it."""
        states, pages = self.state.reshape(-1), words // PAGE_WORDS
        after = _AFTER_WRITE[states[pages]]
        filling = after == FILLING
        if filling.any():
            word = int(np.asarray(words)[filling].flat[0])
            raise SimulationError(
                f"store to shared memory at {4 * word % self.size:#x} while a tile load fills it", filling
            )
        states[pages] = after
        stamps = np.uint32(step << WRITER_BITS) | np.asarray(writers, np.uint32)
        if count == 1:
            self.stamps.reshape(-1)[words] = stamps
            return
        # Four stamps as one item: an eighth of the time that four writes and looks at their pages take.
        items = np.dtype(f"V{4 * count}")
        stamps = np.repeat(np.broadcast_to(stamps, words.shape), count)
        self.stamps.reshape(-1).view(items)[words // count] = stamps.view(items)

    def begin_load(self, rows: Array, offsets: Array, size: int) -> None:
        """Tile loads of `size` bytes to `offsets` [n] of CTAs `rows` [n] set out.

        Loads of parts of pages are noted only when they arrive (`mark_loaded`).
        """
        if not _whole_pages(offsets, size):
            return
        page = set_pages(self.state, self.stamps, rows, offsets, size, _STAMPED, FILLING)
        if page is not None:
            at = page % self.state.shape[1] * PAGE_BYTES
            raise SimulationError(f"two tile loads under way to shared memory at {at:#x}")

    def mark_loaded(self, rows: Array, offsets: Array, size: int, step: int) -> None:
        """Note tiles of `size` bytes at `offsets` [n] of CTAs `rows` [n], written by the async proxy."""
        if _whole_pages(offsets, size):
            set_pages(self.state, self.stamps, rows, offsets, size, _NO_STATE, LOADED)
            return
        words = offsets[:, None] // 4 + np.arange(size // 4)
        self.stamps[rows[:, None], words] = np.uint32(step << WRITER_BITS | ASYNC)
        pages = words // PAGE_WORDS
        self.state[rows[:, None], pages] = _AFTER_WRITE[self.state[rows[:, None], pages]]

    def fence(self, rows: Array, threads: Array, step: int) -> None:
        """A proxy fence by threads (flat arrays)."""
        self.fenced_at[rows, threads] = step
        np.maximum.at(self.covered, rows, self.barrier_at[rows])

    def check_async_read(self, rows: Array, words: Array, pages: Array | None = None) -> None:
        """A read of words [1 or G, n] of CTAs `rows` [G] by the async proxy; `pages`: theirs, if known."""
        if pages is None:
            pages = np.unique(words // PAGE_WORDS)[None]
        if not self.pages_in_order(rows, pages):
            self.check_words_in_order(rows, words)

    def check_words_in_order(self, rows: Array, words: Array) -> None:
        """`check_async_read` of what `pages_in_order` did not find to be."""
        stamps = self.stamps[rows[:, None], words]
        state = self.state[rows[:, None], np.broadcast_to(words // PAGE_WORDS, stamps.shape)]
        unwritten = (stamps == 0) & (state != LOADED) & (state != MIXED)
        if unwritten.any():
            group, place = np.argwhere(unwritten)[0]
            word = int(np.broadcast_to(words, stamps.shape)[group, place])
            what = _unwritten(state[group, place])
            raise SimulationError(
                f"asynchronous read of shared memory at {4 * word:#x}, {what}", unwritten.any(1)
            )
        writer = stamps & np.uint32(ASYNC)
        ordinary = (writer != ASYNC) & (stamps != 0)
        written = stamps >> np.uint32(WRITER_BITS)
        threads = np.where(ordinary, writer, 0).astype(np.int64)
        dirty = ordinary & (self.fenced_at[rows[:, None], threads] < written)
        dirty &= self.covered[rows][:, None] < written
        if dirty.any():
            group, place = np.argwhere(dirty)[0]
            word = int(np.broadcast_to(words, stamps.shape)[group, place])
            raise SimulationError(
                f"asynchronous read of shared memory at {4 * word:#x} that thread "
                f"{int(writer[group, place])} wrote without a fence.proxy.async behind it",
                dirty.any(1),
            )

    def pages_in_order(self, rows: Array, pages: Array) -> bool:
        """Whether the async proxy may read all words of `pages` [1 or G, p] of CTAs `rows` [G]."""
        if pages_are(self.state, rows, pages, _IN_ORDER):
            return True
        self._clean(rows, pages)
        return pages_are(self.state, rows, pages, _IN_ORDER)

    def _clean(self, rows: Array, pages: Array) -> None:
        """Mark those of these pages as CLEAN or ZERO whose every word the async proxy may read."""
        flat = (rows[:, None] * (self.size // PAGE_BYTES) + pages).reshape(-1)
        states = self.state.reshape(-1)
        flat = np.unique(flat[states[flat] == WORDS])
        for some in np.array_split(flat, len(flat) // PAGES_AT_ONCE + 1):
            some = some[self._may_be_read(some)]
            words = self.bytes.view(np.uint64).reshape(-1, PAGE_BYTES // 8)[some]
            states[some] = np.where(words.any(1), CLEAN, ZERO)

    def _may_be_read(self, pages: Array) -> Array:
        """Of flat pages [n], whether each has been written in all words, and fenced where it must be."""
        stamps, row = self.stamps.reshape(-1, PAGE_WORDS)[pages], pages // (self.size // PAGE_BYTES)
        writer, written = (stamps & np.uint32(ASYNC)).astype(np.int64), stamps >> np.uint32(WRITER_BITS)
        by_async = writer == ASYNC
        writer[by_async] = 0
        threads = self.fenced_at.shape[1]
        fenced = self.fenced_at.reshape(-1).take((row * threads)[:, None] + writer) >= written
        covered = self.covered[row, None] >= written
        may_be_read: Array = ((fenced | covered | by_async) & (stamps != 0)).all(1)
        return may_be_read

    def write_tiles(self, rows: Array, offsets: Array, data: npt.NDArray[np.uint8]) -> None:
        """Put `data` [n, size], whole chunks, at `offsets` [n] of CTAs `rows` [n]."""
        cells, tiles = self.chunks(), data.view(CHUNK)
        first, count = int(offsets[0]) // CHUNK.itemsize, tiles.shape[1]
        if (offsets == offsets[0]).all():  # a fifth of the time
            cells[rows, first : first + count] = tiles
        else:
            cells[rows[:, None], offsets[:, None] // CHUNK.itemsize + np.arange(count)] = tiles

    def chunks(self) -> npt.NDArray[np.void]:
        """The same bytes as 16-byte chunks [rows, size / 16]."""
        return self.bytes.view(CHUNK)


def _whole_pages(offsets: Array, size: int) -> bool:
    """Whether tiles of `size` bytes at `offsets` [n] are made of whole pages."""
    return not (size % PAGE_BYTES or (offsets % PAGE_BYTES).any())


def _unwritten(state: Any) -> str:
    if state == FILLING:
        return "into which a tile load is still under way"
    return "which nobody wrote"

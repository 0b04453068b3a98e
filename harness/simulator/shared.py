"""Shared memory of all resident CTAs, with a shadow that remembers who wrote each word and when.

One row of `bytes` for each CTA. A shared address is `rank << 24 | offset`: the shared::cta window of a CTA lies
in its cluster's shared::cluster window, at the CTA's rank (what `mapa` computes; PTX ISA, "State spaces", and
CUTLASS's `Sm100MmaPeerBitMask`, which clears bit 24 to reach the even CTA of a pair).

The shadow catches what hardware is silent about: a read of a word nobody wrote, and a read by the asynchronous
proxy (TMA, tensor cores) of a word written by ordinary stores without a proxy fence in between (PTX ISA,
"Async proxy"). A fence covers the writes of its own thread and, behind a barrier, those of the whole CTA before
that barrier: causality order needs the fence on the path, in whichever thread.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError

Array = npt.NDArray[np.integer]
RANK_SHIFT = 24
OFFSET_MASK = (1 << RANK_SHIFT) - 1
PAGE_WORDS = 64
CHUNK = np.dtype("V16")
ASYNC = 0xFFFF


class SharedMemory:
    """`rows` CTAs of `size` bytes each; `threads` of a CTA may write."""

    def __init__(self, rows: int, size: int, threads: int) -> None:
        self.size = -(-size // 1024) * 1024
        self.limit = size
        self.bytes = np.zeros((rows, self.size), np.uint8)
        self.words = self.bytes.view(np.uint32)
        words = self.size // 4
        self.written_at = np.zeros((rows, words), np.uint32)  # step of the last write; 0: never
        self.writer = np.zeros((rows, words), np.uint16)  # thread of the last write, or ASYNC
        self.fenced_at = np.zeros((rows, threads), np.uint32)  # step of a thread's last proxy fence
        self.barrier_at = np.zeros(rows, np.uint32)  # step of the CTA's last barrier
        self.covered = np.zeros(rows, np.uint32)  # writes before this step are covered by a fence behind a barrier
        self.alive = np.ones(rows, np.bool_)
        # Shortcuts: pages known to be wholly written, and those that ordinary stores have touched.
        pages = words // PAGE_WORDS
        self.complete = np.zeros((rows, pages), np.bool_)
        self.generic = np.zeros((rows, pages), np.bool_)

    def index(self, rows: Array, offsets: Array, size: int, active: npt.NDArray[np.bool_] | None) -> Array:
        """Flat byte positions of `size`-byte accesses at `offsets` of CTAs `rows`, both checked."""
        wrong = (offsets < 0) | (offsets + size > self.limit) | (offsets % size != 0)
        dead = ~self.alive[rows]
        if active is not None:
            wrong, dead = wrong & active, dead & active
        if wrong.any():
            offset = int(np.broadcast_to(offsets, wrong.shape)[wrong].flat[0])
            what = "misaligned" if offset % size else f"outside the CTA's {self.limit} bytes"
            raise SimulationError(f"shared address {offset:#x}, {size} bytes: {what}")
        if dead.any():
            raise SimulationError("access to the shared memory of a CTA that has exited")
        return rows.astype(np.int64) * self.size + offsets

    def check_initialized(self, words: Array, active: npt.NDArray[np.bool_] | None) -> None:
        """Raise unless every flat word position has been written."""
        unwritten = self.written_at.reshape(-1)[words] == 0
        if active is not None:
            unwritten = unwritten & active
        if unwritten.any():
            word = int(np.broadcast_to(words, unwritten.shape)[unwritten].flat[0])
            raise SimulationError(f"read of shared memory nobody wrote, at {4 * word % self.size:#x}")

    def mark(self, words: Array, writers: Array | int, step: int) -> None:
        """Note a write of flat word positions."""
        self.written_at.reshape(-1)[words] = step
        self.writer.reshape(-1)[words] = writers
        if not (isinstance(writers, int) and writers == ASYNC):
            self.generic.reshape(-1)[words // PAGE_WORDS] = True

    def fence(self, rows: Array, threads: Array, step: int) -> None:
        """A proxy fence by threads (flat arrays)."""
        self.fenced_at[rows, threads] = step
        np.maximum.at(self.covered, rows, self.barrier_at[rows])

    def check_async_read(self, rows: Array, words: Array) -> None:
        """A read of words [n] or [G, n] of CTAs `rows` [G] through the asynchronous proxy."""
        pages = np.unique(words // PAGE_WORDS)
        if bool(self.complete[np.ix_(rows, pages)].all()) and not self.generic[np.ix_(rows, pages)].any():
            return
        written = self.written_at[rows[:, None], words]
        if (written == 0).any():
            group, place = np.argwhere(written == 0)[0]
            word = np.broadcast_to(words, written.shape)[group, place]
            raise SimulationError(f"asynchronous read of shared memory nobody wrote, at {4 * int(word):#x}")
        writer = self.writer[rows[:, None], words]
        threads = np.where(writer == ASYNC, 0, writer)
        dirty = (
            (writer != ASYNC)
            & (self.fenced_at[rows[:, None], threads] < written)
            & (self.covered[rows][:, None] < written)
        )
        if dirty.any():
            group, place = np.argwhere(dirty)[0]
            word = np.broadcast_to(words, written.shape)[group, place]
            raise SimulationError(
                f"asynchronous read of shared memory at {4 * int(word):#x} that thread {writer[group, place]} wrote "
                "without a fence.proxy.async behind it"
            )
        first = pages[:, None] * PAGE_WORDS + np.arange(PAGE_WORDS)
        for row in np.unique(rows):
            self.complete[row, pages] = (self.written_at[row][first] > 0).all(1)
            ordinary = self.writer[row][first] != ASYNC
            self.generic[row, pages] = (ordinary & (self.written_at[row][first] > 0)).any(1)

    def chunks(self) -> npt.NDArray[np.void]:
        """The same bytes as 16-byte chunks [rows, size / 16]."""
        return self.bytes.view(CHUNK)

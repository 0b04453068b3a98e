"""Races in shared memory: accesses to one word, one of them a write, that no barrier orders.

An optional mode. It finds a missing or misplaced barrier whatever the order of execution happened to be. Who
has learned of what is `ThreadOrder`'s business; here is, for each word, the last write (its agent and epoch)
and every agent's last read. A warp counts as one: lanes of one warp are taken to be in order.

Tile loads write as the copy agent of the warp that issued them, so whoever reads must have waited for their
mbarrier, and whoever loads must have learned that the readers are done. `wgmma` and tile stores count as
reads by the warps that issue them; operands of whole pages are noted by the page. Atomics are exempt, and so
is what goes through flags in memory. Between warps of different CTAs, an order counts that is of cluster
scope (`Scopes`).

Loops in C answer whether all accesses of an instruction are in order, and note them then. What they do not
say yes to is looked at here once more, in numpy: that alone says what is an error, and words it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator import race_loops
from harness.simulator.errors import SimulationError
from harness.simulator.ordering import run_starts
from harness.simulator.scopes import Scopes
from harness.simulator.shared import PAGE_WORDS
from harness.simulator.thread_order import ThreadOrder

Array = npt.NDArray[Any]
UNORDERED = "no barrier orders the two"
# What is wrong with a barrier between warps of two CTAs.
SCOPE = (
    "what orders the two is not of cluster scope: want a release there (.release.cluster, or a fence before "
    "the arrival) and an acquire here (.acquire.cluster, or a fence behind the wait)"
)


@cache
def _one_of_each_page(count: int) -> Array:
    """Of `count` words in a row, some that lie in all of their pages."""
    return np.unique([*range(0, count, PAGE_WORDS), count - 1])


class _Reads:
    """The epoch of each warp's last read of each of `places` in the shared memory of each CTA (`rows`).

    Almost all reads are by warps of the place's own CTA. They lie apart from those by others, so that what is
    remembered and looked at of a place is short: 32 bytes and not a KiB, in clusters of 16 CTAs of 8 warps.
    """

    def __init__(self, order: ThreadOrder, rows: int, places: int) -> None:
        self._order, self._places = order, places
        self.any = np.zeros(rows * places, np.bool_)
        self._near = np.zeros((rows * places, order.per_row), np.int32)
        self._any_far = np.zeros(rows * places, np.bool_)
        self._far = np.zeros((0, order.per_cluster), np.int32)  # made by the first such read
        self.in_c = race_loops.Reads.of(self.any, self._any_far, self._near, places)

    def note(self, places: Array, warps: Array) -> None:
        """Warps `warps` [n] read `places` [n]. A warp's epochs only grow."""
        order = self._order
        self.any[places] = True
        far = places // self._places != warps // order.per_row
        if far.any():
            if not self._far.size:
                self._far = np.zeros((len(self.any), order.per_cluster), np.int32)
                self.in_c.add_far(self._far)
            self._any_far[places[far]] = True
            self._far[places[far], order.agent[warps[far]]] = order.epoch[warps[far]]
            places, warps = places[~far], warps[~far]
        self._near[places, warps % order.per_row] = order.epoch[warps]

    def any_far(self, places: Array) -> bool:
        """Whether a warp of another CTA has read one of `places`."""
        return bool(self._any_far[places].any())

    def all_known(self, places: Array, warps: Array) -> bool:
        """Whether `warps` [n] are known to have learned of all reads of `places` [n] but their own."""
        if self.any_far(places):
            return False
        order, row = self._order, places // self._places
        seen = order.seen.reshape(len(order.seen), -1, order.per_row)
        late = self._near[places] > seen[warps, row % (order.per_cluster // order.per_row)]
        own = np.flatnonzero(row == warps // order.per_row)
        late[own, warps[own] % order.per_row] = False
        return not late.any()

    def epochs(self, places: Array) -> Array:
        """Those of all warps of the cluster [n, warps]."""
        order = self._order
        rank = places // self._places % (order.per_cluster // order.per_row)
        columns = rank[:, None] * order.per_row + np.arange(order.per_row)
        found = self._far[places] if self._far.size else np.zeros((len(places), order.per_cluster), np.int32)
        found[np.arange(len(places))[:, None], columns] = self._near[places]
        return found


class SharedRaces:
    """The last accesses to each of `words` words, a multiple of a page's, of every CTA (`rows`)."""

    def __init__(self, order: ThreadOrder, rows: int, words: int) -> None:
        self.order, self.words = order, words
        self.writer = np.zeros(rows * words, np.int32)  # agent of the last write, + 1; 0: none yet
        self.written = np.zeros(rows * words, np.int32)  # its epoch
        self.word_reads = _Reads(order, rows, words)
        self.page_reads = _Reads(order, rows, words // PAGE_WORDS)
        # The CTA in its cluster of every agent that is a warp; copies have an order of their own: -1.
        ranks = np.arange(order.per_cluster) // order.per_row
        self._rank = np.concatenate([ranks, np.full(order.per_cluster, -1)])
        known = None if order.scopes is None else order.scopes.known
        self.loops = race_loops.Races(
            (self.writer, self.written), (order.seen, order.epoch, known), (order.per_row, order.per_cluster),
            PAGE_WORDS, (self.word_reads.in_c, self.page_reads.in_c)
        )  # fmt: skip

    def read(self, words: Array, warps: Array) -> None:
        """Warps `warps` [n] read flat word positions `words` [n]."""
        if self.loops.read_words(words, warps):
            return
        self._check_writer(words, warps, self.order.agent[warps], "reads")
        self.word_reads.note(words, warps)

    def read_operands(self, places: Array, warps: Array, together: int, whole: bool) -> None:
        """Of `warps` [G * together], each group reads some of the places [1 or G, n] of its CTA.

        They are words or, if `whole`, pages.
        """
        if self.loops.read_operands(places, warps, together, whole):
            return
        note, of_row = (self.read_pages, self.words // PAGE_WORDS) if whole else (self.read, self.words)
        each = places.shape[1]
        of_warps = np.repeat(np.broadcast_to(places, (len(warps) // together, each)), together, 0)
        rows = warps // self.order.per_row
        note((of_warps + rows[:, None] * of_row).reshape(-1), np.repeat(warps, each))

    def read_pages(self, pages: Array, warps: Array) -> None:
        """Warps `warps` [n] read flat pages `pages` [n], each whole."""
        agent = self.order.agent[warps]
        writer, written = (of.reshape(-1, PAGE_WORDS).take(pages, 0) for of in (self.writer, self.written))
        # The words of a tile have one writer: asking for one of a page takes a fifth of the time.
        of_one_write = (writer == writer[:, :1]).all() and (written == written[:, :1]).all()
        late = self._late(writer[:, 0] - 1, written[:, 0], warps, agent, self.order.scopes)
        if not of_one_write or any(found.any() for found in late):
            words = pages[:, None] * PAGE_WORDS + np.arange(PAGE_WORDS)
            each = np.repeat(warps, PAGE_WORDS)
            self._check_writer(words.reshape(-1), each, self.order.agent[each], "reads")
        self.page_reads.note(pages, warps)

    def write(self, words: Array, warps: Array) -> None:
        """Warps `warps` [n] write `words` [n]."""
        agent = self.order.agent[warps]
        if not self.loops.write_words(words, warps):
            self._check_writer(words, warps, agent, "writes")
            self._check_readers(self.word_reads, words, warps, words)
            self._check_readers(self.page_reads, words // PAGE_WORDS, warps, words)
            self._check_scope_of_readers(words, warps)
            self.writer[words] = agent + 1
            self.written[words] = self.order.epoch[warps]
        # Of several warps that write a word by this one instruction, one is remembered.
        writer = self.writer[words] - 1
        self._refuse_writer(writer != agent, words, writer, "writes", UNORDERED)

    def write_tiles(self, starts: Array, count: int, warps: Array, copies: Array) -> None:
        """Copies of epochs `copies` [n], issued by `warps` [n], write `count` words from each of `starts`."""
        if self.loops.write_tiles(starts, count, warps, copies):
            return
        words = starts[:, None] + np.arange(count)
        agent = self.order.agent[warps]
        each = np.repeat(warps, words.shape[1])
        flat = words.reshape(-1)
        self._check_writer(flat, each, self.order.agent[each], "writes")
        self._check_readers(self.word_reads, flat, each, flat)
        first = words[:, _one_of_each_page(words.shape[1])]
        some = np.repeat(warps, first.shape[1])
        self._check_readers(self.page_reads, first.reshape(-1) // PAGE_WORDS, some, first.reshape(-1))
        self.writer[words] = agent[:, None] + 1 + self.order.per_cluster
        self.written[words] = copies[:, None]

    def _check_readers(self, reads: _Reads, places: Array, warps: Array, words: Array) -> None:
        """Raise unless the warps [n], which write `words` [n], have learned of all reads of `places` [n]."""
        chosen = np.flatnonzero(reads.any[places])
        if not chosen.size or reads.all_known(places[chosen], warps[chosen]):
            return
        late = reads.epochs(places[chosen]) > self.order.seen[warps[chosen], : self.order.per_cluster]
        late[np.arange(len(chosen)), self.order.agent[warps[chosen]]] = False
        self._refuse_readers(late, chosen, words, UNORDERED)

    def _check_scope_of_readers(self, words: Array, warps: Array) -> None:
        """As `_check_readers`, of reads from other CTAs, for an order of their scope."""
        if self.order.scopes is None:
            return
        chosen = np.flatnonzero(self.word_reads.any[words])
        words_read, writers = words[chosen], warps[chosen]
        own = words_read // self.words == writers // self.order.per_row
        if own.all() and not self.word_reads.any_far(words_read):
            return
        known = self.order.scopes.known[writers, : self.order.per_cluster]
        late = self.word_reads.epochs(words_read) > known
        late &= self._rank[: self.order.per_cluster] != self._rank[self.order.agent[writers]][:, None]
        self._refuse_readers(late, chosen, words, SCOPE)

    def _refuse_readers(self, late: Array, chosen: Array, words: Array, why: str) -> None:
        """Raise where a write of `words[chosen]` comes before agents' reads are over, `late` [n, agents]."""
        if late.any():
            which, reader = (int(i) for i in np.argwhere(late)[0])
            wrong = np.zeros(len(words), np.bool_)
            wrong[chosen] = late.any(1)
            raise self._race(int(words[chosen[which]]), "writes", reader, "read", wrong, why)

    def _check_writer(self, words: Array, warps: Array, agent: Array, what: str) -> None:
        writer, written = self.writer[words] - 1, self.written[words]
        scopes = self.order.scopes if what == "reads" else None
        # Neighbours mostly agree, and asking once for all of them takes a quarter of the time.
        first = run_starts(writer, written, warps)
        late, out_of_scope = self._late(writer[first], written[first], warps[first], agent[first], scopes)
        if late.any() or out_of_scope.any():
            late, out_of_scope = self._late(writer, written, warps, agent, scopes)
            self._refuse_writer(late, words, writer, what, UNORDERED)
            self._refuse_writer(out_of_scope, words, writer, what, SCOPE)

    def _late(
        self, writer: Array, written: Array, warps: Array, agent: Array, scopes: Scopes | None
    ) -> tuple[Array, Array]:
        """Where warps have not learned of a write, at all or, given `scopes`, by one of cluster scope."""
        other = np.maximum(writer, 0)
        late = (writer >= 0) & (writer != agent) & (written > self.order.seen[warps, other])
        if scopes is None:
            return late, np.zeros_like(late)
        apart = (writer >= 0) & (self._rank[other] >= 0) & (self._rank[other] != self._rank[agent])
        return late, apart & (written > scopes.known[warps, other])

    def _refuse_writer(self, late: Array, words: Array, writer: Array, what: str, why: str) -> None:
        """Raise where `what` happens to `words` before the writes by `writer` are over, `late` [n]."""
        if late.any():
            which = int(np.flatnonzero(late)[0])
            raise self._race(int(words[which]), what, int(writer[which]), "wrote", late, why)

    def _race(self, word: int, what: str, other: int, did: str, late: Any, why: str) -> SimulationError:
        per_cluster, per_row = self.order.per_cluster, self.order.per_row
        warp = other % per_cluster
        who = f"warp {warp % per_row} of the CTA of rank {warp // per_row}"
        if other >= per_cluster:
            who = f"a copy issued by {who}"
        return SimulationError(
            f"race: it {what} shared memory at {word % self.words * 4:#x}, which {who} {did}, and {why}",
            late,
        )

"""Races looked for in C: yes where numpy finds none, no where it finds one, and the same is remembered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.shared import PAGE_WORDS
from harness.simulator.shared_races import SharedRaces
from harness.simulator.thread_order import ThreadOrder

Array = NDArray[Any]
CTAS, PER_ROW, CLUSTERS = 3, 4, 2  # CTAs and warps of a CTA; the warps of a warpgroup
PER_CLUSTER, ROWS = CTAS * PER_ROW, CTAS * CLUSTERS
WARPS, PAGES = ROWS * PER_ROW, 3
WORDS = PAGES * PAGE_WORDS
STEPS = 150
EDGES = np.array([0, 1, 2, PAGE_WORDS - 2, PAGE_WORDS - 1])  # of a page: words that lanes access
LOOPS = ("read_words", "read_operands", "write_words", "write_tiles")


class _Declining:
    """Loops that leave everything to numpy."""

    def __getattr__(self, name: str) -> Callable[..., bool]:
        return lambda *arguments: False


@dataclass
class _Heard:
    """Loops, and what each has answered last."""

    loops: Any
    answers: dict[str, bool] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Callable[..., bool]:
        def ask(*arguments: Any) -> bool:
            self.answers[name] = bool(getattr(self.loops, name)(*arguments))
            return self.answers[name]

        return ask


class _History:
    """Accesses and barriers of random warps, all of one cluster at a time."""

    def __init__(self, seed: int, scoped: bool) -> None:
        self.random = np.random.default_rng(seed)
        self.order = ThreadOrder(WARPS, PER_CLUSTER, PER_ROW, str, scoped=scoped)
        self.phases: Counter[tuple[str, int]] = Counter()

    def some(self, end: int, count: int = 1) -> Array:
        return self.random.integers(0, end, count)

    def flip(self) -> bool:
        return bool(self.random.integers(2))

    def barrier(self) -> None:
        """Warps of a CTA, of a cluster, or a few of them, meet."""
        row = int(self.some(ROWS)[0])
        if self.flip():
            kind, key, first, count = "named", row, row * PER_ROW, PER_ROW
        else:
            cluster = row // CTAS
            kind, key, first, count = "cluster", cluster, cluster * PER_CLUSTER, PER_CLUSTER
        warps = first + np.arange(count)
        if self.random.random() < 0.2:
            warps = warps[self.random.random(count) < 0.7]
        if not len(warps):
            return
        keys, phase = np.full(len(warps), key), self.phases[kind, key]
        away = np.full(len(warps), kind == "cluster")
        self.order.arrive(kind, warps, keys, np.full(len(warps), phase), away, self.flip())
        self.phases[kind, key] += 1
        self.order.passed(kind, warps, keys, np.full(len(warps), phase + 1), self.flip())

    def copies_end(self) -> None:
        """What a CTA's copies have done is known to its warps."""
        warps = self.some(ROWS)[0] * PER_ROW + np.arange(PER_ROW)
        agents = PER_CLUSTER + self.order.agent[warps]
        self.order.seen[np.ix_(warps, agents)] = self.order.copy_epoch[warps]
        if self.order.scopes is not None:
            self.order.scopes.known[np.ix_(warps, agents)] = self.order.copy_epoch[warps]

    def access(self) -> Callable[[SharedRaces], None]:
        kind = self.random.choice(LOOPS)
        if kind == "read_operands":
            return self._operands()
        if kind == "write_tiles":
            return self._tiles()
        # Lanes of a few warps, at words that are mostly their own CTA's, and of a small part of it.
        warps = self.some(PER_CLUSTER, int(self.some(3)[0]) + 1).repeat(4) + self.some(CLUSTERS) * PER_CLUSTER
        rows = warps // PER_ROW
        if self.random.random() < 0.3:
            rows = rows // CTAS * CTAS + self.some(CTAS, len(warps))
        words = rows * WORDS + self.some(PAGES) * PAGE_WORDS + self.random.choice(EDGES, len(warps))
        if kind == "read_words":
            return lambda races: races.read(words, warps)
        # What several warps write at once is another matter, which no loop is asked about.
        _, first, which = np.unique(words, return_index=True, return_inverse=True)
        one = warps == warps[first][which]
        return lambda races: races.write(words[one], warps[one])

    def _operands(self) -> Callable[[SharedRaces], None]:
        groups = self.random.permutation(ROWS)[: int(self.some(3)[0]) + 1]
        warps = (groups[:, None] * PER_ROW + np.arange(PER_ROW)).reshape(-1)
        rows = 1 if self.flip() else len(groups)
        whole = self.flip()
        places = self.some(PAGES if whole else 20, rows * 2).reshape(rows, 2)
        return lambda races: races.read_operands(places, warps, PER_ROW, whole)

    def _tiles(self) -> Callable[[SharedRaces], None]:
        issues = int(self.some(3)[0]) + 1
        rows, count = self.random.permutation(ROWS)[:issues], int(self.random.choice([4, 64, 100]))
        warps = rows * PER_ROW + self.some(PER_ROW, issues)
        if self.random.random() < 0.2:
            rows = rows // CTAS * CTAS + self.some(CTAS, issues)
        starts = rows * WORDS + self.some((WORDS - count) // 4, issues) * 4
        np.add.at(self.order.copy_epoch, warps, 1)
        copies = self.order.copy_epoch[warps]
        return lambda races: races.write_tiles(starts, count, warps, copies)


def error_of(access: Callable[[SharedRaces], None], races: SharedRaces) -> tuple[str, Any]:
    try:
        access(races)
    except SimulationError as error:
        return str(error), np.asarray(error.wrong).tolist()
    return "", None


def remembered(races: SharedRaces) -> list[Array]:
    reads = races.word_reads, races.page_reads
    far = (of._far if of._far.size else np.zeros((len(of.any), PER_CLUSTER), np.int32) for of in reads)
    return [races.writer, races.written, *far, *(
        part for of in reads for part in (of.any, of._any_far, of._near)
    )]  # fmt: skip


@pytest.mark.parametrize("scoped", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_c_and_numpy_find_the_same(seed: int, scoped: bool) -> None:
    history = _History(seed, scoped)
    fast, slow = (SharedRaces(history.order, ROWS, WORDS) for _ in range(2))
    heard = _Heard(fast.loops)
    fast.loops, slow.loops = heard, _Declining()  # type: ignore[assignment]
    races = 0
    for _ in range(STEPS):
        for _ in range(int(history.some(3)[0])):
            (history.barrier if history.flip() else history.copies_end)()
        access = history.access()
        had_far = [bool(reads._far.size) for reads in (fast.word_reads, fast.page_reads)]
        heard.answers.clear()
        found, wanted = error_of(access, fast), error_of(access, slow)
        assert found == wanted
        races += bool(wanted[0])
        for mine, theirs in zip(remembered(fast), remembered(slow), strict=True):
            assert (mine == theirs).all()
        # The first answer is that of the access itself; numpy is asked for nothing that C could have said,
        # but where it has to make room for the first read from another CTA.
        answer = next(iter(heard.answers.values()))
        made = had_far != [bool(reads._far.size) for reads in (fast.word_reads, fast.page_reads)]
        assert answer == (not wanted[0] and not made)
    assert STEPS // 10 < races < STEPS * 9 // 10


def one_machine() -> SharedRaces:
    return SharedRaces(ThreadOrder(WARPS, PER_CLUSTER, PER_ROW, str), ROWS, WORDS)


def test_a_warp_of_the_same_number_in_another_cta_is_another() -> None:
    races, word = one_machine(), np.array([WORDS])
    races.read(word, np.array([PER_ROW]))
    assert races.loops.write_words(word, np.array([PER_ROW]))
    assert not races.loops.write_words(word, np.array([0]))


@pytest.mark.parametrize("late", range(0, PAGE_WORDS, 9))
def test_one_word_of_a_page_by_another_warp_is_seen(late: int) -> None:
    """Its epoch is that of all others."""
    races, words, first, once = one_machine(), np.arange(PAGE_WORDS), np.array([0]), np.ones(1, np.int32)
    races.write(words, np.zeros_like(words))
    assert races.loops.read_operands(first[None], first, 1, True)
    races = one_machine()
    races.write(words, (words == late).astype(np.int64))
    assert not races.loops.read_operands(first[None], first, 1, True)
    assert not races.loops.write_tiles(first, PAGE_WORDS, first, once)


def test_warps_of_two_ctas_are_no_group() -> None:
    races, place = one_machine(), np.array([[0]])
    assert not races.loops.read_operands(place, np.array([PER_ROW - 1, PER_ROW]), 2, False)
    assert races.loops.read_operands(place, np.array([PER_ROW - 2, PER_ROW - 1]), 2, False)


@pytest.mark.parametrize("word", [-1, ROWS * WORDS])
def test_what_lies_nowhere_is_left_to_numpy(word: int) -> None:
    races = one_machine()
    words, warps = np.array([0, word]), np.array([0, 0])
    assert not races.loops.read_words(words, warps)
    assert not races.loops.write_words(words, warps)
    assert not races.loops.write_tiles(words[1:] - 3, 4 if word > 0 else 1, warps[1:], np.ones(1, np.int32))
    assert not races.loops.read_operands(words[None], np.arange(PER_ROW), PER_ROW, False)
    assert not races.writer.any()
    assert not races.word_reads.any.any()


@pytest.mark.parametrize("in_c", [True, False])
def test_two_warps_that_write_a_word_by_one_instruction_race(in_c: bool) -> None:
    """What each has learned before tells nothing: once neither saw the other."""
    races = one_machine()
    if not in_c:
        races.loops = _Declining()  # type: ignore[assignment]
    races.write(np.array([5, 5, 6]), np.array([0, 0, 1]))
    with pytest.raises(
        SimulationError, match=r"it writes shared memory at 0x1c, which warp [01] of"
    ) as caught:
        races.write(np.array([8, 7, 7, 9]), np.array([0, 0, 1, 1]))
    assert np.flatnonzero(caught.value.wrong).tolist() in ([1], [2])

"""The running top k in registers: k sorted triples, inserted by fully unrolled compare-and-select.

A triple is `s` (biased score, the sort key), `i` (expert id) and `a` (unbiased activation). Every index is a
compile-time constant, so the triples live in 3k registers: no local memory, no loop, no heap. The order is
total: descending `s`, and ascending `i` among equals, which is the reference's tie rule. A key is clamped to
the lowest finite float first, so that NaN and -inf sort last yet above an empty slot, and a row of NaN still
yields the ids 0 to k-1.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32
from cutlass.cutlass_dsl import select_

from kernels.problem import RouterProblem, Score

LOWEST_FINITE = -3.4028234663852886e38
EMPTY_KEY = float("-inf")
EMPTY_ID = 0x7FFFFFFF
NEGATIVE_ZERO = -0x80000000  # the bits of -0.0


def sort_key(biased: Float32) -> Float32:
    """`biased` with NaN and -inf mapped to the lowest finite float (PTX max.f32 drops a NaN operand)."""
    return cute.arch.fmax(biased, Float32(LOWEST_FINITE))


def _step_up(bits: Int32) -> Int32:
    """What takes a float's bits to the next larger float: 1 for a positive one, -1 for a negative one."""
    return (bits >> 31) | 1


def _before(s: Float32, i: Int32, other_s: Float32, other_i: Int32) -> Boolean:
    """Whether the first of two triples comes first."""
    return (s > other_s) | ((s == other_s) & (i < other_i))


def bitonic_exchanges(k: int) -> list[tuple[int, int]]:
    """The exchanges (higher slot, lower slot) that sort k values which first fall and then rise.

    The last log2 steps of Batcher's bitonic sorter (Sorting networks and their applications, 1968), for the
    next power of two. What it has more than k values would be infinite, in front, where every exchange
    leaves it: those exchanges fall away. Of 6 values 7 are left, in three steps.
    """
    wires = 1 << (k - 1).bit_length()
    extra = wires - k
    exchanges = []
    distance = wires // 2
    while distance:
        exchanges += [(w - extra, w + distance - extra) for w in range(extra, wires) if not w & distance]
        distance //= 2
    return exchanges


@dataclass(frozen=True)
class TopK:
    """k sorted triples in registers: fragments [k] of `s` fp32, `i` int32 and `a` fp32."""

    s: cute.Tensor
    i: cute.Tensor
    a: cute.Tensor

    @classmethod
    def empty(cls, k: int) -> TopK:
        """k empty slots, which every candidate beats."""
        top = cls(*(cute.make_rmem_tensor((k,), dtype) for dtype in (Float32, Int32, Float32)))
        top.clear()
        return top

    def clear(self) -> None:
        """Empty every slot."""
        for p in range(self.k):
            self.s[p] = Float32(EMPTY_KEY)
            self.i[p] = Int32(EMPTY_ID)
            self.a[p] = Float32(0.0)

    @property
    def k(self) -> int:
        return int(cute.size(self.s))

    def insert(self, s: Float32, i: Int32, a: Float32) -> None:
        """Insert one triple. The caller promises that every id already held is lower.

        A tie then never moves the newcomer up, and one comparison per slot is enough.
        """
        beats = [self._beats(s, p) for p in range(self.k)]
        for p in range(self.k - 1, -1, -1):
            for held, new in ((self.s, s), (self.i, i), (self.a, a)):
                value = select_(beats[p], new, held[p])
                if p > 0:
                    value = select_(beats[p - 1], held[p - 1], value)
                held[p] = value

    def _beats(self, s: Float32, p: int) -> Boolean:
        return s > self.s[p]

    def lower_from(self, first: Int32) -> None:
        """Take the keys of held ids from `first` on down by one float.

        A newcomer of a lower id then wins a tie against them by the one comparison of `insert`, and the
        order of what is held stays: two floats never change places, only neighbours become equal. Nothing
        is between the two, so `raise_from` brings the same keys back.
        """
        for p in range(self.k):
            bits = Float32(self.s[p]).bitcast(Int32)
            # Zeros of both signs are one key, and the float below it is the one below -0.
            bits = select_(self.s[p] == 0.0, Int32(NEGATIVE_ZERO), bits)
            self._replace_from(first, p, bits - _step_up(bits))

    def raise_from(self, first: Int32) -> None:
        """Take the keys of held ids from `first` on up by one float: what `lower_from` took them down."""
        for p in range(self.k):
            bits = Float32(self.s[p]).bitcast(Int32)
            self._replace_from(first, p, bits + _step_up(bits))

    def _replace_from(self, first: Int32, p: int, bits: Int32) -> None:
        # An empty slot has no float below its key and needs none: every candidate beats it.
        chosen = (self.i[p] >= first) & (self.i[p] != EMPTY_ID)
        self.s[p] = select_(chosen, Int32(bits).bitcast(Float32), self.s[p])

    @cute.jit
    def merge_lanes(self, lanes: cutlass.Constexpr[int]) -> None:
        """Merge the lists of `lanes` neighbouring lanes (a power of two); all of them end with the result.

        Of slot p of one list and slot k - 1 - p of the other the higher is among the merged k, which first
        fall and then rise: the halves of Batcher's bitonic merge. The rounds are a rolled loop, to keep the
        code small (see `kernels.sm90.epilogue`).
        """
        for round_index in cutlass.range(lanes.bit_length() - 1, unroll=1):
            offset = 1 << round_index
            theirs = [
                tuple(cute.arch.shuffle_sync_bfly(held[p], offset) for held in (self.s, self.i, self.a))
                for p in range(self.k)
            ]
            for p, (s, i, a) in enumerate(reversed(theirs)):
                higher = _before(s, i, self.s[p], self.i[p])
                for held, value in ((self.s, s), (self.i, i), (self.a, a)):
                    held[p] = select_(higher, value, held[p])
            for upper, lower in bitonic_exchanges(self.k):
                self._order(upper, lower)

    def _order(self, upper: int, lower: int) -> None:
        """Put the triple that comes first of two slots into slot `upper`."""
        swap = _before(self.s[lower], self.i[lower], self.s[upper], self.i[upper])
        for held in (self.s, self.i, self.a):
            first, second = held[upper], held[lower]
            held[upper] = select_(swap, second, first)
            held[lower] = select_(swap, first, second)

    def weights(self, problem: RouterProblem, denominator: Float32 | None = None) -> list[Float32]:
        """The k routing weights: renormalized and scaled as `problem` says. A sum of 0 gives zeros.

        `denominator` is softmax's, relative to the largest logit; renormalization cancels it.
        """
        values = [self.a[p] for p in range(self.k)]
        if problem.score is Score.SOFTMAX:
            # The largest logit is the first, since softmax has no bias.
            values = [cute.math.exp(value - values[0]) for value in values]
        if problem.renorm:
            total = values[0]
            for value in values[1:]:
                total = total + value
            is_zero = total == 0.0
            divisor = select_(is_zero, Float32(1.0), total)
            values = [select_(is_zero, Float32(0.0), value / divisor) for value in values]
        elif denominator is not None:
            # It is 0 only where every logit is NaN, and then so is every weight.
            values = [value / denominator for value in values]
        return [value * problem.routed_scale for value in values]


def lanes_for(lists: int) -> int:
    """Lanes that merge `lists` lists: the next power of two."""
    return 1 << (lists - 1).bit_length()


def write_row(
    top: TopK,
    problem: RouterProblem,
    weights: cute.Tensor,
    ids: cute.Tensor,
    token: Int32,
    denominator: Float32 | None = None,
) -> None:
    """Write one token's ids and weights; `denominator` as in `TopK.weights`."""
    for p, weight in enumerate(top.weights(problem, denominator)):
        weights[token, p] = weight
        ids[token, p] = top.i[p]

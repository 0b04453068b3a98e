"""Instructions across lanes against the ISA's pseudo-code, lane by lane."""

from __future__ import annotations

import numpy as np
import pytest

from harness.simulator.errors import SimulationError
from harness.simulator.instruction_set import lookup

WARPS, LANES = 3, 32
FULL = np.uint32(0xFFFFFFFF)


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 1 << 32, (WARPS, LANES), dtype=np.uint32)


def pseudo_code(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    offset, clamp, segment = b & 31, c & 31, c >> 8 & 31
    last = (lane & segment) | (clamp & ~segment)
    first = lane & segment
    source, inside = {
        "up": (lane - offset, lane - offset >= last),
        "down": (lane + offset, lane + offset <= last),
        "bfly": (lane ^ offset, lane ^ offset <= last),
        "idx": (first | (offset & ~segment), first | (offset & ~segment) <= last),
    }[mode]
    inside = source >= last if mode == "up" else source <= last
    return (source if inside else lane), inside


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [4, 8, 32])
@pytest.mark.parametrize("clamp", [0, 20, 31])
def test_shuffle(values: np.ndarray, mode: str, width: int, clamp: int) -> None:
    bounds = (32 - width) << 8 | clamp
    for offset in (0, 1, 5, 16, 31):
        places = [pseudo_code(mode, lane, offset, bounds) for lane in range(LANES)]
        want = values[:, [source for source, _ in places]]
        constants = np.uint32(offset), np.uint32(bounds)
        got, inside = lookup(("shfl", "sync", mode, "b32"), 2)(values, *constants, FULL, None)
        assert np.broadcast_to(got, want.shape).tolist() == want.tolist()
        assert np.broadcast_to(inside, want.shape).tolist() == [[ok for _, ok in places]] * WARPS
        alone = lookup(("shfl", "sync", mode, "b32"))(values, *constants, FULL, None)
        assert np.broadcast_to(alone, want.shape).tolist() == want.tolist()
        for shape in ((WARPS, 1), (WARPS, LANES)):
            spread = np.full(shape, offset, np.uint32)
            got, inside = lookup(("shfl", "sync", mode, "b32"), 2)(values, spread, constants[1], FULL, None)
            assert got.tolist() == want.tolist()
            assert np.broadcast_to(inside, want.shape).tolist() == [[ok for _, ok in places]] * WARPS


def test_shuffle_with_an_offset_for_each_lane(values: np.ndarray) -> None:
    offsets = np.random.default_rng(3).integers(0, LANES, (WARPS, LANES), dtype=np.uint32)
    got = lookup(("shfl", "sync", "idx", "b32"))(values, offsets, np.uint32(31), FULL, None)
    assert got.tolist() == [[int(values[w, offsets[w, lane]]) for lane in range(LANES)] for w in range(WARPS)]


def test_what_is_the_same_in_all_lanes_stays_small(values: np.ndarray) -> None:
    bfly = lookup(("shfl", "sync", "bfly", "b32"))
    assert bfly(np.uint32(9), np.uint32(1), np.uint32(31), FULL, None) == 9
    column = values[:, :1]
    assert bfly(column, np.uint32(1), np.uint32(31), FULL, None).shape == (WARPS, 1)
    broadcast = lookup(("shfl", "sync", "idx", "b32"))(values, np.uint32(4), np.uint32(31), FULL, None)
    assert broadcast.tolist() == values[:, 4:5].tolist()


def test_partial_warps(values: np.ndarray) -> None:
    active = np.zeros((WARPS, LANES), bool)
    active[:, :16] = True
    half = np.uint32(0xFFFF)
    bfly = lookup(("shfl", "sync", "bfly", "b32"))
    got = bfly(values, np.uint32(8), np.uint32(31), half, active)
    assert got[:, :16].tolist() == values[:, np.arange(16) ^ 8].tolist()
    with pytest.raises(SimulationError, match="lane 0 reads a lane that does not execute it"):
        bfly(values, np.uint32(16), np.uint32(31), half, active)
    with pytest.raises(SimulationError, match="lane 16 executes it but is not in the member mask 0x0000ffff"):
        bfly(values, np.uint32(8), np.uint32(31), half, None)


@pytest.fixture
def active() -> np.ndarray:
    mask = np.random.default_rng(11).random((WARPS, LANES)) < 0.5
    mask[1] = True
    return mask


def test_vote(active: np.ndarray) -> None:
    predicates = np.random.default_rng(5).random((WARPS, LANES)) < 0.5
    predicates[2] = active[2]
    for lanes in (None, active):
        rows = [[p for p, a in zip(*row, strict=True) if lanes is None or a]
                for row in zip(predicates, active, strict=True)]  # fmt: skip
        want = {
            "all": [all(row) for row in rows],
            "any": [any(row) for row in rows],
            "uni": [all(row) or not any(row) for row in rows],
        }
        for name, results in want.items():
            got = lookup(("vote", "sync", name, "pred"))(predicates, FULL, lanes)
            assert got.tolist() == [[result] for result in results]
        taking_part = predicates if lanes is None else predicates & lanes
        ballots = [[sum(1 << lane for lane in range(LANES) if row[lane])] for row in taking_part]
        assert lookup(("vote", "sync", "ballot", "b32"))(predicates, FULL, lanes).tolist() == ballots
    assert lookup(("vote", "sync", "any", "pred"))(np.bool_(True), FULL, None).all()


def test_election_and_active_lanes(active: np.ndarray) -> None:
    leader, elected = lookup(("elect", "sync"), 2)(FULL, active)
    first = [int(np.flatnonzero(row)[0]) for row in active]
    assert leader.tolist() == [[lane] for lane in first]
    assert elected.tolist() == [[lane == f for lane in range(LANES)] for f in first]
    leader, elected = lookup(("elect", "sync"), 2)(FULL, None)
    assert (int(leader), np.flatnonzero(elected).tolist()) == (0, [0])
    masks = [[sum(1 << lane for lane in range(LANES) if row[lane])] for row in active]
    assert lookup(("activemask", "b32"))(active).tolist() == masks
    assert lookup(("activemask", "b32"))(None) == FULL


REDUCTIONS = {
    "add": lambda row: sum(row),
    "min": min,
    "max": max,
    "and": lambda row: int(np.bitwise_and.reduce(np.array(row, np.int64))),
    "or": lambda row: int(np.bitwise_or.reduce(np.array(row, np.int64))),
    "xor": lambda row: int(np.bitwise_xor.reduce(np.array(row, np.int64))),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_integer_reductions(values: np.ndarray, active: np.ndarray, name: str) -> None:
    types = ("b32",) if name in ("and", "or", "xor") else ("u32", "s32")
    for type_ in types:
        typed = values.view(np.int32) if type_ == "s32" else values
        for lanes in (None, active):
            rows = [[int(x) for x in (row if lanes is None else row[a])]
                    for row, a in zip(typed, active, strict=True)]  # fmt: skip
            want = [[REDUCTIONS[name](row) % (1 << 32)] for row in rows]
            assert lookup(("redux", "sync", name, type_))(values, FULL, lanes).tolist() == want


def test_float_reductions(active: np.ndarray) -> None:
    x = np.random.default_rng(2).standard_normal((WARPS, LANES)).astype(np.float32)
    x[0, np.flatnonzero(active[0])[2]] = np.nan
    bits = x.view(np.uint32)
    got = lookup(("redux", "sync", "max", "f32"))(bits, FULL, active).view(np.float32)
    np.testing.assert_array_equal(got[:, 0], [np.nanmax(r[a]) for r, a in zip(x, active, strict=True)])
    got = lookup(("redux", "sync", "min", "abs", "f32"))(bits, FULL, None).view(np.float32)
    np.testing.assert_array_equal(got[:, 0], np.nanmin(np.abs(x), axis=1))
    strict = lookup(("redux", "sync", "min", "NaN", "f32"))(bits, FULL, active)
    assert strict[0, 0] == 0x7FFFFFFF
    assert strict[1, 0] == x[1].min().view(np.uint32)


def test_match(active: np.ndarray) -> None:
    a = np.random.default_rng(4).integers(0, 4, (WARPS, LANES), dtype=np.uint32)
    a[2] = 5
    for lanes in (None, active):
        takes_part = np.ones_like(active) if lanes is None else active
        got = lookup(("match", "any", "sync", "b32"))(a, FULL, lanes)
        for w, lane in zip(*np.nonzero(takes_part), strict=True):
            want = sum(1 << m for m in range(LANES) if takes_part[w, m] and a[w, m] == a[w, lane])
            assert got[w, lane] == want
        mask, every = lookup(("match", "all", "sync", "b32"), 2)(a, FULL, lanes)
        assert every.tolist() == [[False], [False], [True]]
        assert mask[2, 0] == sum(1 << m for m in range(LANES) if takes_part[2, m])
        assert mask[0, 0] == 0

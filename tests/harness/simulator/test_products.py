"""Products of bf16 operands in C: the same as numpy's, whatever rows are zeros and whoever knows of it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.simulator import wgmma
from harness.simulator.float_bits import bits_f32
from harness.simulator.number_formats import BF16, encode
from harness.simulator.products import fused, load_products
from harness.simulator.rounding import sum_f32
from harness.simulator.shared import CLEAN, PAGE_BYTES, PAGE_WORDS, WORDS, ZERO, SharedMemory
from harness.simulator.wgmma import Wgmma
from tests.harness.simulator.operand_writer import Layout

CTAS, BYTES, THREADS = 3, 64 * 1024, 128
A, B = Layout("128B", False, 2048, leading=16, stride=1024), Layout("128B", False, 24 * 1024, 16, 1024)
STEPS = 2  # of 16 elements of the 64 that a row of an atom has
ROWS, KEEP = np.array([2, 0, 0, 1]), np.array([True, True, False, True])

pytestmark = pytest.mark.skipif(load_products() is None, reason="a processor without AVX2 and FMA")


def operands(n: int, tokens: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A, of which `tokens` rows are no zeros, and B, of small numbers that float32 adds exactly."""
    random = np.random.default_rng(seed)
    a, b = (random.integers(-8, 9, (CTAS, rows, 64)).astype(np.float32) / 4 for rows in (64, n))
    a[:, tokens:] = 0
    return a, b


def placed(a: NDArray[np.float32], b: NDArray[np.float32]) -> SharedMemory:
    shared = SharedMemory(CTAS, BYTES, THREADS)
    for cta in range(CTAS):
        A.write(shared.bytes[cta], encode(a[cta], BF16).astype(np.uint16))
        B.write(shared.bytes[cta], encode(b[cta], BF16).astype(np.uint16))
    return shared


def added(shared: SharedMemory, n: int, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """Both steps' product added; the third group's operands begin one step further along K."""
    steps = np.arange(STEPS, dtype=np.uint64) * np.uint64(2)  # 32 bytes, in units of 16
    moved = steps + np.array([[0], [0], [2], [0]], np.uint64)
    a, b = (np.uint64(layout.wgmma_descriptor()) + moved for layout in (A, B))
    out = tiles.copy()
    Wgmma(n, BF16, BF16).add_product(shared, ROWS, a, b, KEEP, out)
    return out


@pytest.mark.parametrize("tokens", [1, 8, 61, 64])
@pytest.mark.parametrize("n", [8, 24, 48, 256])
def test_products_are_numpys(n: int, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = operands(n, tokens)
    tiles = np.random.default_rng(1).integers(-8, 9, (len(ROWS), 64, n)).astype(np.float32)
    tiles[2, 0, 0] = np.inf  # is discarded
    shared = placed(a, b)
    got = added(shared, n, tiles)
    for group, cta in enumerate(ROWS):
        k = slice(16, 48) if group == 2 else slice(0, 32)
        old = tiles[group] if KEEP[group] else 0
        assert np.array_equal(got[group], old + a[cta][:, k] @ b[cta][:, k].T)
    monkeypatch.setattr(wgmma, "load_products", lambda: None)
    assert np.array_equal(got, added(shared, n, tiles))


def test_a_row_of_zeros_is_multiplied_with_what_is_not_finite() -> None:
    a, b = operands(16, 8)
    b[:, 3, 5] = np.inf
    b[:, 4, 5] = np.nan
    got = added(placed(a, b), 16, np.zeros((len(ROWS), 64, 16), np.float32))
    assert np.isnan(got[0, 8:, 3:5]).all()
    assert (got[0, 8:, :3] == 0).all()


def test_minus_zero_is_no_padding() -> None:
    a, b = operands(16, 8)
    a[:, 20] = -0.0
    got = added(placed(a, b), 16, np.zeros((len(ROWS), 64, 16), np.float32))
    assert (got[:, 20] == 0).all()


def test_a_page_of_zeros_is_known_until_it_is_written() -> None:
    shared = SharedMemory(1, BYTES, THREADS)
    pages = np.array([[8, 9]])
    words = pages[0, :, None] * PAGE_WORDS + np.arange(PAGE_WORDS)
    row = np.zeros(1, int)
    shared.mark(words.reshape(-1), 7, step=10)
    shared.bytes[0, 9 * PAGE_BYTES + 1] = 1
    assert not shared.pages_in_order(row, pages)
    shared.fence(row, np.array([7]), 11)
    assert shared.pages_in_order(row, pages)
    assert shared.state[0, 8:10].tolist() == [ZERO, CLEAN]
    shared.mark(words[0, :1], 7, step=12)
    assert shared.state[0, 8] == WORDS
    assert not shared.pages_in_order(row, pages)
    shared.fence(row, np.array([7]), 13)
    shared.bytes[0, 8 * PAGE_BYTES] = 1
    assert shared.pages_in_order(row, pages)
    assert shared.state[0, 8] == CLEAN


def test_what_is_known_to_be_zeros_is_not_read() -> None:
    """The states are believed: whoever writes a page says so."""
    n = 16
    a, b = operands(n, 64)
    shared = placed(a, b)
    got = added(shared, n, np.zeros((len(ROWS), 64, n), np.float32))
    first = (2048 + 8 * 1024 // 8) // PAGE_BYTES  # the pages of the second atom of 8 rows
    shared.state[:, first : first + 4] = ZERO
    known = added(shared, n, np.zeros((len(ROWS), 64, n), np.float32))
    assert (known[:, 8:16] == 0).all()
    assert np.array_equal(np.delete(known, range(8, 16), 1), np.delete(got, range(8, 16), 1))


@pytest.mark.parametrize("spread", [1, 60, 200])
@pytest.mark.parametrize("shared", [(), (0,), (1,), (2,), (0, 2)])
def test_fused_products_round_once(spread: int, shared: tuple[int, ...]) -> None:
    """As `sum_f32` does, which is tested against exact sums."""
    random = np.random.default_rng(spread)
    bits = random.integers(0, 2**32, (3, 1001, 32), np.uint32)
    exponents = random.integers(127 - spread // 2, 128 + spread // 2, bits.shape).astype(np.uint32)
    whole = (bits & np.uint32(0x807FFFFF) | exponents << np.uint32(23)).view(np.float32)
    whole[:, 0, :8] = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38], np.float32)
    a, b, c = (array[0, 5] if number in shared else array for number, array in enumerate(whole))
    got = fused(a, b, c)
    with np.errstate(all="ignore"):
        wide = [np.asarray(x).astype(np.float64) for x in (a, b, c)]
        expected = sum_f32(wide[0] * wide[1], wide[2], "rn")
    assert got is not None
    assert np.array_equal(bits_f32(got), bits_f32(expected))


def test_what_is_not_fused() -> None:
    one, warps = np.float32(1), np.ones((4, 1), np.float32)
    lanes = np.ones((4, 32), np.float32)
    assert fused(one, one, one) is None
    assert fused(lanes, warps, one) is None
    assert fused(lanes[:, ::2], lanes[:, ::2], one) is None

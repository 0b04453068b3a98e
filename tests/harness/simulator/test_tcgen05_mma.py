"""tcgen05.mma against float64 products: every data path, operand source, type and scale vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.number_formats import FORMATS, decode
from harness.simulator.tcgen05_instruction import decode_mma
from harness.simulator.tcgen05_mma import Scales, TensorCore
from tests.harness.simulator.operand_writer import SWIZZLES
from tests.harness.simulator.tcgen05_operands import (
    A_COLUMN,
    A_START,
    B_START,
    D_COLUMN,
    SFA_COLUMN,
    SFB_COLUMN,
    column_vector,
    empty_core,
    instruction_descriptor,
    k_layout,
    pack,
    random_codes,
    read_d,
    stored_at,
    write_operand,
    write_scales,
)

SHAPES = [
    (1, 64, 8),
    (1, 64, 256),
    (1, 128, 16),
    (1, 128, 256),
    (2, 128, 32),
    (2, 128, 256),
    (2, 256, 16),
    (2, 256, 128),
]
DENSE = [("f16", "f16", "f16"), ("f16", "bf16", "bf16"), ("tf32", "tf32", "tf32"), ("f8f6f4", "e4m3", "e5m2")]


@pytest.mark.parametrize(("cta_group", "m", "n"), SHAPES)
@pytest.mark.parametrize(
    ("kind", "a_type", "b_type"), [*DENSE, ("f8f6f4", "e2m1", "e3m2"), ("f8f6f4", "e2m3", "e4m3")]
)
def test_dense(kind: str, a_type: str, b_type: str, cta_group: int, m: int, n: int) -> None:
    core, ctas = empty_core(), np.array([[1, 0][:cta_group]])
    mma = decode_mma(instruction_descriptor(kind, m, n, a_type, b_type), kind, cta_group)
    a_codes, b_codes = random_codes(m, mma.k, mma.a_format, 1), random_codes(n, mma.k, mma.b_format, 2)
    a_layout = k_layout("32B", A_START, m // cta_group, False, 0, mma.k)
    b_layout = k_layout("128B", B_START, n // cta_group, False, 0, mma.k)
    write_operand(core, ctas[0], a_layout, a_codes, mma.a_format, False)
    write_operand(core, ctas[0], b_layout, b_codes, mma.b_format, False)
    expected = decode(a_codes, mma.a_format).astype(float) @ decode(b_codes, mma.b_format).astype(float).T
    d = np.array([D_COLUMN], np.uint32)
    a, b = column_vector(a_layout.tcgen05_descriptor()), column_vector(b_layout.tcgen05_descriptor())
    core.multiply(mma, ctas, d, a, b, accumulate=np.array([False]))
    assert np.array_equal(read_d(core.memory, ctas[0], m, n).view(np.float32), expected)
    assert int(core.memory.written.sum()) == m * n
    core.multiply(mma, ctas, d, a, b, accumulate=np.array([True]))
    assert np.array_equal(read_d(core.memory, ctas[0], m, n).view(np.float32), 2 * expected)


@pytest.mark.parametrize("swizzle", SWIZZLES)
@pytest.mark.parametrize("negate", [(0, 0), (1, 0), (1, 1)])
def test_transposed_and_negated(swizzle: str, negate: tuple[int, int]) -> None:
    core, ctas, m, n = empty_core(), np.array([[0]]), 128, 128
    descriptor = instruction_descriptor("f16", m, n, "bf16", "bf16", negate=negate, transpose=(1, 1))
    mma = decode_mma(descriptor, "f16", 1)
    a_codes, b_codes = random_codes(m, 16, mma.a_format, 1), random_codes(n, 16, mma.b_format, 2)
    a_layout = k_layout(swizzle, A_START, m, True, 2, 16)
    b_layout = k_layout(swizzle, B_START, n, True, 2, 16)
    write_operand(core, ctas[0], a_layout, a_codes, mma.a_format, False)
    write_operand(core, ctas[0], b_layout, b_codes, mma.b_format, False)
    a, b = column_vector(a_layout.tcgen05_descriptor()), column_vector(b_layout.tcgen05_descriptor())
    core.multiply(mma, ctas, np.array([0]), a, b, accumulate=np.array([False]))
    expected = decode(a_codes, mma.a_format).astype(float) @ decode(b_codes, mma.b_format).astype(float).T
    sign = -1 if sum(negate) == 1 else 1
    assert np.array_equal(read_d(core.memory, ctas[0], m, n).view(np.float32), sign * expected)


@pytest.mark.parametrize(("cta_group", "m"), [(1, 64), (1, 128), (2, 128), (2, 256)])
@pytest.mark.parametrize(("kind", "a_type"), [("f16", "bf16"), ("tf32", "tf32"), ("f8f6f4", "e4m3")])
def test_a_in_tensor_memory(kind: str, a_type: str, cta_group: int, m: int) -> None:
    """Row r of A lies where row r of D does; layout B has the same A in both halves of the lanes."""
    core, ctas, n = empty_core(), np.array([[1, 0][:cta_group]]), 32
    mma = decode_mma(instruction_descriptor(kind, m, n, a_type, a_type), kind, cta_group)
    a_codes, b_codes = random_codes(m, mma.k, mma.a_format, 3), random_codes(n, mma.k, mma.b_format, 4)
    for row, words in enumerate(pack(a_codes, mma.a_format, False).view("<u4")):
        for half in range(2 if (cta_group, m) == (2, 128) else 1):
            rank, lane, _ = stored_at(m, cta_group, n, row, half * (n // 2))
            core.memory.data[ctas[0, rank], lane, A_COLUMN : A_COLUMN + 8] = words
            core.memory.written[ctas[0, rank], lane, A_COLUMN : A_COLUMN + 8] = True
    b_layout = k_layout("64B", B_START, n // cta_group, False, 0, mma.k)
    write_operand(core, ctas[0], b_layout, b_codes, mma.b_format, False)
    b, a = column_vector(b_layout.tcgen05_descriptor()), column_vector(A_COLUMN)
    arguments: dict[str, Any] = {"accumulate": np.array([False]), "a_in_tensor_memory": True}
    core.multiply(mma, ctas, np.array([D_COLUMN]), a, b, **arguments)
    expected = decode(a_codes, mma.a_format).astype(float) @ decode(b_codes, mma.b_format).astype(float).T
    assert np.array_equal(read_d(core.memory, ctas[0], m, n).view(np.float32), expected)
    if (cta_group, m) == (2, 128):
        core.memory.data[0, 100, A_COLUMN] ^= 1
        with pytest.raises(SimulationError, match="differs from its copy"):
            core.multiply(mma, ctas, np.array([D_COLUMN]), a, b, **arguments)


SCALED = [
    ("mxf8f6f4", "e4m3", "e5m2", "ue8m0", "", (0, 0)),
    ("mxf8f6f4", "e2m1", "e3m2", "ue8m0", "scale_vec::1X", (3, 1)),
    ("mxf4", "e2m1", "e2m1", "ue8m0", "block32", (2, 0)),
    ("mxf4nvf4", "e2m1", "e2m1", "ue8m0", "scale_vec::2X", (0, 2)),
    ("mxf4nvf4", "e2m1", "e2m1", "ue8m0", "scale_vec::4X", (0, 0)),
    ("mxf4nvf4", "e2m1", "e2m1", "ue4m3", "block16", (0, 0)),
]
SCALED_SHAPES = [
    (1, 128, 8),
    (1, 128, 192),
    (1, 128, 256),
    (2, 128, 64),
    (2, 128, 256),
    (2, 256, 48),
    (2, 256, 256),
]


@pytest.mark.parametrize(("cta_group", "m", "n"), SCALED_SHAPES)
@pytest.mark.parametrize(("kind", "a_type", "b_type", "scale_type", "vector", "ids"), SCALED)
def test_block_scaled(
    kind: str,
    a_type: str,
    b_type: str,
    scale_type: str,
    vector: str,
    ids: tuple[int, int],
    cta_group: int,
    m: int,
    n: int,
) -> None:
    """Two instructions along K at once, then the same one after the other."""
    steps = 2
    descriptor = instruction_descriptor(kind, m, n, a_type, b_type, scale=scale_type, scale_ids=ids)
    mma = decode_mma(descriptor, kind, cta_group, vector)
    assert mma.scale is not None
    core, ctas = empty_core(), np.array([[1, 0][:cta_group]])
    k, along_k = steps * mma.k, mma.scale.along_k
    a_codes, b_codes = random_codes(m, k, mma.a_format, 1), random_codes(n, k, mma.b_format, 2)
    a_layout = k_layout("64B", A_START, m // cta_group, False, 0, k)
    b_layout = k_layout("128B", B_START, n // cta_group, False, 0, k)
    dense = kind != "mxf8f6f4"
    write_operand(core, ctas[0], a_layout, a_codes, mma.a_format, dense)
    write_operand(core, ctas[0], b_layout, b_codes, mma.b_format, dense)
    scale_format = FORMATS[scale_type]
    generator = np.random.default_rng(5)
    low, high = (120, 134) if scale_type == "ue8m0" else (0x28, 0x40)
    sfa = generator.integers(low, high, (m, steps * along_k), dtype=np.uint32)
    sfb = generator.integers(low, high, (n, steps * along_k), dtype=np.uint32)
    for step in range(steps):
        columns = slice(step * along_k, (step + 1) * along_k)
        for rank, cta in enumerate(ctas[0]):
            part = m // cta_group
            own = sfa[rank * part : (rank + 1) * part, columns]
            write_scales(core.memory, cta, SFA_COLUMN + 8 * step, own, ids[0], False)
            split = (cta_group, m) == (2, 128)
            write_scales(core.memory, cta, SFB_COLUMN + 8 * step, sfb[:, columns], ids[1], split)
    block = mma.k // along_k
    a_values = decode(a_codes, mma.a_format).astype(float) * np.repeat(decode(sfa, scale_format), block, 1)
    b_values = decode(b_codes, mma.b_format).astype(float) * np.repeat(decode(sfb, scale_format), block, 1)
    expected = a_values @ b_values.T
    a = np.array([[a_layout.tcgen05_descriptor(32 * s) for s in range(steps)]], np.uint64)
    b = np.array([[b_layout.tcgen05_descriptor(32 * s) for s in range(steps)]], np.uint64)
    scales = Scales(np.array([[SFA_COLUMN, SFA_COLUMN + 8]]), np.array([[SFB_COLUMN, SFB_COLUMN + 8]]))
    d = np.array([D_COLUMN])
    core.multiply(mma, ctas, d, a, b, accumulate=np.array([False]), scales=scales)
    together = read_d(core.memory, ctas[0], m, n)
    np.testing.assert_allclose(
        together.view(np.float32), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max()
    )
    for step in range(steps):
        one = slice(step, step + 1)
        part_scales = Scales(scales.a[:, one], scales.b[:, one])
        core.multiply(mma, ctas, d, a[:, one], b[:, one], accumulate=np.array([step > 0]), scales=part_scales)
    apart = read_d(core.memory, ctas[0], m, n)
    np.testing.assert_allclose(
        apart.view(np.float32), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max()
    )


def f16_setup(
    d: str = "f32", m: int = 64
) -> tuple[TensorCore, Any, NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Two single CTAs with the same operands: (core, instruction, a, b, product)."""
    core = empty_core()
    mma = decode_mma(instruction_descriptor("f16", m, 16, "f16", "f16", d=d), "f16", 1)
    a_codes, b_codes = random_codes(m, 16, mma.a_format, 8), random_codes(16, 16, mma.b_format, 9)
    a_layout, b_layout = k_layout("32B", 0, m, False, 0, 16), k_layout("32B", 8192, 16, False, 0, 16)
    for cta in range(2):
        write_operand(core, np.array([cta]), a_layout, a_codes, mma.a_format, False)
        write_operand(core, np.array([cta]), b_layout, b_codes, mma.b_format, False)
    a, b = (column_vector(*[layout.tcgen05_descriptor()] * 2) for layout in (a_layout, b_layout))
    return (
        core,
        mma,
        a,
        b,
        decode(a_codes, mma.a_format).astype(float) @ decode(b_codes, mma.b_format).astype(float).T,
    )


def test_groups_with_their_own_columns_and_accumulate_flags() -> None:
    core, mma, a, b, expected = f16_setup()
    ctas, d = np.array([[0], [1]]), np.array([0, 64])
    core.multiply(mma, ctas, d, a, b, accumulate=np.array([False, False]))
    core.multiply(mma, ctas, d, a, b, accumulate=np.array([False, True]), scale_input=2)
    assert np.array_equal(read_d(core.memory, ctas[0], 64, 16).view(np.float32), expected)
    assert np.array_equal(read_d(core.memory, ctas[1], 64, 16, 64).view(np.float32), 1.25 * expected)


def test_two_matrices_of_64_rows_share_columns() -> None:
    """Layout F at lane 16 fills the other half of each quadrant."""
    core, mma, a, b, expected = f16_setup()
    one = slice(0, 1)
    for lane in (0, 16):
        core.multiply(
            mma, np.array([[0]]), np.array([lane << 16]), a[one], b[one], accumulate=np.array([False])
        )
    rows = core.memory.data[0, :, :16].view(np.float32).reshape(4, 2, 16, 16)
    for half in range(2):
        assert np.array_equal(rows[:, half].reshape(64, 16), expected)


def test_f16_result_in_the_low_half_of_a_word() -> None:
    core, mma, a, b, expected = f16_setup("f16")
    core.multiply(mma, np.array([[0], [1]]), np.array([0, 0]), a, b, accumulate=np.array([False, False]))
    words = read_d(core.memory, np.array([0]), 64, 16)
    assert (words >> 16 == 0).all()
    assert np.array_equal(words.astype(np.uint16).view(np.float16), expected.astype(np.float16))


def test_disabled_lanes_keep_their_words() -> None:
    core, mma, a, b, expected = f16_setup(m=128)
    mask = np.array([[0x1, 0, 0, 0x80000000], [0, 0xF, 0, 0]], np.uint32)
    accumulate = np.array([False, False])
    core.multiply(
        mma, np.array([[0], [1]]), np.array([0, 0]), a, b, accumulate=accumulate, disabled_lanes=mask
    )
    for cta, disabled in enumerate([{0, 127}, {32, 33, 34, 35}]):
        for lane in range(128):
            assert core.memory.written[cta, lane, :16].all() == (lane not in disabled)
            if lane not in disabled:
                assert np.array_equal(core.memory.data[cta, lane, :16].view(np.float32), expected[lane])


def test_accumulating_on_what_nobody_wrote() -> None:
    core, mma, a, b, _ = f16_setup()
    with pytest.raises(SimulationError, match="nobody wrote tensor memory of CTA 0, lane 0, column 0"):
        core.multiply(mma, np.array([[0], [1]]), np.array([0, 0]), a, b, accumulate=np.array([True, False]))


def test_accumulator_beyond_tensor_memory() -> None:
    core, mma, a, b, _ = f16_setup()
    with pytest.raises(SimulationError, match="columns 500 to 515 of 512"):
        core.multiply(
            mma, np.array([[0], [1]]), np.array([500, 0]), a, b, accumulate=np.array([False, False])
        )


def test_copies_of_scale_factors_must_agree() -> None:
    descriptor = instruction_descriptor("mxf4nvf4", 128, 8, "e2m1", "e2m1", scale="ue4m3")
    mma = decode_mma(descriptor, "mxf4nvf4", 1, "block16")
    core = empty_core(1)
    core.memory.written[:] = True
    core.memory.data[0, 70, SFA_COLUMN + 2] = 1
    scales = Scales(np.array([[SFA_COLUMN]]), np.array([[SFB_COLUMN]]))
    a = column_vector(k_layout("32B", 0, 128, False, 0, 64).tcgen05_descriptor())
    with pytest.raises(SimulationError, match="copies of the scale factors differ"):
        core.multiply(mma, np.array([[0]]), np.array([0]), a, a, accumulate=np.array([False]), scales=scales)

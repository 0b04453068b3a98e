"""TMA copies against references that walk the box element by element, as the manuals describe it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from harness.simulator.errors import SimulationError
from harness.simulator.tensor_map import DataType, Interleave, Swizzle, TensorMap
from harness.simulator.tma_box import counts, shared_bytes, transaction_bytes
from harness.simulator.tma_copy import load, reduce_add, store

D, S = DataType, Swizzle
BASE = 0x7F00_0000_0000

# (width of the span, width of an atom) in bytes: cuda.h, CUtensorMapSwizzle.
SPANS = {
    S.NONE: (128, 128),
    S.BYTES_32: (32, 16),
    S.BYTES_64: (64, 16),
    S.BYTES_128: (128, 16),
    S.BYTES_128_ATOM_32: (128, 32),
    S.BYTES_128_ATOM_64: (128, 64),
}
SIZES = {D.UINT8: 1, D.BFLOAT16: 2, D.FLOAT16: 2, D.FLOAT32: 4, D.FLOAT64: 8, D.INT32: 4}


class Memory:
    """One allocation of random bytes at `BASE`."""

    def __init__(self, nbytes: int, seed: int = 0) -> None:
        self.data = np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)

    def array(self, address: int, nbytes: int) -> np.ndarray:
        first = address - BASE
        if first < 0 or first + nbytes > len(self.data):
            raise SimulationError(f"{address:#x} is in no allocation")
        return self.data[first : first + nbytes]


def swizzle_by_the_book(address: int, swizzle: Swizzle) -> int:
    """Lines of 128 bytes; in each span, atom a of line l goes to atom a XOR (l modulo the span's atoms)."""
    span, atom = SPANS[swizzle]
    atoms = span // atom
    line, within = divmod(address, 128)
    start, inside = within // span * span, within % span
    return line * 128 + start + (inside // atom ^ line % atoms) * atom + inside % atom


def expected_load(m: TensorMap, memory: Memory, origin: tuple[int, ...], destination: int) -> np.ndarray:
    """The box, element by element."""
    size = m.data_type.global_bits // 8
    out = np.zeros(shared_bytes(m), np.uint8)
    for position, index in enumerate(itertools.product(*(range(n) for n in counts(m)[::-1]))):
        steps = (1, *m.element_strides[1:])
        at = [o + i * s for o, i, s in zip(origin, index[::-1], steps, strict=True)]
        if not all(0 <= a < extent for a, extent in zip(at, m.extents, strict=True)):
            continue
        offset = at[0] * size + sum(a * s for a, s in zip(at[1:], m.strides, strict=True))
        for byte in range(size):
            place = swizzle_by_the_book(destination + position * size + byte, m.swizzle) - destination
            out[place] = memory.data[m.address - BASE + offset + byte]
    return out


def matrix(
    data_type: DataType, columns: int, rows: int, box: tuple[int, ...], swizzle: Swizzle = S.NONE
) -> TensorMap:
    """A matrix whose rows are padded to 16 bytes, 64 bytes into the allocation."""
    row_bytes = -(-columns * data_type.global_bits // 128) * 16
    return TensorMap(BASE + 64, data_type, (columns, rows), (row_bytes,), box, (1, 1), swizzle=swizzle)


def load_and_compare(
    m: TensorMap, memory: Memory, origins: list[tuple[int, ...]], addresses: list[int]
) -> None:
    got = load(m, memory, np.array(origins), np.array(addresses))
    assert got.shape == (len(origins), shared_bytes(m))
    for found, origin, address in zip(got, origins, addresses, strict=True):
        np.testing.assert_array_equal(
            found, expected_load(m, memory, origin, address), str((origin, address))
        )


@pytest.mark.parametrize("swizzle", SPANS)
@pytest.mark.parametrize("data_type", [D.UINT8, D.BFLOAT16, D.FLOAT32, D.FLOAT64])
def test_every_swizzle_at_every_phase(swizzle: Swizzle, data_type: DataType) -> None:
    inner = SPANS[swizzle][0] // SIZES[data_type]
    m = matrix(data_type, 4 * inner, 24, (inner, 8), swizzle)
    addresses = [1024 + 128 * phase for phase in range(8)]
    origins = [(inner * (i % 4), 2 * i) for i in range(8)]
    load_and_compare(m, Memory(64 + 24 * m.strides[0]), origins, addresses)


@pytest.mark.parametrize("rows", [1, 3, 8, 40])
@pytest.mark.parametrize("columns", [256, 200, 197])
def test_tails_and_negative_origins(rows: int, columns: int) -> None:
    m = matrix(D.BFLOAT16, columns, 70, (64, rows), S.BYTES_128)
    origins = [(0, 0), (192, 0), (192, 69), (0, 65), (-8, -1), (-64, 0), (3, -2), (250, 75), (64, -40)]
    load_and_compare(m, Memory(64 + 70 * m.strides[0]), origins, [2048] * len(origins))


def test_a_tensor_that_ends_with_its_allocation_is_read_to_its_end_and_no_further() -> None:
    m = matrix(D.BFLOAT16, 197, 5, (64, 8), S.BYTES_128)
    memory = Memory(64 + 4 * m.strides[0] + 197 * 2)
    load_and_compare(m, memory, [(192, 0)], [0])
    with pytest.raises(SimulationError, match="in no allocation"):
        load(replace(m, extents=(198, 5)), memory, np.array([(192, 0)]), np.array([0]))


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_boxes_of_every_rank_with_element_strides(rank: int, steps: int) -> None:
    extents, box = (40, 7, 5, 4, 3)[:rank], (16, 4, 3, 2, 2)[:rank]
    strides = tuple(80 * stride + 16 * i for i, stride in enumerate((1, 7, 35, 140)))[: rank - 1]
    m = TensorMap(BASE, D.BFLOAT16, extents, strides, box, (1, *[steps] * (rank - 1)))
    generator = np.random.default_rng(rank)
    origins = [tuple(int(generator.integers(-2, extent)) for extent in extents) for _ in range(12)]
    load_and_compare(m, Memory(80 * 500, seed=steps), origins, [128 * i for i in range(12)])


def test_scale_factor_atoms_as_block_scaled_gemms_load_them() -> None:
    """A 512-byte atom as 256 elements of 16 bits, by tile of rows and of K: rank 3, unswizzled."""
    atoms = (3, 7)
    m = TensorMap(BASE, D.UINT16, (256, atoms[1], atoms[0]), (512, 512 * 7), (256, 2, 1), (1, 1, 1))
    memory = Memory(512 * 21)
    load_and_compare(m, memory, [(0, 0, 0), (0, 5, 2), (0, 6, 1), (0, 0, 3)], [0, 1024, 2048, 128])


@pytest.mark.parametrize("swizzle", [S.NONE, S.BYTES_64])
def test_fp4_without_gaps_is_copied_as_bytes(swizzle: Swizzle) -> None:
    fp4 = matrix(D.PACKED_16U4_ALIGN8B, 1024, 40, (128, 16), swizzle)
    as_bytes = replace(fp4, data_type=D.UINT8, extents=(512, 40), box=(64, 16))
    memory = Memory(64 + 40 * 512)
    origins, addresses = np.array([(0, 0), (896, 30), (128, -3), (960, 8)]), np.array([0, 256, 512, 1024])
    halved = origins // np.array([2, 1])
    np.testing.assert_array_equal(
        load(fp4, memory, origins, addresses), load(as_bytes, memory, halved, addresses)
    )


@pytest.mark.parametrize(
    ("data_type", "group_bytes"), [(D.PACKED_16U4_ALIGN16B, 8), (D.PACKED_16U6_ALIGN16B, 12)]
)
@pytest.mark.parametrize("swizzle", [S.NONE, S.BYTES_128])
def test_padded_types_leave_gaps_after_each_16_elements(
    data_type: DataType, group_bytes: int, swizzle: Swizzle
) -> None:
    m = matrix(data_type, 512, 20, (128, 8), swizzle)
    memory = Memory(64 + 20 * m.strides[0])
    got = load(m, memory, np.array([(128, 16), (384, -1)]), np.array([1024, 0]))
    for issue, (column, row) in enumerate(((128, 16), (384, -1))):
        for r, group in itertools.product(range(8), range(8)):
            place = swizzle_by_the_book(r * 128 + group * 16, swizzle)
            chunk = got[issue, place : place + 16]
            first = 64 + (row + r) * m.strides[0] + (column // 16 + group) * group_bytes
            data = memory.data[first : first + group_bytes]
            inside = 0 <= row + r < 20
            np.testing.assert_array_equal(chunk[:group_bytes], data if inside else 0)
            assert not chunk[group_bytes:].any()
    assert transaction_bytes(m) == 8 * 8 * group_bytes
    assert shared_bytes(m) == 8 * 128


@pytest.mark.parametrize("data_type", [D.FLOAT16, D.BFLOAT16, D.FLOAT32, D.FLOAT64])
@pytest.mark.parametrize("columns", [128, 130])
def test_outside_is_nan_where_the_map_says_so(data_type: DataType, columns: int) -> None:
    m = replace(matrix(data_type, columns, 8, (16, 8)), nan_fill=True)
    got = load(m, Memory(64 + 8 * m.strides[0]), np.array([(columns - 4, 6)]), np.array([0]))
    words = got.view(f"u{SIZES[data_type]}").reshape(8, 16)
    outside = np.ones((8, 16), bool)
    outside[:2, :4] = False
    if data_type is D.BFLOAT16:
        values = (words.astype(np.uint32) << 16).view(np.float32)
    else:
        values = words.view(f"f{SIZES[data_type]}")
    assert np.isnan(values[outside]).all()
    zeros = load(
        replace(m, nan_fill=False), Memory(64 + 8 * m.strides[0]), np.array([(columns - 4, 6)]), np.array([0])
    )
    np.testing.assert_array_equal(zeros.view(words.dtype).reshape(8, 16)[~outside], words[~outside])


def test_nan_payloads_pass_through_untouched() -> None:
    memory = Memory(64 + 8 * 256)
    memory.data.view(np.uint64)[:] = 0x7FF0_0000_0000_0001  # a signalling NaN, which arithmetic would quiet
    m = matrix(D.FLOAT64, 32, 8, (16, 8), S.BYTES_128)
    got = load(m, memory, np.array([(0, 0), (16, 4)]), np.array([0, 1024]))
    assert set(got[0].view(np.uint64)) == {0x7FF0_0000_0000_0001}


def test_tf32_moves_what_needs_no_rounding_and_refuses_the_rest() -> None:
    m = matrix(D.TFLOAT32, 64, 8, (32, 8), S.BYTES_128)
    memory = Memory(64 + 8 * m.strides[0])
    words = memory.data.view(np.uint32)
    words &= np.uint32(0xFFFF_E000)
    origins, addresses = np.array([(0, 0), (32, 2)]), np.array([0, 128])
    got = load(m, memory, origins, addresses)
    as_f32 = load(replace(m, data_type=D.FLOAT32), memory, origins, addresses)
    np.testing.assert_array_equal(got, as_f32)
    words[16 + 64 + 3] = np.float32(1 + 2**-11).view(np.uint32)
    with pytest.raises(SimulationError, match=r"rounds .*1\.00048.* to tf32"):
        load(m, memory, origins, addresses)
    store(m, memory, origins[:1], addresses[:1], got[:1])
    with pytest.raises(SimulationError, match="to tf32"):
        store(m, memory, origins[:1], addresses[:1], np.full_like(got[:1], 1))


@pytest.mark.parametrize("swizzle", SPANS)
@pytest.mark.parametrize("columns", [256, 197])
def test_a_store_is_a_loads_inverse_and_touches_nothing_else(swizzle: Swizzle, columns: int) -> None:
    inner = SPANS[swizzle][0] // 2
    m = matrix(D.BFLOAT16, columns, 20, (inner, 8), swizzle)
    source, target = Memory(64 + 20 * m.strides[0], seed=1), Memory(64 + 20 * m.strides[0], seed=2)
    untouched = target.data.copy()
    origins = np.array([(0, 0), (columns // inner * inner, 16), (inner, 8)])
    boxes = load(m, source, origins, np.array([0, 1024, 128]))
    store(m, target, origins, np.array([0, 1024, 128]), boxes)
    written = np.zeros_like(target.data, bool)
    for (column, row), r in itertools.product(origins, range(8)):
        if row + r < 20:
            first = 64 + (row + r) * m.strides[0]
            written[first + 2 * column : first + 2 * min(columns, column + inner)] = True
    np.testing.assert_array_equal(target.data[written], source.data[written])
    np.testing.assert_array_equal(target.data[~written], untouched[~written])


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i4", "u4", "u8"])
def test_reductions_add_issue_by_issue_in_the_elements_type(kind: str) -> None:
    types = {"f2": D.FLOAT16, "f4": D.FLOAT32, "f8": D.FLOAT64, "i4": D.INT32, "u4": D.UINT32, "u8": D.UINT64}
    size, data_type = np.dtype(kind).itemsize, types[kind]
    generator = np.random.default_rng(0)
    m = matrix(data_type, 40, 12, (16, 8))
    memory = Memory(64 + 12 * m.strides[0])
    plane = memory.data[64:].view(kind).reshape(12, m.strides[0] // size)
    plane[:] = generator.integers(0, 50, plane.shape)
    boxes = generator.integers(0, 50, (3, 8, 16)).astype(kind)
    expected = plane.astype(np.float64)
    origins = [(0, 0), (32, 8), (8, 2)]
    for (column, row), box in zip(origins, boxes, strict=True):
        rows, columns = min(8, 12 - row), min(16, 40 - column)
        expected[row : row + rows, column : column + columns] += box[:rows, :columns]
    reduce_add(m, memory, np.array(origins), np.array([0, 0, 0]), boxes.reshape(3, -1).view(np.uint8))
    np.testing.assert_array_equal(plane.astype(np.float64), expected)


@pytest.mark.parametrize(
    ("changes", "origin", "address", "message"),
    [
        ({}, (0, 0), 64, "shared address 64 .* a multiple of 128"),
        ({}, (0, 0, 0), 0, "3 coordinates for a tensor map of rank 2"),
        ({"data_type": D.FLOAT32_FTZ}, (0, 0), 0, "FLOAT32_FTZ is not simulated"),
        ({"swizzle": S.BYTES_128_ATOM_32_FLIP_8}, (0, 0), 0, "ATOM_32_FLIP_8 is not simulated"),
        ({"interleave": Interleave.BYTES_16}, (0, 0), 0, "interleave BYTES_16"),
        ({"box": (16, 8)}, (0, 0), 0, "box of 64 bytes under a swizzle of 128"),
        (
            {"data_type": D.PACKED_16U4_ALIGN8B, "box": (256, 8)},
            (1, 0),
            0,
            "first coordinate 1 .* multiple of 2",
        ),
        ({"data_type": D.PACKED_16U4_ALIGN16B, "box": (128, 8)}, (64, 0), 0, "coordinate 64 .* of 128"),
    ],
)
def test_what_is_not_simulated_is_refused(
    changes: dict[str, object], origin: tuple[int, ...], address: int, message: str
) -> None:
    m = replace(matrix(D.FLOAT32, 256, 8, (32, 8), S.BYTES_128), **changes)  # type: ignore[arg-type]
    with pytest.raises(SimulationError, match=message):
        load(m, Memory(64 + 8 * 1024), np.array([origin]), np.array([address]))


@pytest.mark.parametrize(
    ("data_type", "origin", "message"),
    [
        (D.BFLOAT16, (-64, 0), "negative coordinates"),
        (D.PACKED_16U4_ALIGN16B, (0, 0), "stores no PACKED_16U4_ALIGN16B"),
    ],
)
def test_stores_that_hardware_does_not_do_are_refused(
    data_type: DataType, origin: tuple[int, int], message: str
) -> None:
    m = matrix(data_type, 256, 8, (64, 8))
    data = np.zeros((1, shared_bytes(m)), np.uint8)
    with pytest.raises(SimulationError, match=message):
        store(m, Memory(64 + 8 * m.strides[0]), np.array([origin]), np.array([0]), data)

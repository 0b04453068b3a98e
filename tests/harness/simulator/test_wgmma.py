"""wgmma against float64 products of operands written element by element; fragments by the ISA's formulas."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.matrix_descriptor import Generation, chunks_k_major, chunks_mn_major, decode_descriptor
from harness.simulator.number_formats import BF16, E4M3, E5M2, F16, F32, TF32, NumberFormat, decode, encode
from harness.simulator.wgmma import Wgmma
from tests.harness.simulator.operand_writer import SWIZZLES, Layout

SHARED_BYTES = 64 * 1024


def random_codes(rows: int, k: int, number_format: NumberFormat, seed: int) -> NDArray[np.unsignedinteger]:
    values = np.random.default_rng(seed).integers(-4, 5, (rows, k)) * 0.375
    codes = encode(values, number_format)
    return codes.astype(f"u{number_format.bits // 8}")


def k_major(swizzle: str, start: int, rows: int) -> Layout:
    """Atoms of 8 rows below one another; without a swizzle the two K columns stand `rows` apart."""
    width = SWIZZLES[swizzle][0]
    return Layout(swizzle, False, start, leading=rows * 16, stride=8 * width)


def mn_major(swizzle: str, start: int, rows: int, k: int) -> Layout:
    width = SWIZZLES[swizzle][0]
    if swizzle == "none":
        return Layout(swizzle, True, start, leading=128, stride=k * 16)
    return Layout(swizzle, True, start, leading=k * width, stride=8 * width)


def float64_product(
    a: NDArray[np.unsignedinteger],
    b: NDArray[np.unsignedinteger],
    a_format: NumberFormat,
    b_format: NumberFormat,
) -> NDArray[np.float64]:
    return decode(a, a_format).astype(np.float64) @ decode(b, b_format).astype(np.float64).T


@pytest.mark.parametrize("n", [8, 48, 256])
@pytest.mark.parametrize("swizzle", SWIZZLES)
@pytest.mark.parametrize(
    ("a_format", "b_format"), [(F16, F16), (BF16, BF16), (TF32, TF32), (E4M3, E5M2)], ids=lambda f: f.name
)
def test_k_major_product(swizzle: str, a_format: NumberFormat, b_format: NumberFormat, n: int) -> None:
    instruction = Wgmma(n, a_format, b_format)
    shared = np.zeros((3, SHARED_BYTES), np.uint8)
    a_layout, b_layout = k_major(swizzle, 1024, 64), k_major(swizzle, 16 * 1024, n)
    expected = []
    for cta in range(3):
        a = random_codes(64, instruction.k, a_format, 10 * cta)
        b = random_codes(n, instruction.k, b_format, 10 * cta + 1)
        a_layout.write(shared[cta], a)
        b_layout.write(shared[cta], b)
        expected.append(float64_product(a, b, a_format, b_format))
    cta = np.array([2, 0, 1, 2])
    descriptors = np.full((4, 1), a_layout.wgmma_descriptor(), np.uint64)
    got = instruction.multiply(
        shared, cta, descriptors, np.full((4, 1), b_layout.wgmma_descriptor(), np.uint64)
    )
    assert got.dtype == np.float32
    assert np.array_equal(got, np.stack([expected[c] for c in cta]))


@pytest.mark.parametrize("swizzle", SWIZZLES)
def test_mn_major_product(swizzle: str) -> None:
    n = 128
    instruction = Wgmma(n, BF16, BF16, transpose_a=True, transpose_b=True)
    shared = np.zeros((1, SHARED_BYTES), np.uint8)
    a_layout, b_layout = mn_major(swizzle, 2048, 64, 16), mn_major(swizzle, 16 * 1024, n, 16)
    a, b = random_codes(64, 16, BF16, 1), random_codes(n, 16, BF16, 2)
    a_layout.write(shared[0], a)
    b_layout.write(shared[0], b)
    got = instruction.multiply(
        shared,
        np.zeros(1, int),
        np.array([[a_layout.wgmma_descriptor()]], np.uint64),
        np.array([[b_layout.wgmma_descriptor()]], np.uint64),
    )
    assert np.array_equal(got[0], float64_product(a, b, BF16, BF16))


@pytest.mark.parametrize("negate_a", [False, True])
@pytest.mark.parametrize("negate_b", [False, True])
def test_steps_inside_a_swizzle_atom_with_different_descriptors(negate_a: bool, negate_b: bool) -> None:
    """Four K steps of 32 bytes in rows of 128; the groups of one CTA read different stages."""
    instruction = Wgmma(16, BF16, BF16, negate_a=negate_a, negate_b=negate_b)
    shared = np.zeros((2, SHARED_BYTES), np.uint8)
    a_descriptors, b_descriptors, expected = [], [], []
    for group, (cta, start) in enumerate([(0, 0), (1, 8192), (1, 16384), (0, 8192)]):
        a_layout, b_layout = k_major("128B", start, 64), k_major("128B", 32768 + start // 4, 16)
        a, b = random_codes(64, 64, BF16, group), random_codes(16, 64, BF16, 99 - group)
        a_layout.write(shared[cta], a)
        b_layout.write(shared[cta], b)
        a_descriptors.append([a_layout.wgmma_descriptor(32 * step) for step in range(4)])
        b_descriptors.append([b_layout.wgmma_descriptor(32 * step) for step in range(4)])
        sign = -1 if negate_a != negate_b else 1
        expected.append(sign * float64_product(a, b, BF16, BF16))
    got = instruction.multiply(
        shared, np.array([0, 1, 1, 0]), np.array(a_descriptors, np.uint64), np.array(b_descriptors, np.uint64)
    )
    assert np.array_equal(got, np.stack(expected))


@pytest.mark.parametrize("number_format", [BF16, E4M3, TF32], ids=lambda f: f.name)
def test_a_fragment(number_format: NumberFormat) -> None:
    """By the formulas of fragment A: a register has 2 (16-bit), 4 (8-bit) or 1 (32-bit) elements."""
    instruction = Wgmma(8, number_format, number_format)
    codes = random_codes(64, instruction.k, number_format, 5)
    per_register = 4 // codes.dtype.itemsize
    registers = np.zeros((1, 4, 128), np.uint32)
    for thread in range(128):
        warp, lane = divmod(thread, 32)
        for i in range(4 * per_register):
            register, element = divmod(i, per_register)
            row = 16 * warp + lane // 4 + 8 * (register % 2)
            column = lane % 4 * per_register + element + 4 * per_register * (register // 2)
            registers[0, register, thread] |= int(codes[row, column]) << (32 // per_register * element)
    assert np.array_equal(instruction.a_from_registers(registers)[0], decode(codes, number_format))


@pytest.mark.parametrize("n", [8, 96, 256])
def test_f32_d_fragment(n: int) -> None:
    instruction = Wgmma(n, BF16, BF16)
    tile = np.random.default_rng(n).normal(size=(2, 64, n)).astype(np.float32)
    registers = np.zeros((2, n // 2, 128), np.float32)
    for thread in range(128):
        warp, lane = divmod(thread, 32)
        for i in range(n // 2):
            row = 16 * warp + lane // 4 + (0 if i % 4 < 2 else 8)
            registers[:, i, thread] = tile[:, row, i // 4 * 8 + lane % 4 * 2 + i % 2]
    assert np.array_equal(instruction.d_to_registers(tile).view(np.float32), registers)
    assert np.array_equal(instruction.d_from_registers(registers.view(np.uint32)), tile)


@pytest.mark.parametrize("n", [8, 40])
def test_f16_d_fragment(n: int) -> None:
    instruction = Wgmma(n, F16, F16, F16)
    tile = np.random.default_rng(n).normal(size=(2, 64, n)).astype(np.float16).astype(np.float32)
    registers = np.zeros((2, n // 4, 128), np.uint32)
    for thread in range(128):
        warp, lane = divmod(thread, 32)
        for i in range(n // 2):
            row = 16 * warp + lane // 4 + (0 if i % 4 < 2 else 8)
            values = tile[:, row, i // 4 * 8 + lane % 4 * 2 + i % 2].astype(np.float16).view(np.uint16)
            registers[:, i // 2, thread] |= values.astype(np.uint32) << np.uint32(16 * (i % 2))
    assert np.array_equal(instruction.d_to_registers(tile), registers)
    assert np.array_equal(instruction.d_from_registers(registers), tile)


def test_a_in_registers_multiplies() -> None:
    instruction = Wgmma(8, F16, F16)
    a, b = random_codes(64, 16, F16, 1), random_codes(8, 16, F16, 2)
    layout = k_major("32B", 0, 8)
    shared = np.zeros((1, 1024), np.uint8)
    layout.write(shared[0], b)
    descriptors = np.array([[layout.wgmma_descriptor()]], np.uint64)
    got = instruction.multiply(shared, np.zeros(1, int), decode(a, F16)[None], descriptors)
    assert np.array_equal(got[0], float64_product(a, b, F16, F16))


def test_nan_and_infinity_propagate() -> None:
    instruction = Wgmma(8, BF16, BF16)
    a = np.zeros((1, 64, 16), np.float32)
    a[0, 0, 0], a[0, 1, 1] = np.nan, np.inf
    layout = k_major("32B", 0, 8)
    shared = np.zeros((1, 1024), np.uint8)
    layout.write(shared[0], encode(np.ones((8, 16)), BF16).astype(np.uint16))
    got = instruction.multiply(
        shared, np.zeros(1, int), a, np.array([[layout.wgmma_descriptor()]], np.uint64)
    )
    assert np.isnan(got[0, 0]).all()
    assert np.isposinf(got[0, 1]).all()
    assert (got[0, 2:] == 0).all()


@pytest.mark.parametrize("bit", [14, 31, 46, 49, 53])
def test_reserved_bits_are_refused(bit: int) -> None:
    with pytest.raises(SimulationError, match="matrix descriptor 0x"):
        decode_descriptor(1 << bit, Generation.WGMMA)


@pytest.mark.parametrize("bits", [0, 3 << 46, 1 << 46 | 1 << 52, 1 << 46 | 1 << 55, 1 << 46 | 3 << 61])
def test_invalid_tcgen05_descriptors_are_refused(bits: int) -> None:
    with pytest.raises(SimulationError, match="matrix descriptor 0x"):
        decode_descriptor(bits, Generation.TCGEN05)


def test_starts_that_leave_a_swizzle_row_are_refused() -> None:
    with pytest.raises(SimulationError, match="leaves the 128-byte swizzle row"):
        chunks_k_major(1 << 62 | 7, Generation.WGMMA, 8, 2)
    with pytest.raises(SimulationError, match="inside a 128-byte swizzle row"):
        chunks_mn_major(1 << 62 | 1, Generation.WGMMA, 16, 8)


def test_an_operand_beyond_shared_memory_is_refused() -> None:
    layout = k_major("128B", 1024, 64)
    with pytest.raises(SimulationError, match="at address 0x23f0 of 0x1000 shared bytes"):
        Wgmma(8, BF16, BF16).a.read(
            np.zeros((1, 4096), np.uint8),
            np.zeros(1, int),
            np.array([[layout.wgmma_descriptor()]], np.uint64),
        )


@pytest.mark.parametrize(
    ("n", "types", "transpose", "message"),
    [
        (12, (BF16, BF16, F32), False, "no shape with n = 12"),
        (264, (BF16, BF16, F32), False, "no shape with n = 264"),
        (8, (BF16, F16, F32), False, r"no types f32\.bf16\.f16"),
        (8, (BF16, BF16, F16), False, r"no types f16\.bf16\.bf16"),
        (8, (E4M3, E4M3, F32), True, "transposes 16-bit types only"),
    ],
)
def test_instructions_that_do_not_exist(
    n: int, types: tuple[NumberFormat, NumberFormat, NumberFormat], transpose: bool, message: str
) -> None:
    with pytest.raises(SimulationError, match=message):
        Wgmma(n, *types, transpose_b=transpose)

"""mma.sync in PTX, against float64 products and the ISA's formulas for the fragments, element by element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.number_formats import FORMATS, NumberFormat, decode, encode
from tests.harness.simulator.raw_ptx import run_ptx

M, N, LANES = 16, 8, 32


def kernel(form: str, a: int, b: int, c: int, d: int) -> str:
    """Each lane's registers of A, B and C, one after the other in x; D's in y."""
    names = [f"%r{16 + i}" for i in range(a + b + c)]
    loads = [f"ld.global.b32 {name}, [%rd2+{4 * LANES * place}];" for place, name in enumerate(names)]
    results = [f"%r{40 + i}" for i in range(d)]
    groups = [results, names[:a], names[a : a + b], names[a + b :]]
    operands = ", ".join(f"{{{', '.join(group)}}}" for group in groups)
    stores = [f"st.global.b32 [%rd3+{4 * LANES * place}], {name};" for place, name in enumerate(results)]
    return "\n".join([*loads, f"mma.sync.aligned.{form} {operands};", *stores])


def spread(codes: NDArray[np.unsignedinteger], bits: int, halves: int) -> NDArray[np.uint32]:
    """Registers [registers, 32] of A's rows, or B's columns, by the ISA's formulas for a lane's elements."""
    each = 32 // bits
    count = codes.shape[1] * bits // 128 * halves
    out = np.zeros((count, LANES), np.uint32)
    for lane in range(LANES):
        for i in range(count * each):
            register, position = divmod(i, each)
            row = lane // 4 + (8 * (register % 2) if halves == 2 else 0)
            column = lane % 4 * each + position + register // halves * 4 * each
            out[register, lane] |= np.uint32(int(codes[row, column]) << position * bits)
    return out


def place(lane: int, i: int) -> tuple[int, int]:
    """Row and column of value i of C or D (PTX ISA, "Matrix Fragments for mma.m16n8k16")."""
    return lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2


@pytest.mark.parametrize(
    ("a", "b", "k", "accumulator"),
    [
        ("f16", "f16", 8, "f32"),
        ("f16", "f16", 16, "f32"),
        ("f16", "f16", 16, "f16"),
        ("bf16", "bf16", 16, "f32"),
        ("tf32", "tf32", 4, "f32"),
        ("tf32", "tf32", 8, "f32"),
        ("e4m3", "e5m2", 32, "f32"),
        ("e4m3", "e4m3", 32, "f16"),
    ],
)
def test_product(a: str, b: str, k: int, accumulator: str) -> None:
    random = np.random.default_rng(k)
    formats: list[NumberFormat] = [FORMATS[name] for name in (a, b, accumulator)]
    matrices = [
        encode(random.integers(-4, 5, shape) * 0.375, number_format)
        for shape, number_format in zip(((M, k), (N, k), (M, N)), formats, strict=True)
    ]
    each = 2 if accumulator == "f16" else 1
    addend = np.zeros((4 // each, LANES), np.uint32)
    for lane in range(LANES):
        for i in range(4):
            addend[i // each, lane] |= np.uint32(int(matrices[2][place(lane, i)]) << 16 * (i % each))
    parts = [spread(matrices[0], formats[0].bits, 2), spread(matrices[1], formats[1].bits, 1), addend]
    x = torch.from_numpy(np.concatenate(parts).view(np.int32).copy())
    y = torch.zeros(4 // each, LANES, dtype=torch.int32)
    form = f"m16n8k{k}.row.col.{accumulator}.{a}.{b}.{accumulator}"
    run_ptx(kernel(form, *(len(part) for part in parts), 4 // each), x, y)

    left, right, start = (
        decode(codes.astype(f"u{max(1, number_format.bits // 8)}"), number_format).astype(np.float64)
        for codes, number_format in zip(matrices, formats, strict=True)
    )
    expected = encode((left @ right.T + start).astype(np.float32), formats[2])
    found = y.numpy().view(np.uint32)
    for lane in range(LANES):
        for i in range(4):
            code = int(found[i // each, lane]) >> 16 * (i % each) & (0xFFFF if each == 2 else 0xFFFFFFFF)
            assert code == int(expected[place(lane, i)])


@pytest.mark.parametrize("form", ["m16n8k16.row.col.s32.s8.s8.s32", "m8n8k4.row.col.f64.f64.f64.f64"])
def test_an_unknown_form_says_so(form: str) -> None:
    with pytest.raises(SimulationError, match="is not known"):
        run_ptx(kernel(form, 2, 1, 4, 4), torch.zeros(1024, dtype=torch.int32), torch.zeros(128))

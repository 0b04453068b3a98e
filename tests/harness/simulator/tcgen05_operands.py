"""Writes operands and scale factors of tcgen05.mma and reads its D, element by element, for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.simulator.number_formats import NumberFormat, encode
from harness.simulator.tcgen05_mma import TensorCore
from harness.simulator.tensor_memory import TensorMemory
from tests.harness.simulator.operand_writer import SWIZZLES, Layout

SHARED_BYTES = 96 * 1024
A_START, B_START = 1024, 40 * 1024
D_COLUMN, A_COLUMN, SFA_COLUMN, SFB_COLUMN = 0, 288, 384, 420

TYPE_CODES = {"f16": 0, "bf16": 1, "tf32": 2, "e4m3": 0, "e5m2": 1, "e2m3": 3, "e3m2": 4, "e2m1": 5}


def instruction_descriptor(
    kind: str,
    m: int,
    n: int,
    a: str,
    b: str,
    *,
    d: str = "f32",
    negate: tuple[int, int] = (0, 0),
    transpose: tuple[int, int] = (0, 0),
    scale: str = "",
    scale_ids: tuple[int, int] = (0, 0),
) -> int:
    """The bits of the tables "Instruction descriptor format"."""
    a_code, b_code = (1 if kind.startswith("mxf4") else TYPE_CODES[name] for name in (a, b))
    bits = (
        a_code << 7
        | b_code << 10
        | negate[0] << 13
        | negate[1] << 14
        | transpose[0] << 15
        | transpose[1] << 16
    )
    bits |= n // 8 << 17 | m // 16 << 24
    if not scale:
        return bits | {"f16": 0, "f32": 1}[d] << 4
    return bits | scale_ids[1] << 4 | (scale == "ue8m0") << 23 | scale_ids[0] << 29


def pack(codes: NDArray[np.uint32], number_format: NumberFormat, dense: bool) -> NDArray[np.uint8]:
    """Bytes along K [rows, n]: whole elements, two 4-bit ones a byte, or 16 elements in 16 padded bytes."""
    if number_format.bits >= 8:
        return codes.astype(f"<u{number_format.bits // 8}").view(np.uint8)
    if dense:
        return (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
    rows, k = codes.shape
    out = np.random.default_rng(0).integers(0, 256, (rows, k), dtype=np.uint8)  # the padding is noise
    for row in range(rows):
        for group in range(k // 16):
            number = sum(
                int(c) << number_format.bits * i
                for i, c in enumerate(codes[row, 16 * group : 16 * group + 16])
            )
            size = 2 * number_format.bits
            out[row, 16 * group : 16 * group + size] = np.frombuffer(
                number.to_bytes(size, "little"), np.uint8
            )
    return out


def random_codes(rows: int, k: int, number_format: NumberFormat, seed: int) -> NDArray[np.uint32]:
    values = np.random.default_rng(seed).integers(-4, 5, (rows, k)) * 0.5
    return encode(values, number_format)


def stored_at(m: int, cta_group: int, n: int, row: int, column: int) -> tuple[int, int, int]:
    """(CTA of the pair, lane, column) of an element of D, by the figures of the data path layouts."""
    if m == 256:  # layout A
        return row // 128, row % 128, column
    if m == 128 and cta_group == 1:  # layout D
        return 0, row, column
    if m == 128:  # layout B
        return row // 64, row % 64 + 64 * (column // (n // 2)), column % (n // 2)
    return 0, row // 16 * 32 + row % 16, column  # layout F


def read_d(
    memory: TensorMemory, ctas: NDArray[Any], m: int, n: int, base: int = D_COLUMN
) -> NDArray[np.uint32]:
    out = np.zeros((m, n), np.uint32)
    for row in range(m):
        for column in range(n):
            rank, lane, at = stored_at(m, len(ctas), n, row, column)
            assert memory.written[ctas[rank], lane, base + at]
            out[row, column] = memory.data[ctas[rank], lane, base + at]
    return out


def k_layout(swizzle: str, start: int, rows: int, mn_major: bool, element_bytes: int, k: int) -> Layout:
    width = SWIZZLES[swizzle][0]
    if mn_major:
        leading, stride = (128, k * 16) if swizzle == "none" else (k * width, 8 * width)
        return Layout(swizzle, True, start, leading, stride)
    return Layout(swizzle, False, start, leading=rows * 16, stride=8 * width)


def write_operand(
    core: TensorCore,
    ctas: NDArray[Any],
    layout: Layout,
    codes: NDArray[np.uint32],
    fmt: NumberFormat,
    dense: bool,
) -> None:
    """Each CTA of the pair holds its half of the rows."""
    for cta, part in zip(ctas, np.split(codes, len(ctas)), strict=True):
        if layout.mn_major:
            layout.write(core.shared[cta], part.astype(f"<u{fmt.bits // 8}"))
        else:
            layout.write(core.shared[cta], pack(part, fmt, dense))


def empty_core(ctas: int = 2) -> TensorCore:
    return TensorCore(np.zeros((ctas, SHARED_BYTES), np.uint8), TensorMemory.empty(ctas))


def column_vector(*values: int) -> NDArray[np.uint64]:
    return np.array(values, np.uint64)[:, None]


def write_scales(
    memory: TensorMemory, cta: int, column: int, codes: NDArray[np.uint32], first_byte: int, split: bool
) -> None:
    """Row r in lane r % 32, column r // 32, in all quadrants, or half of the rows in each two of them."""
    rows, along_k = codes.shape
    part = rows // 2 if split else rows
    for row in range(rows):
        for quadrant in range(4):
            if split and quadrant // 2 != row // part:
                continue
            lane, at = 32 * quadrant + row % part % 32, column + row % part // 32
            memory.written[cta, 32 * quadrant : 32 * quadrant + 32, at] = True
            for j in range(along_k):
                memory.data[cta, lane, at] |= int(codes[row, j]) << 8 * (first_byte + j)

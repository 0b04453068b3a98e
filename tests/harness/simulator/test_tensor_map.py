"""The descriptor's bits: against words that the DSL's host code packed, and as a round trip of all fields."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings

from harness.simulator.errors import SimulationError
from harness.simulator.tensor_map import DataType, Interleave, Swizzle, TensorMap, decode, encode
from tests.harness.simulator.tensor_map_strategy import tensor_maps

ADDRESS = 0x7F01_2345_6780
D, S = DataType, Swizzle


def matrix(
    data_type: DataType,
    box: int,
    swizzle: Swizzle = S.NONE,
    rows: int = 256,
    row_bytes: int | None = None,
    columns: int = 1024,
) -> TensorMap:
    row_bytes = row_bytes or columns * data_type.global_bits // 8
    size = (rows - 1) * row_bytes + columns * data_type.global_bits // 8
    return TensorMap(
        ADDRESS,
        data_type,
        (columns, rows),
        (row_bytes,),
        (box, 8),
        (1, 1),
        swizzle=swizzle,
        spans_128_kib=size >= 128 * 1024,
    )


# (what was given to the DSL's make_tiled_tma_atom, words 2 to 14 of what its host code packed)
PACKED: dict[str, tuple[TensorMap, str]] = {
    "u8": (matrix(D.UINT8, 64), "00240012 40 0 0 0 0 3ff ff 0 0 0 3f000000 7"),
    "bf16, swizzle 32": (matrix(D.BFLOAT16, 16, S.BYTES_32), "00242512 80 0 0 0 0 3ff ff 0 0 0 0f000000 7"),
    "bf16, swizzle 64": (matrix(D.BFLOAT16, 32, S.BYTES_64), "00244512 80 0 0 0 0 3ff ff 0 0 0 1f000000 7"),
    "bf16, swizzle 128": (matrix(D.BFLOAT16, 64, S.BYTES_128), "00246512 80 0 0 0 0 3ff ff 0 0 0 3f000000 7"),
    "f32, atom 32": (
        matrix(D.FLOAT32, 32, S.BYTES_128_ATOM_32),
        "002c6392 100 0 0 0 0 3ff ff 0 0 0 1f000000 7",
    ),
    "f32, atom 64": (
        matrix(D.FLOAT32, 32, S.BYTES_128_ATOM_64),
        "003c6392 100 0 0 0 0 3ff ff 0 0 0 1f000000 7",
    ),
    "f16": (matrix(D.FLOAT16, 32), "00240312 80 0 0 0 0 3ff ff 0 0 0 1f000000 7"),
    "f64": (matrix(D.FLOAT64, 8), "00240492 200 0 0 0 0 3ff ff 0 0 0 07000000 7"),
    "tf32": (matrix(D.TFLOAT32, 16), "00250392 100 0 0 0 0 3ff ff 0 0 0 0f000000 7"),
    "e2m1": (matrix(D.PACKED_16U4_ALIGN8B, 128), "00240592 20 0 0 0 0 3ff ff 0 0 0 7f000000 7"),
    "e2m1, padded": (matrix(D.PACKED_16U4_ALIGN16B, 128), "00240612 20 0 0 0 0 3ff ff 0 0 0 7f000000 7"),
    "e2m3, swizzle 128": (
        matrix(D.PACKED_16U6_ALIGN16B, 128, S.BYTES_128),
        "00246692 30 0 0 0 0 3ff ff 0 0 0 7f000000 7",
    ),
    "scales as u16": (matrix(D.UINT16, 64, columns=512), "00240092 40 0 0 0 0 1ff ff 0 0 0 3f000000 7"),
    "below 128 KiB": (
        matrix(D.BFLOAT16, 64, rows=32, row_bytes=4096),
        "00040512 100 0 0 0 0 3ff 1f 0 0 0 3f000000 7",
    ),
    "rank 1": (
        TensorMap(ADDRESS, D.BFLOAT16, (1024,), (), (64,), (1,), spans_128_kib=False),
        "00040502 0 0 0 0 0 3ff 0 0 0 0 3f000000 0",
    ),
    "rank 5": (
        TensorMap(
            ADDRESS,
            D.BFLOAT16,
            (1024, 60, 50, 40, 30),
            (2176, 130816, 13200000, 528000016),
            (64, 3, 5, 7, 2),
            (1,) * 5,
        ),
        "00240542 88 1ff0 c96a8 1f78a41 0 3ff 3b 31 27 1d 3f000000 01060402",
    ),
}


def packed(words: str) -> bytes:
    return struct.pack("<Q14I", ADDRESS, *(int(word, 16) for word in words.split()), 0)


@pytest.mark.parametrize("name", PACKED)
def test_what_host_code_packs_is_understood_and_repeated(name: str) -> None:
    expected, words = PACKED[name]
    raw = packed(words)
    assert decode(raw + b"\xa5" * 64) == expected, "the second half is whatever it was"
    assert encode(expected)[:64] == raw


@settings(max_examples=200, deadline=None)
@given(tensor_maps())
def test_every_legal_map_survives_the_round_trip(tensor_map: TensorMap) -> None:
    raw = encode(tensor_map)
    assert len(raw) == 128
    assert decode(raw) == tensor_map


def with_word(raw: bytes, word: int, value: int) -> bytes:
    """`raw` with `value` set in one of its 32-bit words."""
    words = list(struct.unpack("<32I", raw))
    words[word] |= value
    return struct.pack("<32I", *words)


@pytest.mark.parametrize(
    ("word", "bits"),
    [
        *((1, 1 << 25), (2, 1), (2, 1 << 6), (2, 0xF << 7), (2, 3 << 11), (2, 1 << 22), (4, 1), (7, 1 << 4)),
        *((7, 1 << 16), (10, 1), (13, 1 << 6), (13, 1 << 15), (13, 1 << 23), (14, 1 << 8), (15, 1)),
    ],
)
def test_unknown_bits_are_refused(word: int, bits: int) -> None:
    raw = encode(matrix(D.BFLOAT16, 64, S.BYTES_128))
    with pytest.raises(SimulationError, match="tensor map"):
        decode(with_word(raw, word, bits))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": ADDRESS + 8}, "address 0x7f0123456788: a multiple of 16"),
        ({"strides": (2040,)}, r"strides \(2040,\)"),
        ({"strides": (1 << 40,)}, "below 2"),
        ({"box": (64, 257)}, r"box \(64, 257\)"),
        ({"box": (60, 8)}, "box of 120 bytes: a multiple of 16"),
        ({"box": (72, 8)}, "box of 144 bytes under a swizzle of 128"),
        ({"extents": (1024, 0)}, r"extents \(1024, 0\)"),
        ({"element_strides": (1, 9)}, "element strides"),
        ({"element_strides": (1,)}, "for rank 2"),
        ({"interleave": Interleave.BYTES_16}, "rank 2"),
        ({"data_type": D.UINT16, "nan_fill": True}, "UINT16 filled with NaN"),
        ({"data_type": D.PACKED_16U4_ALIGN16B, "box": (128, 8), "address": ADDRESS + 16}, "a multiple of 32"),
        ({"data_type": D.PACKED_16U4_ALIGN16B}, "128 elements wide"),
        (
            {"data_type": D.PACKED_16U4_ALIGN16B, "box": (128, 8), "swizzle": S.BYTES_128_ATOM_64},
            "PACKED_16U4_ALIGN16B with swizzle BYTES_128_ATOM_64",
        ),
        ({"data_type": D.PACKED_16U4_ALIGN8B, "extents": (1023, 8), "box": (128, 8)}, "a multiple of 2"),
        ({"l2_promotion": 4}, "L2 promotion 4"),
    ],
)
def test_illegal_maps_are_refused_with_the_value(changes: dict[str, object], message: str) -> None:
    legal = matrix(D.BFLOAT16, 64, S.BYTES_128)
    encode(legal)
    with pytest.raises(SimulationError, match=message):
        encode(replace(legal, **changes))  # type: ignore[arg-type]


def test_a_short_descriptor_is_refused() -> None:
    with pytest.raises(SimulationError, match="128 bytes, not 64"):
        decode(bytes(64))

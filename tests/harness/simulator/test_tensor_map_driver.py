"""The CUDA driver's own cuTensorMapEncodeTiled writes the bits that `encode` writes and `decode` reads.

Needs the driver (libcuda.so.1) and a device that has TMA, no compiler and no DSL.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from harness.simulator.tensor_map import (
    DataType,
    Interleave,
    Swizzle,
    TensorMap,
    decode,
    encode,
    illegal_reasons,
)
from tests.harness.simulator.tensor_map_strategy import tensor_maps

pytestmark = pytest.mark.gpu

ADDRESS = 0x7F01_2345_6780
PACKED = (DataType.PACKED_16U4_ALIGN8B, DataType.PACKED_16U4_ALIGN16B, DataType.PACKED_16U6_ALIGN16B)
# Of compute capability 10.0 and up.
ATOMS = (Swizzle.BYTES_128_ATOM_32, Swizzle.BYTES_128_ATOM_32_FLIP_8, Swizzle.BYTES_128_ATOM_64)


@functools.cache
def driver() -> ctypes.CDLL:
    library = ctypes.CDLL("libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    assert library.cuInit(0) == 0
    assert library.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert library.cuCtxSetCurrent(context) == 0
    return library


def encoded_by_driver(m: TensorMap) -> bytes | None:
    """The driver's 64 meaningful bytes; None when it refuses `m`."""
    buffer = ctypes.create_string_buffer(192)
    aligned = -(-ctypes.addressof(buffer) // 64) * 64
    error = driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(aligned),
        m.data_type.driver_number,
        m.rank,
        ctypes.c_void_p(m.address),
        (ctypes.c_uint64 * 5)(*m.extents),
        (ctypes.c_uint64 * 4)(*m.strides),
        (ctypes.c_uint32 * 5)(*m.box),
        (ctypes.c_uint32 * 5)(*m.element_strides),
        int(m.interleave),
        m.swizzle.driver_number,
        m.l2_promotion,
        int(m.nan_fill),
    )
    return None if error else ctypes.string_at(aligned, 64)


def compare(m: TensorMap) -> bool:
    """Compare both ways; False when this device's driver refuses the map.

    What belongs to the encoding alone is the driver's: 580.159.04 leaves `kind` and `spans_128_kib` 0.
    """
    raw = encoded_by_driver(m)
    if raw is None:
        return False
    found = decode(raw.ljust(128, b"\0"))
    expected = replace(m, spans_128_kib=found.spans_128_kib, kind=found.kind)
    assert found == expected
    assert encode(expected)[:64] == raw, (encode(expected)[:64].hex(), raw.hex())
    return True


def case(
    data_type: DataType,
    swizzle: Swizzle = Swizzle.NONE,
    rank: int = 2,
    rows: int = 8,
    interleave: Interleave = Interleave.NONE,
    **changes: object,
) -> TensorMap:
    """A map of `rank` dimensions with the widest box that the swizzle allows, up to 128 bytes."""
    span = 128 if swizzle is Swizzle.NONE else swizzle.span_bytes
    inner = min(256, span * 8 // data_type.shared_bits)
    row_bytes = 1024 * data_type.global_bits // 8
    outer = (4096, 60, 50, 40)[: rank - 1]
    strides = (row_bytes, row_bytes * 4096, row_bytes * 4096 * 60, row_bytes * 4096 * 60 * 50)[: rank - 1]
    found = TensorMap(
        ADDRESS,
        data_type,
        (1024, *outer),
        strides,
        (inner, *(rows, 3, 2, 1)[: rank - 1]),
        (1,) * rank,
        interleave,
        swizzle,
    )
    return replace(found, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("data_type", DataType)
@pytest.mark.parametrize("swizzle", Swizzle)
def test_data_types_and_swizzles(data_type: DataType, swizzle: Swizzle) -> None:
    m = case(data_type, swizzle)
    if illegal_reasons(m):
        pytest.skip("not a legal pair")
    if not compare(m):
        assert data_type in PACKED or swizzle in ATOMS, "refused on a device that must take it"
        pytest.skip("this device's driver refuses it")


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_ranks(rank: int) -> None:
    assert compare(case(DataType.BFLOAT16, Swizzle.BYTES_128, rank))


@pytest.mark.parametrize("rows", [1, 8, 16, 32, 48, 64, 96, 128, 192, 256])
def test_boxes(rows: int) -> None:
    assert compare(case(DataType.BFLOAT16, Swizzle.BYTES_128, rows=rows))


@pytest.mark.parametrize(
    "changes",
    [
        {"l2_promotion": 0},
        {"l2_promotion": 1},
        {"l2_promotion": 3},
        {"nan_fill": True},
        {"element_strides": (1, 8, 3)},
        {"interleave": Interleave.BYTES_16, "swizzle": Swizzle.NONE},
        {"interleave": Interleave.BYTES_32, "swizzle": Swizzle.BYTES_32},
        {"extents": (1024, 4, 4)},
        {"extents": (2**32, 2**32, 2**32), "strides": (2**36 + 16, 2**40 - 16)},
    ],
)
def test_the_other_fields(changes: dict[str, object]) -> None:
    m = case(DataType.BFLOAT16, rank=3, **changes)
    assert not illegal_reasons(m)
    assert compare(m)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(tensor_maps())
def test_random_maps_that_the_driver_takes(tensor_map: TensorMap) -> None:
    compare(tensor_map)

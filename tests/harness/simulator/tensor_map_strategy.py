"""Random legal tensor maps, for property tests and for comparison with a driver."""

from __future__ import annotations

from hypothesis import assume
from hypothesis import strategies as st

from harness.simulator.tensor_map import DataType, Interleave, Swizzle, TensorMap, illegal_reasons


@st.composite
def tensor_maps(draw: st.DrawFn) -> TensorMap:
    """Every field drawn over its whole range, the rules between fields kept."""
    data_type = draw(st.sampled_from(DataType))
    swizzle = draw(st.sampled_from(Swizzle))
    interleave = draw(st.sampled_from(Interleave))
    padded = data_type.padded
    align = 32 if padded or interleave is Interleave.BYTES_32 else 16
    if interleave is Interleave.BYTES_32:
        swizzle = Swizzle.BYTES_32
    rank = draw(st.integers(1 if interleave is Interleave.NONE else 3, 5))
    widest = 256 if swizzle is Swizzle.NONE else swizzle.span_bytes * 8 // data_type.shared_bits
    step = max(1, 128 // data_type.shared_bits)
    inner = 128 if padded else draw(st.integers(1, max(1, min(256, widest) // step))) * step
    multiple = 128 if padded else 2
    found = TensorMap(
        address=draw(st.integers(0, 2**57 // align - 1)) * align,
        data_type=data_type,
        extents=(
            draw(st.integers(1, 2**32 // multiple)) * multiple,
            *draw(st.lists(st.integers(1, 2**32), min_size=rank - 1, max_size=rank - 1)),
        ),
        strides=tuple(draw(st.integers(0, 2**40 // align - 1)) * align for _ in range(rank - 1)),
        box=(inner, *draw(st.lists(st.integers(1, 256), min_size=rank - 1, max_size=rank - 1))),
        element_strides=tuple(draw(st.integers(1, 8)) for _ in range(rank)),
        interleave=interleave,
        swizzle=swizzle,
        l2_promotion=draw(st.integers(0, 3)),
        nan_fill=data_type.is_float and draw(st.booleans()),
        spans_128_kib=draw(st.booleans()),
    )
    assume(not illegal_reasons(found))
    return found

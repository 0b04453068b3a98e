"""The tile shapes of the tiny TMA kernels."""

from __future__ import annotations

TILE_ROWS = 16
SWIZZLES = (0, 32, 64, 128)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def round_up(a: int, b: int) -> int:
    return ceil_div(a, b) * b


def tile_columns(element_bytes: int, swizzle: int) -> int:
    """Elements in a tile's row: the span of the swizzle (bytes), 64 bytes without one."""
    return (swizzle or 64) // element_bytes

"""How NVFP4 lies in memory, for those who compute with sizes alone: without torch."""

from __future__ import annotations

BLOCK = 16  # elements along K that share a scale

# The swizzled layout's atom: 128 rows x 4 scales in 512 bytes.
SCALE_ROWS = 128
SCALE_COLUMNS = 4


def swizzled_shape(rows: int, columns: int) -> tuple[int, int]:
    """The padded shape of [rows, columns] scales: rows to a multiple of 128, columns to one of 4."""
    return -(-rows // SCALE_ROWS) * SCALE_ROWS, -(-columns // SCALE_COLUMNS) * SCALE_COLUMNS

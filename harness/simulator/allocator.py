"""Freed memory that stays with the process.

The memories of a launch and what its instructions compute come and go as arrays of megabytes. The C library
gives such an array back to the system, which clears the next one's pages again: 10 to 25 % of a check.
"""

from __future__ import annotations

import ctypes
import functools

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to `KEPT_BYTES`; elsewhere than with glibc, do nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)

"""Fences that the DSL has no name for."""

from __future__ import annotations

import cutlass.cute as cute


def fence_before_sync() -> None:
    """Order the tensor-memory operations so far before a synchronization (PTX ISA, tcgen05.fence)."""
    cute.arch.inline_ptx("tcgen05.fence::before_thread_sync;")


def fence_after_sync() -> None:
    """Order the tensor-memory operations that follow after a synchronization that was waited for."""
    cute.arch.inline_ptx("tcgen05.fence::after_thread_sync;")

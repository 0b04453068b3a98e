"""Fences that the DSL has no name for."""

from __future__ import annotations

import cutlass.cute as cute


def fence_before_sync() -> None:
    """Order the tensor-memory operations so far before a synchronization (PTX ISA, tcgen05.fence)."""
    cute.arch.inline_ptx("tcgen05.fence::before_thread_sync;")


def fence_after_sync() -> None:
    """Order the tensor-memory operations that follow after a synchronization that was waited for."""
    cute.arch.inline_ptx("tcgen05.fence::after_thread_sync;")


def fence_release_shared() -> None:
    """Let an arrival that follows tell the cluster what was written to this CTA's shared memory.

    Restricted to it (PTX ISA, membar/fence, .sync_restrict) this is a wait for the SM's own stores, some 25
    cycles of an H100 by the instructions it becomes. A whole `fence.acq_rel.cluster` waits for the L2: 676.
    """
    cute.arch.inline_ptx("fence.release.sync_restrict::shared::cta.cluster;")


def fence_acquire_shared() -> None:
    """Let what follows a wait rely on what the cluster's CTAs have released to it in shared memory."""
    cute.arch.inline_ptx("fence.acquire.sync_restrict::shared::cluster.cluster;")

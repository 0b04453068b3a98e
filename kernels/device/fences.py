"""Ordering shared memory between the CTAs of a cluster, at what that costs and no more."""

from __future__ import annotations

import cutlass.cute as cute


def fence_release_shared() -> None:
    """Let an arrival that follows tell the cluster what was written to this CTA's shared memory.

    Restricted to it (PTX ISA, membar/fence, .sync_restrict) this is a wait for the SM's own stores: 16 cycles
    of an H200, where a whole `fence.acq_rel.cluster` waits for the L2, 273 (2026-11-28; 676 on an H100).
    """
    cute.arch.inline_ptx("fence.release.sync_restrict::shared::cta.cluster;")


def fence_acquire_shared() -> None:
    """Let what follows a wait rely on what the cluster's CTAs have released to it in shared memory."""
    cute.arch.inline_ptx("fence.acquire.sync_restrict::shared::cluster.cluster;")


def sync_cluster_shared() -> None:
    """Wait for all threads of the cluster; each then sees what the others wrote to their CTAs' shared memory.

    The barrier's own release (`barrier.cluster.arrive`, PTX ISA) would wait for the L2 as well.
    """
    fence_release_shared()
    cute.arch.cluster_arrive_relaxed()
    cute.arch.cluster_wait()

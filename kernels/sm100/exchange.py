"""Handing shared memory to other CTAs of the cluster and getting it back: a pair of mbarriers in each CTA."""

from __future__ import annotations

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Boolean, Int32

from kernels.device.fences import fence_acquire_shared, fence_release_shared

BARRIERS = 2


@dataclass(frozen=True)
class Exchange:
    """A buffer that every member of a group of CTAs writes in its own shared memory and all of them read.

    Turn n: `acquire(n)`, write, `publish()`, `await_peers(n)`, read, `release`, by every epilogue warp.

    Attributes:
        barriers: `full`, complete when all members have written, and `empty`, when all have read ours.
        members: CTAs in the group; member i has the rank `first + i * stride` in the cluster.
        warps: epilogue warps of a CTA.
    """

    barriers: cute.Pointer
    members: int
    first: Int32
    stride: int
    warps: int

    def init(self) -> None:
        """Set the mbarriers up, by one thread."""
        for barrier in range(BARRIERS):
            cute.arch.mbarrier_init(self.barriers + barrier, self.members * self.warps)

    def rank(self, member: Int32 | int) -> Int32:
        return self.first + member * self.stride

    def acquire(self, turn: Int32) -> None:
        """Wait until everybody has read what we wrote in the turn before."""
        cute.arch.mbarrier_wait(self.barriers + 1, (turn & 1) ^ 1)
        fence_acquire_shared()

    def publish(self) -> None:
        """Tell every member that this warp has written."""
        fence_release_shared()
        self._arrive(self.barriers)

    def await_peers(self, turn: Int32) -> None:
        """Wait until every warp of every member has written."""
        cute.arch.mbarrier_wait(self.barriers, turn & 1)
        fence_acquire_shared()

    @cute.jit
    def release(self, again: Boolean) -> None:
        """Tell every member that this warp has read, unless nobody will write `again`."""
        if again:
            # What was read lies in other CTAs, and the fence that is restricted to this one's leaves it out.
            cute.arch.fence_acq_rel_cluster()
            self._arrive(self.barriers + 1)

    @cute.jit
    def _arrive(self, barrier: cute.Pointer) -> None:
        # The warp's other lanes become visible through its own barrier, then lane i tells member i.
        cute.arch.sync_warp()
        lane = cute.arch.lane_idx()
        # Every lane names a CTA that exists, because the compiler takes the address out of the condition.
        rank = self.rank(lane % self.members)
        if lane < self.members:
            cute.arch.mbarrier_arrive(barrier, rank)

    def address(self, tensor: cute.Tensor, member: Int32 | int) -> cute.Pointer:
        """Where `tensor`, a tensor in our shared memory, begins in that of `member`."""
        return cute.arch.map_dsmem_ptr(tensor.iterator, self.rank(member))

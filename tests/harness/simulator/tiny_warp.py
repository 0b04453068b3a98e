"""Tiny kernels of threads among themselves: warps, divergence, barriers, atomics, dependent launches."""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32
from cutlass.memory import SmemAllocator

from tests.harness.simulator.tiny_dsl import compile_block, compile_launch

WARP = 32
WARPGROUP = 128


def compile_shuffles() -> Any:
    """Int32 [32] -> [32, 9]: one warp's shuffles, votes and reductions, a column each."""

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        lane, _, _ = cute.arch.thread_idx()
        value = x[lane]
        odd = value % 2 != 0
        y[lane, 0] = cute.arch.shuffle_sync(value, (lane * 7 + 3) % WARP)
        y[lane, 1] = cute.arch.shuffle_sync_up(value, 3, mask_and_clamp=0)
        y[lane, 2] = cute.arch.shuffle_sync_down(value, 5)
        y[lane, 3] = cute.arch.shuffle_sync_bfly(value, 16)
        y[lane, 4] = cute.arch.vote_ballot_sync(odd)
        y[lane, 5] = Int32(cute.arch.vote_any_sync(odd))
        y[lane, 6] = Int32(cute.arch.vote_all_sync(odd))
        y[lane, 7] = cute.arch.warp_redux_sync(value, "add")
        y[lane, 8] = cute.arch.warp_redux_sync(value, "max")

    return compile_block(kernel, (Int32, (WARP,)), (Int32, (WARP, 9)), grid=(1, 1, 1), block=(WARP, 1, 1))


def compile_divergence() -> Any:
    """Int32 [32] -> [32, 2]: the Collatz sequence's steps and its largest number; lanes leave one by one."""

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        lane, _, _ = cute.arch.thread_idx()
        value, steps, largest = x[lane], Int32(0), x[lane]
        while value > 1:
            if value % 2 == 0:  # noqa: SIM108 - a branch, not a select
                value = value // 2
            else:
                value = 3 * value + 1
            if value > largest:
                largest = value
            steps += 1
        y[lane, 0] = steps
        y[lane, 1] = largest

    return compile_block(kernel, (Int32, (WARP,)), (Int32, (WARP, 2)), grid=(1, 1, 1), block=(WARP, 1, 1))


def compile_named_barriers(steps: int) -> Any:
    """Int32 [steps, 32] -> [32]: one warp hands rows to another, which sums them weighted.

    Barrier 1 says that the one buffer is full, barrier 2 that it is empty: one warp syncs, the other arrives.
    """
    full, empty = 1, 2

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        thread, _, _ = cute.arch.thread_idx()
        lane = thread % WARP
        buffer = SmemAllocator().allocate_tensor(Int32, cute.make_layout(WARP), 16)
        if thread < WARP:
            for step in cutlass.range(steps, unroll=1):
                cute.arch.barrier(barrier_id=empty, number_of_threads=2 * WARP)
                buffer[lane] = x[step, lane]
                cute.arch.barrier_arrive(barrier_id=full, number_of_threads=2 * WARP)
        else:
            total = Int32(0)
            cute.arch.barrier_arrive(barrier_id=empty, number_of_threads=2 * WARP)
            for step in cutlass.range(steps, unroll=1):
                cute.arch.barrier(barrier_id=full, number_of_threads=2 * WARP)
                total += (step + 1) * buffer[(lane + 1) % WARP]
                if step + 1 < steps:
                    cute.arch.barrier_arrive(barrier_id=empty, number_of_threads=2 * WARP)
            y[lane] = total

    return compile_block(
        kernel, (Int32, (steps, WARP)), (Int32, (WARP,)), grid=(1, 1, 1), block=(2 * WARP, 1, 1)
    )


def compile_register_split() -> Any:
    """Float32 [256] -> [256]: two warpgroups, one of which gives registers to the other."""

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        thread, _, _ = cute.arch.thread_idx()
        if thread < WARPGROUP:
            cute.arch.setmaxregister_decrease(40)
            y[thread] = x[thread] + 1.0
        else:
            cute.arch.setmaxregister_increase(232)
            y[thread] = x[thread] * 2.0

    size = 2 * WARPGROUP
    return compile_block(
        kernel,
        (Float32, (size,)),
        (Float32, (size,)),
        grid=(1, 1, 1),
        block=(size, 1, 1),
        min_blocks_per_mp=1,
    )


def compile_atomics(blocks: int, threads: int) -> Any:
    """Int32 x [blocks * threads] into y [16], which the caller fills: y[0:8] is the histogram of x % 8.

    y[8] sum, y[9] largest, y[10] smallest, y[11] and, y[12] or, y[13] xor, y[14] product mod 2^32 by compare
    and swap, y[15] the sum of halves as fp32 bits.
    """

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        block, _, _ = cute.arch.block_idx()
        thread, _, _ = cute.arch.thread_idx()
        value = x[block * threads + thread]
        cute.arch.atomic_add(y.iterator + value % 8, Int32(1))
        cute.arch.atomic_add(y.iterator + 8, value)
        cute.arch.atomic_max(y.iterator + 9, value)
        cute.arch.atomic_min(y.iterator + 10, value)
        cute.arch.atomic_and(y.iterator + 11, value)
        cute.arch.atomic_or(y.iterator + 12, value)
        cute.arch.atomic_xor(y.iterator + 13, value)
        seen, found = y[14], Int32(0)
        swapped = Boolean(False)
        while not swapped:
            found = cute.arch.atomic_cas(y.iterator + 14, cmp=seen, val=seen * (2 * value + 1))
            swapped = found == seen
            seen = found
        floats = cute.recast_ptr(y.iterator, dtype=Float32)
        cute.arch.atomic_add(floats + 15, Float32(value) * 0.5)

    size = blocks * threads
    return compile_block(kernel, (Int32, (size,)), (Int32, (16,)), grid=(blocks, 1, 1), block=(threads, 1, 1))


def compile_dependent_launch(size: int) -> Any:
    """Float32 [size] -> [size]: two kernels, of which the second may start early and waits for the first."""

    @cute.kernel
    def first(x: cute.Tensor, y: cute.Tensor) -> None:
        thread, _, _ = cute.arch.thread_idx()
        cute.arch.griddepcontrol_launch_dependents()
        y[thread] = x[thread] + 1.0

    @cute.kernel
    def second(y: cute.Tensor) -> None:
        thread, _, _ = cute.arch.thread_idx()
        cute.arch.griddepcontrol_wait()
        y[thread] = y[thread] * 3.0

    @cute.jit
    def launch(x: cute.Tensor, y: cute.Tensor, stream: Any) -> None:
        first(x, y).launch(grid=(1, 1, 1), block=(size, 1, 1), stream=stream)
        second(y).launch(grid=(1, 1, 1), block=(size, 1, 1), stream=stream, use_pdl=True)

    return compile_launch(launch, (Float32, (size,)), (Float32, (size,)))

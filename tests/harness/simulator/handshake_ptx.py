"""A PTX kernel that hands an accumulator back and forth between four epilogue warps and an MMA warp.

The epilogue warps fill tensor memory with zeros (`tcgen05.st`); then, for two rounds, the MMA warp adds a
product of matrices of ones, K = 16, and the epilogue warps read the sum and release the accumulator. Thread t
stores the sum of row t after each round. Lines that matter have a name, so that a test can leave them out.
"""

from __future__ import annotations

import ctypes
import re

import numpy as np

from harness.simulator.global_memory import GlobalMemory
from harness.simulator.grids import Grids
from harness.simulator.launch import Launch
from harness.simulator.loaded import load
from harness.simulator.run import execute

ROUNDS = 2
ROWS = 128
COLUMNS = 32
MMA_K = 16
EPILOGUE_WARPS = 4
THREADS = ROWS + 32
# fp32 D, f16 A and B, N / 8 from bit 17, M / 16 from bit 24 (PTX ISA, "Instruction descriptor").
INSTRUCTION_DESCRIPTOR = 1 << 4 | COLUMNS // 8 << 17 | ROWS // 16 << 24
# K-major without swizzle: 128 bytes to the next core matrix along K, 256 along the rows; version 1 in bit 46.
MATRIX_DESCRIPTOR = 128 >> 4 << 16 | 256 >> 4 << 32 | 1 << 46
B_OFFSET = ROWS * MMA_K * 2
FULL, FREE, ADDRESS = 6144, 6152, 6160

_REGISTERS = ", ".join(f"%r{16 + i}" for i in range(COLUMNS))
_ZEROS = ", ".join(["%r15"] * COLUMNS)

KERNEL = f"""
.version 8.7
.target sm_100a
.address_size 64
.shared .align 1024 .b8 smem[8192];
.visible .entry handshake(.param .u64 out)
.reqntid {THREADS}, 1, 1
{{
    .reg .pred %p<10>;
    .reg .b32 %r<64>;
    .reg .b64 %rd<16>;
    mov.u32 %r0, %tid.x;
    shr.u32 %r1, %r0, 5;
    and.b32 %r8, %r0, 31;
    mov.b32 %r2, smem;
    ld.param.b64 %rd0, [out];
    setp.ne.b32 %p0, %r0, 0;
    @%p0 bra INITIALIZED;
    mbarrier.init.shared.b64 [%r2+{FULL}], 1;
    mbarrier.init.shared.b64 [%r2+{FREE}], {EPILOGUE_WARPS};
INITIALIZED:
    setp.ne.b32 %p1, %r1, 0;
    @%p1 bra ALLOCATED;
    tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r2+{ADDRESS}], 32; //<alloc>
    tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned; //<relinquish>
ALLOCATED:
    shl.b32 %r3, %r0, 5;
    add.s32 %r3, %r3, %r2;
    mov.b32 %r4, 0x3C003C00;
    st.shared.v4.b32 [%r3], {{%r4, %r4, %r4, %r4}};
    st.shared.v4.b32 [%r3+16], {{%r4, %r4, %r4, %r4}};
    fence.proxy.async.shared::cta; //<proxy fence>
    bar.sync 0;
    ld.shared.b32 %r5, [%r2+{ADDRESS}];
    setp.eq.b32 %p2, %r1, {EPILOGUE_WARPS};
    @%p2 bra MULTIPLY;
    shl.b32 %r7, %r1, 21;
    add.s32 %r7, %r7, %r5; //<quarter>
    mov.b32 %r15, 0;
    tcgen05.st.sync.aligned.32x32b.x{COLUMNS}.b32 [%r7], {{{_ZEROS}}}; //<zeros>
    tcgen05.wait::st.sync.aligned; //<wait st>
    tcgen05.fence::before_thread_sync; //<before zeros>
    bar.sync 1, {THREADS};
    mov.b32 %r6, 0;
EPILOGUE:
FULL_WAIT:
    mbarrier.try_wait.parity.shared.b64 %p3, [%r2+{FULL}], %r6; //<full wait>
    @!%p3 bra FULL_WAIT; //<full wait>
    tcgen05.fence::after_thread_sync; //<after full>
    tcgen05.ld.sync.aligned.32x32b.x{COLUMNS}.b32 {{{_REGISTERS}}}, [%r7];
    tcgen05.wait::ld.sync.aligned; //<wait ld>
    tcgen05.fence::before_thread_sync; //<before free>
    setp.ne.b32 %p4, %r8, 0;
    @%p4 bra RELEASED;
    mbarrier.arrive.shared.b64 _, [%r2+{FREE}];
RELEASED: //<released>
    mad.lo.s32 %r9, %r6, {ROWS}, %r0;
    mul.wide.u32 %rd1, %r9, 4;
    add.s64 %rd1, %rd1, %rd0;
    st.global.b32 [%rd1], %r16;
    add.s32 %r6, %r6, 1;
    setp.lt.s32 %p5, %r6, {ROUNDS};
    @%p5 bra EPILOGUE;
    bar.sync 2, {ROWS};
    tcgen05.fence::after_thread_sync; //<after dealloc>
    @%p1 bra DONE;
    tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r5, 32; //<dealloc>
    bra DONE;
MULTIPLY:
    bar.sync 1, {THREADS};
    tcgen05.fence::after_thread_sync; //<after zeros>
    mov.b32 %r10, {INSTRUCTION_DESCRIPTOR};
    shr.u32 %r11, %r2, 4;
    cvt.u64.u32 %rd2, %r11;
    or.b64 %rd3, %rd2, {MATRIX_DESCRIPTOR};
    add.s64 %rd4, %rd3, {B_OFFSET >> 4};
    setp.eq.b32 %p6, %r8, 0;
    mov.pred %p8, -1;
    mov.b32 %r6, 0;
ROUND:
    setp.eq.b32 %p7, %r6, 0;
    @%p7 bra ISSUE;
    sub.s32 %r12, %r6, 1;
FREE_WAIT:
    mbarrier.try_wait.parity.shared.b64 %p3, [%r2+{FREE}], %r12; //<free wait>
    @!%p3 bra FREE_WAIT; //<free wait>
    tcgen05.fence::after_thread_sync; //<after free>
ISSUE:
    @%p6 tcgen05.mma.cta_group::1.kind::f16.collector::a::discard [%r5], %rd3, %rd4, %r10, %p8; //<product>
    @%p6 tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r2+{FULL}]; //<commit>
    add.s32 %r6, %r6, 1;
    setp.lt.s32 %p5, %r6, {ROUNDS};
    @%p5 bra ROUND;
DONE:
    ret;
}}
"""


def without(name: str) -> str:
    """The kernel without the lines called `name`."""
    assert f"//<{name}>" in KERNEL, name
    return "\n".join(line for line in KERNEL.splitlines() if not line.endswith(f"//<{name}>"))


def with_line(name: str, replacement: str) -> str:
    """The kernel with another line in place of the one called `name`."""
    changed, count = re.subn(rf"[^\n]*//<{re.escape(name)}>", replacement, KERNEL)
    assert count == 1, name
    return changed


def run(ptx: str, implied_order: bool = False) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Run the kernel; the sums [rounds, rows] that it stores."""
    out = np.full((ROUNDS, ROWS), np.nan, np.float32)
    memory = GlobalMemory()
    memory.register("out", out.ctypes.data, out.nbytes)
    pointer = bytes(ctypes.c_uint64(out.ctypes.data))
    launch = Launch("handshake", (1, 1, 1), (THREADS, 1, 1), (1, 1, 1), 0, (pointer,))
    kernel = load(ptx)["handshake"]
    execute(kernel, Grids.of_launch(kernel, launch, memory), implied_order=implied_order)
    return out

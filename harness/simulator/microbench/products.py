"""wgmma: m64nNk16 of bf16, operands in shared memory with the 128-byte swizzle.

`steps` products make a group. Waiting for each group gives latency plus products; leaving one in flight gives
the rate.
"""

from __future__ import annotations

from harness.simulator.microbench.micro import Micro, Run, timed_loop

COLUMNS = (16, 32, 64, 96, 128, 192, 256)
LOOPS = 32
# (products of a group, groups left in flight)
GROUPS = ((1, 0), (4, 0), (16, 0), (4, 1))
A_BYTES, B_BYTES = 64 * 128, 256 * 128
# PTX ISA, "Asynchronous warpgroup level matrix shared memory layout: matrix descriptor": leading byte offset
# 1 (unused with a swizzle), stride byte offset 1024, 128-byte swizzle.
DESCRIPTOR = 1 << 62 | (1024 >> 4) << 32 | 1 << 16


def micros() -> list[Micro]:
    alone = [_micro(n, steps, left, 1) for n in COLUMNS for steps, left in GROUPS]
    together = [_micro(n, 4, 1, 2) for n in (32, 64, 128, 192)]
    return [*alone, *together]


def _micro(n: int, steps: int, left: int, warpgroups: int) -> Micro:
    registers = [f"d{number}" for number in range(n // 2)]
    names = ", ".join(registers)
    setup = f"""
.reg .b32 {names};
.reg .b64 a, b, a0, a1, a2, a3, b0, b1, b2, b3;
.reg .pred adds;
setp.ge.u32 adds, tid, 0;
cvt.u64.u32 a, smem;
shr.u64 a, a, 4;
or.b64 a, a, {DESCRIPTOR};
add.u64 b, a, {A_BYTES >> 4};
"""
    setup += "".join(f"add.u64 a{k}, a, {2 * k};\nadd.u64 b{k}, b, {2 * k};\n" for k in range(4))
    setup += "".join(f"mov.b32 {register}, 0;\n" for register in registers)
    products = "".join(
        f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 "
        f"{{{names}}}, a{k % 4}, b{k % 4}, adds, 1, 1, 0, 0;\n"
        for k in range(steps)
    )
    step = f"""
wgmma.fence.sync.aligned;
{products}
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned {left};
"""
    sums = "".join(f"xor.b32 d0, d0, {register};\n" for register in registers[1:])
    finish = f"""wgmma.wait_group.sync.aligned 0;
{sums}
setp.eq.u32 more, d0, 0x7ec0ffee;
@more st.global.b32 [out+120], d0;
"""
    name = f"wgmma_n{n}_steps{steps}_left{left}_groups{warpgroups}"
    body = timed_loop(setup, step, finish)
    return Micro(name, body, (Run("wgmma", parameters=(LOOPS,)),), 128 * warpgroups, 1, A_BYTES + B_BYTES)

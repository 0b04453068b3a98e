"""Hand-written PTX kernels of two operands, run without host code."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from harness.simulator.grids import Grids
from harness.simulator.launch import Launch
from harness.simulator.loaded import load
from harness.simulator.machine import Machine
from harness.simulator.run import memory_of
from harness.simulator.timing import Units

# x and y's addresses in %rd0 and %rd1; thread, CTA and the thread's number in the grid in %r0, %r1, %r2; the
# addresses of that number's 4-byte element of x and y in %rd2 and %rd3.
PROLOGUE = """
    .reg .pred %p<16>;
    .reg .b16 %rs<16>;
    .reg .b32 %r<64>;
    .reg .b64 %rd<32>;
    ld.param.b64 %rd0, [x];
    ld.param.b64 %rd1, [y];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mad.lo.s32 %r2, %r1, %r3, %r0;
    mul.wide.u32 %rd4, %r2, 4;
    add.s64 %rd2, %rd0, %rd4;
    add.s64 %rd3, %rd1, %rd4;
"""


def kernel_text(body: str, shared_bytes: int = 4096, target: str = "sm_90a") -> str:
    return f"""
.version 8.7
.target {target}
.address_size 64
.shared .align 1024 .b8 smem[{shared_bytes}];
.visible .entry kernel(.param .u64 x, .param .u64 y)
{{
{PROLOGUE}
{body}
    ret;
}}
"""


def run_ptx(
    body: str, x: Tensor, y: Tensor, threads: int = 32, ctas: int = 1, cluster: int = 1, **options: Any
) -> Machine:
    """Run `body` behind the prologue; `options` are the machine's (`max_blocks`, `apart`)."""
    kernel = load(kernel_text(body))["kernel"]
    params = tuple(np.uint64(tensor.data_ptr()).tobytes() for tensor in (x, y))
    launch = Launch("kernel", (ctas, 1, 1), (threads, 1, 1), (cluster, 1, 1), 0, params)
    clusters = np.arange(ctas // cluster)
    grids = Grids.of_launch(kernel, launch, memory_of([x, y]))
    machine = Machine(kernel, grids, clusters, Units(kernel.target), **options)
    machine.run()
    return machine

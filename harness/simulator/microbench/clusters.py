"""Distributed shared memory by access pattern and cluster size: what a warp's load from other CTAs costs.

`rows`: a warp reads two neighbouring words in each of 16 rows of the next CTA, as a K split adds up
accumulators: 16 segments of 32 bytes. `lists`: each lane reads a list of its own, of another CTA than its
neighbour's, as a merge of top-k lists does: 32 segments. Each on one cluster, and on as many as the chip
holds.
"""

from __future__ import annotations

from harness.simulator.microbench.micro import Micro, Run, keep, timed_loop
from harness.simulator.microbench.sync import CLUSTER_SYNC

CLUSTERS = (2, 4, 8, 16)
# Of each size that an H100 holds at once (results/published/2026-11-24-h100-microbench): all of them.
RESIDENT = {2: 66, 4: 30, 8: 15, 16: 7}
THREADS = 512
LOOPS = 32
UNROLL = 32
ROW_BYTES = 272  # 64 fp32 and the padding of the router's partial accumulators
LIST_BYTES = 4 * UNROLL
SHARED_BYTES = THREADS // 2 * ROW_BYTES

ROWS = f"""
rem.u32 peer, peer, size;
shr.u32 at, tid, 1;
mul.lo.u32 at, at, {ROW_BYTES};
and.b32 v, tid, 1;
mad.lo.u32 at, v, 4, at;
"""
LISTS = f"""
add.u32 peer, peer, tid;
rem.u32 peer, peer, size;
mul.lo.u32 at, tid, {LIST_BYTES};
"""
# Setup, and bytes from one load of a lane to its next.
PATTERNS = {"rows": (ROWS, 8), "lists": (LISTS, 4)}


def micros() -> list[Micro]:
    return [_stream(pattern, size) for pattern in PATTERNS for size in CLUSTERS]


def _stream(pattern: str, size: int) -> Micro:
    place, stride = PATTERNS[pattern]
    filled = "".join(f"st.shared.b32 [at+{first}], tid;\n" for first in range(0, SHARED_BYTES, 4 * THREADS))
    setup = f"""
.reg .b32 at, zero, peer, size, sum, v;
mov.b32 sum, 0;
mad.lo.u32 at, tid, 4, smem;
{filled}
barrier.cluster.arrive;
barrier.cluster.wait;
mov.b32 size, {size};
mov.u32 peer, %cluster_ctarank;
add.u32 peer, peer, 1;
{place}
add.u32 at, at, smem;
mapa.shared::cluster.u32 at, at, peer;
"""
    # The address changes by a zero that the compiler does not know, so that no access is left out.
    step = "and.b32 zero, turn, p6;\nxor.b32 at, at, zero;\n"
    step += "".join(
        f"ld.shared::cluster.b32 v, [at+{number * stride}];\nxor.b32 sum, sum, v;\n"
        for number in range(UNROLL)
    )
    body = timed_loop(setup, step, keep(["sum", "v"]) + CLUSTER_SYNC, CLUSTER_SYNC)
    runs = (Run("one", size, (LOOPS,)), Run("all", size * RESIDENT[size], (LOOPS,)))
    return Micro(f"cluster_{pattern}_{size}", body, runs, THREADS, size, SHARED_BYTES)

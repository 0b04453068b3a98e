"""Loads, stores, atomics and fences by ordinary instructions: shared memory, the cluster's, global memory."""

from __future__ import annotations

from harness.simulator.microbench.micro import Micro, Run, keep, timed_loop
from harness.simulator.microbench.sync import CLUSTER_SYNC

UNROLL = 32
LOOPS = 32
STREAM_THREADS = 512
ATOMICS = 256
FENCES_IN_TURN = 8
FENCES_IN_ALL = LOOPS * FENCES_IN_TURN
LINE = 1024  # bytes between two loads of the chase through global memory
CHASE_LOADS = 4096  # 4 MB: more than an L1, much less than the L2


def micros() -> list[Micro]:
    return [
        _shared_chase(),
        _cluster_chase(),
        *(_shared_stream(op, width) for op in ("ld", "st") for width in (1, 4)),
        _shared_stream("ld", 1, remote=True),
        _global_chase(),
        _global_stream("ld"),
        _global_stream("st"),
        _atomic("acq_rel"),
        _atomic("relaxed"),
        *(_fence(name, ptx) for name, ptx in FENCES.items()),
    ]


FENCES = {
    "fence_proxy_async": "fence.proxy.async.shared::cta;",
    "fence_acq_rel_gpu": "fence.acq_rel.gpu;",
    "fence_acq_rel_cluster": "fence.acq_rel.cluster;",
    "fence_acq_rel_cta": "fence.acq_rel.cta;",
    "store_fence_acq_rel_gpu": "st.global.b32 [out+64], turn; fence.acq_rel.gpu;",
    "store_fence_proxy_async": "st.shared.b32 [smem], turn; fence.proxy.async.shared::cta;",
    "fence_mbarrier_init": "fence.mbarrier_init.release.cluster;",
    "fence_release_sync_restrict": "fence.release.sync_restrict::shared::cta.cluster;",
    "fence_acquire_sync_restrict": "fence.acquire.sync_restrict::shared::cluster.cluster;",
    "store_fence_release_sync_restrict": "st.shared.b32 [smem], turn; "
    "fence.release.sync_restrict::shared::cta.cluster;",
}


def _shared_chase() -> Micro:
    """Each load gives the address of the next: that same place."""
    setup = ".reg .b32 at;\nmov.b32 at, smem;\nst.shared.b32 [smem], at;\n"
    body = timed_loop(setup, "ld.shared.b32 at, [at];\n" * UNROLL, keep(["at"]))
    return Micro("chase_shared", body, (Run("shared", parameters=(LOOPS,)),), smem_bytes=1024)


def _cluster_chase() -> Micro:
    """Loads from the other CTA's shared memory; each adds what it loaded, a zero, to the next address."""
    setup = f"""
.reg .b32 at, v, peer;
mov.u32 peer, %cluster_ctarank;
xor.b32 peer, peer, 1;
st.shared.b32 [smem], p6;
mapa.shared::cluster.u32 at, smem, peer;
{CLUSTER_SYNC}"""
    step = "ld.shared::cluster.b32 v, [at];\nadd.u32 at, at, v;\n" * UNROLL
    body = timed_loop(setup, step, keep(["at"]) + CLUSTER_SYNC, CLUSTER_SYNC)
    return Micro("chase_cluster", body, (Run("cluster", 2, (LOOPS,)),), cluster=2, smem_bytes=1024)


def _shared_stream(op: str, width: int, remote: bool = False) -> Micro:
    """Sixteen warps, each lane a place of its own without bank conflicts."""
    count = UNROLL if width == 1 else UNROLL // 2
    sync = CLUSTER_SYNC if remote else "bar.sync 0;\n"
    values = [f"v{number}" for number in range(8)]
    # The address changes by a zero that the compiler does not know, so that no access is left out.
    setup = f".reg .b32 at, zero, peer, sum, {', '.join(values)};\nmov.b32 sum, 0;\n"
    setup += f"mul.lo.u32 at, tid, {4 * width};\nadd.u32 at, at, smem;\n"
    setup += "".join(f"mov.b32 {value}, tid;\n" for value in values)
    if remote:
        setup += "mov.u32 peer, %cluster_ctarank;\nxor.b32 peer, peer, 1;\n"
        setup += "mapa.shared::cluster.u32 at, at, peer;\n"
    step = "and.b32 zero, turn, p6;\nxor.b32 at, at, zero;\n"
    space = "shared::cluster" if remote else "shared"
    for number in range(count):
        chosen = [values[(number * width + part) % 8] for part in range(width)]
        registers = chosen[0] if width == 1 else "{" + ", ".join(chosen) + "}"
        address = f"[at+{number * STREAM_THREADS * 4 * width}]"
        operands = f"{registers}, {address}" if op == "ld" else f"{address}, {registers}"
        step += f"{op}.{space}{'' if width == 1 else '.v4'}.b32 {operands};\n"
        if op == "ld":
            step += "".join(f"xor.b32 sum, sum, {value};\n" for value in chosen)
    body = timed_loop(setup, step, keep(["sum", *values]) + (sync if remote else ""), sync)
    name = f"stream_{op}_{'cluster' if remote else 'shared'}_v{width}"
    smem = count * STREAM_THREADS * 4 * width
    cluster = 2 if remote else 1
    return Micro(name, body, (Run(name, cluster, (LOOPS,)),), STREAM_THREADS, cluster, smem)


def _global_chase() -> Micro:
    """One thread; the next address depends on the value loaded, times a zero unknown to the compiler."""
    setup = ".reg .b64 at;\n.reg .b32 v;\nmov.b64 at, src;\n"
    step = f"ld.global.b32 v, [at];\nmad.wide.u32 at, v, p6, at;\nadd.u64 at, at, {LINE};\n"
    body = timed_loop(setup, step, keep(["v"]))
    runs = (Run("l2", parameters=(CHASE_LOADS,)), Run("dram", parameters=(CHASE_LOADS,), flush=True))
    return Micro("chase_global", body, runs, 1)


def _global_stream(op: str) -> Micro:
    """Sixteen warps access whole lines of the same 16 KB: what an access costs to issue."""
    values = [f"v{number}" for number in range(8)]
    setup = f".reg .b64 at;\n.reg .b32 {', '.join(values)};\nmad.wide.u32 at, tid, 4, src;\n"
    setup += "".join(f"mov.b32 {value}, tid;\n" for value in values)
    setup += ".reg .b32 zero, sum;\nmov.b32 sum, 0;\n"
    step = "and.b32 zero, turn, p6;\nmad.wide.u32 at, zero, 4, at;\n"
    for number, value in enumerate(values):
        address = f"[at+{number * STREAM_THREADS * 4}]"
        step += f"{op}.global.b32 {f'{value}, {address}' if op == 'ld' else f'{address}, {value}'};\n"
        step += f"xor.b32 sum, sum, {value};\n" if op == "ld" else ""
    body = timed_loop(setup, step, keep(["sum", *values]))
    return Micro(f"stream_{op}_global", body, (Run(op, parameters=(LOOPS,)),), STREAM_THREADS)


def _atomic(order: str) -> Micro:
    """One thread; each atomic adds what the one before returned, times an unknown zero."""
    step = f"and.b32 v, v, p6;\natom.global.add.{order}.gpu.u32 v, [out+64], v;\n" * 4
    body = timed_loop(".reg .b32 v;\nmov.b32 v, 0;\n", step, keep(["v"]))
    return Micro(f"chase_atomic_{order}", body, (Run("atomic", parameters=(ATOMICS // 4,)),), 1)


def _fence(name: str, ptx: str) -> Micro:
    body = timed_loop("", (ptx + "\n") * FENCES_IN_TURN)
    return Micro(f"repeat_{name}", body, (Run(name, parameters=(LOOPS,)),), 128, 1, 1024)

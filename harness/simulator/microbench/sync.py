"""Synchronization: named barriers, mbarriers between warps and between CTAs, the cluster's barrier."""

from __future__ import annotations

from harness.simulator.microbench.micro import Micro, Run, timed_loop

LOOPS = 64
CLUSTERS = (2, 4, 8, 16)
# Not `.aligned`: one thread of a warp may come later than the others.
CLUSTER_SYNC = "barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait;\n"
SHARED_BYTES = 1024


def micros() -> list[Micro]:
    barriers = [
        Micro(
            f"bar_sync_{threads}",
            timed_loop("", "bar.sync 0;\n" * 4),
            (Run("bar", parameters=(LOOPS,)),),
            threads,
        )
        for threads in (32, 128, 256, 384)
    ]
    clusters = [
        Micro(
            f"cluster_{name}_{size}",
            timed_loop(
                "",
                f"barrier.cluster.arrive{suffix}.aligned;\nbarrier.cluster.wait.aligned;\n" * 4,
                CLUSTER_SYNC,
            ),
            (Run("cluster", ctas=size, parameters=(LOOPS,)),),
            128,
            size,
        )
        for size in CLUSTERS
        for name, suffix in (("release", ""), ("relaxed", ".relaxed"))
    ]
    return [*barriers, *clusters, *_arrivals(), _try_wait(), _ping_pong(), *_remote_ping_pongs()]


def wait(number: str, barrier: str, parity: str) -> str:
    """PTX that waits for a phase of an mbarrier; `number` makes its labels unique."""
    return f"""
WAIT{number}:
mbarrier.try_wait.parity.shared.b64 ready, [{barrier}], {parity};
@ready bra READY{number};
bra WAIT{number};
READY{number}:
"""


_SETUP = """
.reg .b32 parity, there, mine, role;
.reg .pred ready, first, other;
mov.b32 parity, 0;
setp.eq.u32 first, tid, 0;
@first mbarrier.init.shared.b64 [smem], 1;
@first mbarrier.init.shared.b64 [smem+8], 1;
@first fence.mbarrier_init.release.cluster;
"""


ARRIVALS = {
    "arrive": "mbarrier.arrive.shared.b64 _, [smem];",
    "arrive_expect_tx": "mbarrier.arrive.expect_tx.shared.b64 _, [smem], 0;",
}


def _arrivals() -> list[Micro]:
    """One thread; each arrival completes a phase."""
    runs = (Run("arrive", parameters=(LOOPS,)),)
    return [
        Micro(f"repeat_{name}", timed_loop(_SETUP, f"{ptx}\n" * 8), runs, 1, 1, SHARED_BYTES)
        for name, ptx in ARRIVALS.items()
    ]


def _try_wait() -> Micro:
    """A phase that completed long ago: parity 1 of a new barrier."""
    setup = _SETUP + "mov.b32 parity, 1;\nbar.sync 0;\n"
    step = "".join(wait(str(number), "smem", "parity") for number in range(8))
    return Micro(
        "try_wait_complete", timed_loop(setup, step), (Run("wait", parameters=(LOOPS,)),), 32, 1, SHARED_BYTES
    )


def _ping_pong() -> Micro:
    """Two warps: each waits for the other's arrival, then arrives. A turn is two arrivals seen."""
    setup = _SETUP + "shr.u32 role, tid, 5;\nsetp.ne.u32 other, role, 0;\nbar.sync 0;\n"
    step = f"""
@other bra OTHER;
mbarrier.arrive.shared.b64 _, [smem];
{wait("A", "smem+8", "parity")}
bra BOTH;
OTHER:
{wait("B", "smem", "parity")}
mbarrier.arrive.shared.b64 _, [smem+8];
BOTH:
xor.b32 parity, parity, 1;
"""
    # One thread of each warp plays: the barriers expect one arrival.
    setup += "and.b32 mine, tid, 31;\nsetp.ne.u32 ready, mine, 0;\n@ready bra IDLE;\n"
    body = timed_loop(setup, step, "IDLE:\n", before="")
    return Micro("ping_pong", body, (Run("wait", parameters=(LOOPS * 4,)),), 64, 1, SHARED_BYTES)


def _remote_ping_pongs() -> list[Micro]:
    """The same between two CTAs of a cluster, one thread of each."""
    return [_remote_ping_pong("", ""), _remote_ping_pong("_release", ".release.cluster")]


def _remote_ping_pong(name: str, order: str) -> Micro:
    setup = f"""{_SETUP}
mov.u32 role, %cluster_ctarank;
setp.ne.u32 other, role, 0;
xor.b32 role, role, 1;
mapa.shared::cluster.u32 there, smem, role;
{CLUSTER_SYNC}
@!first bra IDLE;
"""
    arrive = f"mbarrier.arrive{order}.shared::cluster.b64 _, [there];\n"
    step = f"""
@other bra OTHER;
{arrive}
{wait("A", "smem", "parity")}
bra BOTH;
OTHER:
{wait("B", "smem", "parity")}
{arrive}
BOTH:
xor.b32 parity, parity, 1;
"""
    body = timed_loop(setup, step, f"IDLE:\n{CLUSTER_SYNC}", before="")
    return Micro(f"ping_pong_remote{name}", body, (Run("wait", 2, (LOOPS * 4,)),), 32, 2, SHARED_BYTES)

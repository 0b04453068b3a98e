"""Launching: an empty kernel in a CUDA graph, and from a CTA's end to the next one's start on its SM."""

from __future__ import annotations

from harness.simulator.microbench.micro import Micro, Run, clock, store

BIG_SHARED_BYTES = 200 * 1024  # one CTA on an SM
SPIN_CYCLES = 4000
LONG_SPIN_CYCLES = 4_000_000
SMS = 132


def micros() -> list[Micro]:
    few, many = Run("graph_1", 1, graph=True), Run("graph_132", SMS, graph=True)
    sixteen = Run("graph_16", 16, graph=True)
    return [
        Micro("empty", "", (few, many, Run("graph_1320", 10 * SMS, graph=True))),
        Micro("empty_big", "", (few, many), 384, 1, BIG_SHARED_BYTES),
        Micro("empty_cluster4", "", (Run("graph_4", 4, graph=True), many), 384, 4, BIG_SHARED_BYTES),
        Micro("empty_cluster16", "", (sixteen, Run("graph_112", 112, graph=True)), 384, 16, BIG_SHARED_BYTES),
        Micro("spin", _spin(SPIN_CYCLES), _spin_runs(1), 384, 1, BIG_SHARED_BYTES),
        Micro("spin_cluster2", _spin(SPIN_CYCLES), _spin_runs(2), 384, 2, BIG_SHARED_BYTES),
        Micro("spin_cluster4", _spin(SPIN_CYCLES), _spin_runs(4), 384, 4, BIG_SHARED_BYTES),
        Micro(
            "clock", _spin(LONG_SPIN_CYCLES), (Run("clock", 1, whole=True), Run("clock_all", SMS, whole=True))
        ),
    ]


def _spin_runs(cluster: int) -> tuple[Run, ...]:
    return (
        Run("graph_few", cluster, graph=True),
        Run("graph_132", SMS, graph=True),
        Run("graph_264", 2 * SMS, graph=True),
        Run("graph_528", 4 * SMS, graph=True),
        Run("waves", 8 * SMS, repeats=3, whole=True),
    )


def _spin(cycles: int) -> str:
    """Columns: clock at the start and the end, nanoseconds at both, the SM."""
    return f"""
.reg .b64 begin, end, now, first, last, sm;
.reg .b32 which;
.reg .pred more, idle;
{clock("begin")}
mov.u64 first, %globaltimer;
SPIN:
{clock("now")}
sub.u64 now, now, begin;
setp.lt.u64 more, now, {cycles};
@more bra SPIN;
mov.u64 last, %globaltimer;
{clock("end")}
mov.u32 which, %smid;
cvt.u64.u32 sm, which;
setp.ne.u32 idle, tid, 0;
@idle bra DONE;
{store(0, "begin")}{store(1, "end")}{store(2, "first")}{store(3, "last")}{store(4, "sm")}
DONE:
"""

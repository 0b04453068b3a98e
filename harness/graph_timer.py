"""Kernel time on a CUDA device: graphs of many launches, replayed between events.

A graph takes the host out of the measurement: launches follow each other as fast as the device can start
them. Every function here expects launches that keep nothing of what they allocate and use the current
stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from harness.timing import rounds_per_replay

Launch = Callable[[], Any]

# Replays before the first sample: they bring the clock up and the graph onto the device.
WARMUP_REPLAYS = 3


def time_launches(
    launches: Sequence[Launch], samples: int, *, during: Callable[[], None] = lambda: None
) -> list[float]:
    """Microseconds per launch, once for each of `samples` replays of a graph that repeats `launches`.

    Args:
        launches: one round; it is repeated until a replay is long enough (`harness.timing.REPLAY_US`).
        during: called while the device is busy with the samples.
    """
    one_round = _capture(launches)
    (round_us,) = _replay(one_round, 1)
    rounds = rounds_per_replay(round_us, len(launches))
    graph = one_round if rounds == 1 else _capture(list(launches) * rounds)
    per_launch = rounds * len(launches)
    return [us / per_launch for us in _replay(graph, samples, during)]


@dataclass
class _Captures:
    """Where graphs are captured: one stream, and the memory of the graph before, which is not replayed again
    or only by turns with the next.

    With a stream and a pool for each, what launches allocate is kept for each of 32 streams and for every
    graph that lives: quantization by torch filled an H200's 140 GB (2026-11-28).
    """

    stream: torch.cuda.Stream
    latest: torch.cuda.CUDAGraph | None = None


@cache
def _captures(device: int) -> _Captures:
    return _Captures(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def _capture(launches: Sequence[Launch]) -> torch.cuda.CUDAGraph:
    captures = _captures(torch.cuda.current_device())
    stream = captures.stream
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        launches[0]()  # the first launch loads the module, which a capture does not allow
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    # Not `torch.cuda.graph`: it empties the allocator's cache each time.
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=None if captures.latest is None else captures.latest.pool())
        try:
            for launch in launches:
                launch()
        finally:
            graph.capture_end()
    captures.latest = graph
    return graph


def _replay(
    graph: torch.cuda.CUDAGraph, samples: int, during: Callable[[], None] = lambda: None
) -> list[float]:
    """Microseconds of each of `samples` replays, after the warm-up."""
    for _ in range(WARMUP_REPLAYS):
        graph.replay()
    events = [(_timing_event(), _timing_event()) for _ in range(samples)]
    for begin, end in events:
        begin.record()
        graph.replay()
        end.record()
    during()
    torch.cuda.synchronize()
    return [1e3 * begin.elapsed_time(end) for begin, end in events]


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

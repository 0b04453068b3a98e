"""All micro-benchmarks, by group. Importing this needs no compiler."""

from __future__ import annotations

from harness.simulator.microbench import (
    arithmetic,
    clusters,
    fetch,
    launches,
    memory,
    patterns,
    products,
    sync,
    tiles,
)
from harness.simulator.microbench.micro import Micro

GROUPS = {
    "launches": launches.micros,
    "arithmetic": arithmetic.micros,
    "memory": memory.micros,
    "sync": sync.micros,
    "products": products.micros,
    "tiles": tiles.micros,
    "fetch": fetch.micros,
    "clusters": clusters.micros,
    # Last: they store zeros in the source that others read.
    "patterns": patterns.micros,
}


def catalogue() -> list[Micro]:
    """Every micro, in the order of measuring; names are unique."""
    return [micro for micros in GROUPS.values() for micro in micros()]

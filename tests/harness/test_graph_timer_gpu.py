"""Timing launches that allocate: what one graph used is there for the next."""

from __future__ import annotations

import pytest
import torch

from harness.graph_timer import time_launches

pytestmark = pytest.mark.gpu

MEBIBYTE = 1 << 20


def test_memory_does_not_grow_with_the_graphs() -> None:
    source = torch.zeros(64 * MEBIBYTE, dtype=torch.uint8, device="cuda")

    def reserved_after(timings: int) -> int:
        for _ in range(timings):
            assert all(us > 0 for us in time_launches([lambda: source + 1, lambda: source - 1], samples=2))
        return torch.cuda.memory_reserved()

    few = reserved_after(2)
    assert reserved_after(40) <= few + 128 * MEBIBYTE, "40 graphs more, each of 64 MiB at least"

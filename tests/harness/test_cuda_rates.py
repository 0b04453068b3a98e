"""The rates that floors are made of, on a real GPU."""

from __future__ import annotations

import pytest
import torch

from harness.cuda_runner import CudaRunner

pytestmark = pytest.mark.gpu


def test_the_copy_rate_is_most_of_what_the_memory_can_do() -> None:
    """Between 60 and 100 % of the memory's pins: 2 transfers a clock of the whole bus."""
    properties = torch.cuda.get_device_properties("cuda")
    pins = 2 * 1e3 * properties.memory_clock_rate * properties.memory_bus_width / 8
    rate = CudaRunner().rates().copy_bytes_per_s
    print(f"copy {rate / 1e12:.2f} TB/s, pins {pins / 1e12:.2f} TB/s, {rate / pins:.0%}")
    assert 0.6 < rate / pins <= 1.0

"""What all tests share: tests marked `gpu` are skipped, with the reason, where no such GPU is."""

from __future__ import annotations

import pytest

GPU_CAPABILITY = (9, 0)


def missing_gpu() -> str:
    """Why tests marked `gpu` cannot run here; "" when they can."""
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device"
    capability = torch.cuda.get_device_capability()
    return "" if capability == GPU_CAPABILITY else f"compute capability {capability} is not {GPU_CAPABILITY}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := missing_gpu()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))

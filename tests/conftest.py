"""What all tests share: one thread of arithmetic, and a reason where tests marked `gpu` are skipped.

Test processes and those that they start share few cores, and a team of threads that must meet at every small
operation's end waits for whichever core is taken: measured, 60 to 300 times slower on two busy cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.cache import ArtifactCache
    from harness.compile_pool import CompilePool

# Before anything imports torch or numpy.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

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


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session's, the same one for all of its test processes."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def artifacts(shared_folder: Path) -> ArtifactCache:
    """Test processes ask for the same kernels, each for all of a module: the second waits for the first."""
    from harness.cache import ArtifactCache

    return ArtifactCache(shared_folder / "artifacts")


@pytest.fixture(scope="session")
def compile_pool(artifacts: ArtifactCache) -> Iterator[CompilePool]:
    """One worker for each target, for all modules: until it compiles its first kernel it takes 4 s."""
    from harness.compile_pool import CompilePool

    with CompilePool(artifacts, workers=1) as pool:
        yield pool

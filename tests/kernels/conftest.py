"""What the tests of compiled kernels share: a cache for all test processes, and a pool of compile workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cache import ArtifactCache
from harness.compile_pool import CompilePool


@pytest.fixture(scope="session")
def artifacts(shared_folder: Path) -> ArtifactCache:
    """Test processes ask for the same kernels, each for all of a module: the second waits for the first."""
    return ArtifactCache(shared_folder / "artifacts")


@pytest.fixture(scope="module")
def compile_pool(artifacts: ArtifactCache) -> Iterator[CompilePool]:
    with CompilePool(artifacts, workers=1) as pool:
        yield pool

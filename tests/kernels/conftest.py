"""What the tests of compiled kernels share: one pool of compile workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.cache import ArtifactCache
from harness.compile_pool import CompilePool


@pytest.fixture(scope="module")
def compile_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompilePool]:
    with CompilePool(ArtifactCache(tmp_path_factory.mktemp("cache")), workers=1) as pool:
        yield pool

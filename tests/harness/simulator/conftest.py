"""The simulator runs under `np.errstate(all="ignore")`: wrapping and infinities are what instructions do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(autouse=True, scope="session")
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield

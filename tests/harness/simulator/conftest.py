"""What the simulator's tests share.

The simulator runs under `np.errstate(all="ignore")`: wrapping and infinities are what instructions do.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.harness.simulator.gemm_params import GEMMS
from tests.harness.simulator.tiny_kernels import BLACKWELL


@pytest.fixture(autouse=True, scope="session")
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(scope="session")
def blackwell_gemms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Blackwell test GEMMs, compiled by a process of their own: a folder for each name in `GEMMS`."""
    folder = tmp_path_factory.mktemp("gemms")
    command = [sys.executable, "-m", "tests.harness.simulator.corpus", BLACKWELL, str(folder), *GEMMS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder

"""What the simulator's tests share: its test kernels, compiled once, and numpy without warnings.

The simulator runs under `np.errstate(all="ignore")`: wrapping and infinities are what instructions do.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from tests.harness.simulator.tiny_kernels import BLACKWELL, HOPPER


@pytest.fixture(autouse=True, scope="session")
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(scope="session")
def compiled(shared_folder: Path) -> dict[str, Path]:
    """The corpus of both targets, compiled once for all test processes: folders for each target."""
    folders = {target: shared_folder / f"corpus_{target}" for target in (HOPPER, BLACKWELL)}
    with FileLock(shared_folder / "corpus.lock"):
        if not (shared_folder / "corpus.done").exists():
            _compile(folders)
            (shared_folder / "corpus.done").touch()
    return folders


def _compile(folders: dict[str, Path]) -> None:
    """One process for each target, side by side."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.harness.simulator.corpus", target, str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for target, folder in folders.items()
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]


@pytest.fixture(scope="session")
def blackwell_gemms(compiled: dict[str, Path]) -> Path:
    """The Blackwell test GEMMs: a folder for each name in `GEMMS`."""
    return compiled[BLACKWELL]

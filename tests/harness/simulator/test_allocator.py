"""What a process frees stays with it, in a process of its own: the C library asks once how."""

from __future__ import annotations

import subprocess
import sys

import pytest

ALLOCATE_AND_FREE = """
import sys
import numpy as np
from pathlib import Path
from harness.simulator.allocator import keep_freed_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

if sys.argv[1] == "kept":
    keep_freed_memory()
before = resident_mib()
memory = np.ones(64 << 20, np.uint8)
del memory
print(resident_mib() - before)
"""


@pytest.mark.parametrize(("keeps", "least_mib", "most_mib"), [("kept", 60, 80), ("returned", -4, 4)])
def test_freed_memory_is_kept(keeps: str, least_mib: int, most_mib: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE_AND_FREE, keeps], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert least_mib <= int(done.stdout) <= most_mib

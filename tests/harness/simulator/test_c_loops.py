"""The machine's C loops are there before a candidate runs, or nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.cache import CACHE_VARIABLE
from harness.simulator import c_library, c_loops
from harness.toolchain import ToolchainError
from tests.harness.simulator.raw_ptx import run_ptx


@pytest.mark.parametrize("name", ["moves", "order", "pages", "products", "races"])
def test_a_machine_without_a_compiler_is_no_candidates_fault(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c_loops.load_loops()  # so that only the one is asked for again
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CC", "false")
    monkeypatch.setattr(c_loops, f"load_{name}", getattr(c_loops, f"load_{name}").__wrapped__)
    monkeypatch.setattr(c_library, "load", c_library.load.__wrapped__)
    some = torch.zeros(32)
    with pytest.raises(ToolchainError, match=rf"cannot compile {name}\.c"):
        run_ptx("", some, some)

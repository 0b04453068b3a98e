"""A linked launcher loads with the TVM FFI and the runtime library alone, and checks what it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.artifact import Artifact
from harness.compile_pool import CompilePool
from harness.launcher import load_launcher
from harness.toolchain import ToolchainError, runtime_library
from tests.harness.tiny_family import PROBLEM, TARGET, TinyConfig, TinyFamily


@pytest.fixture(scope="module")
def artifact(compile_pool: CompilePool) -> Artifact:
    found = compile_pool.submit(TinyFamily(), PROBLEM, TinyConfig(), TARGET).result().artifact
    assert found is not None
    return found


@pytest.mark.compiles
def test_a_launcher_refuses_tensors_that_are_not_on_a_gpu(artifact: Artifact) -> None:
    launch = load_launcher(artifact)
    m, k = 4, PROBLEM.top_k
    with pytest.raises(ValueError, match="device_type=cuda"):
        launch(
            torch.zeros(m, PROBLEM.hidden, dtype=torch.bfloat16),
            torch.zeros(PROBLEM.experts, PROBLEM.hidden, dtype=torch.bfloat16),
            torch.zeros(PROBLEM.experts),
            torch.ones(1),
            torch.zeros(1),
            torch.zeros(m, k),
            torch.zeros(m, k, dtype=torch.int32),
        )


@pytest.mark.compiles
def test_a_launcher_names_no_library_and_no_path(artifact: Artifact) -> None:
    from elftools.elf.elffile import ELFFile

    with artifact.launcher.open("rb") as file:
        tags = [tag.entry.d_tag for tag in ELFFile(file).get_section_by_name(".dynamic").iter_tags()]
    assert not {"DT_RPATH", "DT_RUNPATH"} & set(tags), "it would look for its compiler's machine"


def test_a_missing_runtime_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTERTUNE_DSL_RUNTIME", str(tmp_path / "absent.so"))
    with pytest.raises(ToolchainError, match=r"absent\.so: no such file"):
        runtime_library()
    monkeypatch.delenv("ROUTERTUNE_DSL_RUNTIME")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(ToolchainError, match="not found: install"):
        runtime_library()

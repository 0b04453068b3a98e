"""Compiling all micros into a pack for a GPU host."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from harness import pack_bootstrap
from harness.artifact import ENTRY
from harness.compile import link, prepare_process
from harness.pack import PYTHONS, add_runtime
from harness.provenance import git_commit
from harness.simulator.microbench.catalogue import catalogue
from harness.simulator.microbench.micro import TARGET


def write_pack(folder: Path, pythons: tuple[str, ...] = PYTHONS) -> int:
    """Compile every micro into the new `folder`; returns how many."""
    prepare_process(TARGET)
    from harness.simulator.microbench.kernel import compile_micro

    launchers = folder / "launchers"
    launchers.mkdir(parents=True)
    micros = catalogue()
    for micro in micros:
        compiled = compile_micro(micro)
        with tempfile.TemporaryDirectory() as scratch:
            host_object = Path(scratch) / "launch.o"
            compiled.export_to_c(str(host_object), function_name=ENTRY)
            link(host_object, launchers / f"{micro.name}.so")
        for entry in Path(os.environ["CUTE_DSL_DUMP_DIR"]).iterdir():
            entry.unlink()
    add_runtime(folder, pythons)
    shutil.copy(Path(__file__).with_name("bootstrap.py"), folder / "measure.py")
    shutil.copy(Path(pack_bootstrap.__file__), folder)
    (folder / "commit").write_text(git_commit())
    return len(micros)

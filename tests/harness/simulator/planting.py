"""Compiled kernels with a defect planted in their PTX."""

from __future__ import annotations

import re
from pathlib import Path

from harness.simulator.loaded import load
from harness.simulator.recorder import Recorder
from harness.simulator.run import Program

# What to look for (a regular expression) and what to put there.
Edit = tuple[str, str]


def planted(folder: Path, *edits: Edit, count: int = 0) -> Program:
    """The artifact in `folder` with what each edit matches replaced: the first `count` matches, 0: all."""
    text = (folder / "kernel.ptx").read_text()
    for pattern, replacement in edits:
        text, found = re.subn(pattern, replacement, text, count=count, flags=re.MULTILINE)
        assert found, f"nothing in {folder.name} matches {pattern}"
    return Program(Recorder.of_artifact(folder), load(text))

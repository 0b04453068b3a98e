"""Files of JSON lines that only grow: a line whose writer died in it is as if it had never been begun."""

from __future__ import annotations

import os
from pathlib import Path


def whole_lines(path: Path) -> list[bytes]:
    """Every line of `path` that has its end, without it."""
    return path.read_bytes().split(b"\n")[:-1]


def append_to(path: Path) -> None:
    """Make `path` ready for `append_line`: its folder exists, and a torn last line is gone.

    Read what it holds first: a file of something else is to be refused as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        contents = file.read()
        file.truncate(contents.rfind(b"\n") + 1)


def append_line(path: Path, line: bytes) -> None:
    """Add one line; it is on disk when this returns."""
    with path.open("ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())

"""Where a record comes from: date, commit, host, command and versions."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from harness.passwords import without_passwords
from harness.record import Provenance
from harness.toolchain import versions

PROJECT_ROOT = Path(__file__).resolve().parent.parent
# The commit of a copy of the project without its git folder, for whoever made the copy to set.
COMMIT_VARIABLE = "ROUTERTUNE_COMMIT"


def git_commit(folder: Path = PROJECT_ROOT) -> str:
    """The commit checked out in `folder`, with "-dirty" when tracked files differ.

    Outside git it is what $ROUTERTUNE_COMMIT says, else "".
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return os.environ.get(COMMIT_VARIABLE, "")


def command_line() -> str:
    """This process's command as a person would type it: the program without its folder, no password.

    What is not UTF-8 in it is escaped: no record could hold it.
    """
    program = Path(sys.argv[0])
    name = "routertune" if program.stem == "cli" else program.name
    arguments = (argument.encode(errors="backslashreplace").decode() for argument in sys.argv[1:])
    return without_passwords(shlex.join([name, *arguments]))


def provenance(*, commit: str | None = None, command: str | None = None) -> Provenance:
    """The provenance of what this process records from now on.

    `commit` is given where the code runs outside its git checkout; `command` defaults to the command line.
    """
    return Provenance(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=git_commit() if commit is None else commit,
        host=platform.node(),
        command=command_line() if command is None else command,
        versions=versions(),
    )

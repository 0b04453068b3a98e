"""Ending a child process with its parent, whatever kills the parent."""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import wait
from typing import Any


def die_with(lifeline: Any) -> None:
    """Kill this process when `lifeline` becomes readable: a pipe nobody writes to, or a parent's sentinel.

    The watching thread needs the interpreter lock for a moment only, so it ends a process that waits for an
    endless kernel too.
    """

    def watch() -> None:
        wait([lifeline])
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()

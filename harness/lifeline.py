"""Ending a child process with its parent, whatever kills the parent, and not before it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
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


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started here, or by threads that are, never hear Ctrl-C: it is for their parent.

    A mask is inherited. A handler of their own would come too late, for whoever is still starting Python.
    """
    resource_tracker.ensure_running()  # which the first process would start, and unblock SIGINT then
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

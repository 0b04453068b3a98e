"""Ctrl-C and `kill`: the first asks to stop after the trial that is being measured, the second gives it up.

A handler that raised could leave a lock of `concurrent.futures` taken for ever, wherever the main thread is
at that moment; so the first two only leave word, and whoever waits looks for it every `POLL_S`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_S = 0.2


class StopRequest:
    """How urgently a stop was asked for."""

    def __init__(self) -> None:
        self.asked = False
        self.now = False

    def ask(self) -> None:
        self.now = self.asked
        self.asked = True


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request; a third one raises `KeyboardInterrupt`.

    For the main thread: only there Python runs signal handlers.
    """
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if request.now:
            raise KeyboardInterrupt
        request.ask()

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

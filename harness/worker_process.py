"""The executor's side of a worker process: start it, talk to it, bury it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from harness import protocol
from harness.oneline import one_line
from harness.protocol import Reply, Request

# A killed process whose kernel never ends is gone when the driver has torn its context down.
BURIAL_S = 60.0


class WorkerDied(Exception):
    """The worker is gone; the message is one line that says how it ended."""


class WorkerProcess:
    """One worker around the runner `runner` (as `module:Class`), `environment` added to this process's.

    Starting it does not wait for it.
    """

    def __init__(self, runner: str, environment: Mapping[str, str]) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        # What a dying process prints is the best account of its end; nobody reads it otherwise.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.worker", str(theirs.fileno()), runner],
            stdin=subprocess.PIPE,  # the lifeline: closed by the system when this process ends
            stdout=self._log,
            stderr=self._log,
            pass_fds=[theirs.fileno()],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
                **environment,
            },
            start_new_session=True,  # Ctrl-C is for the parent to handle
        )
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, request: Request) -> None:
        """Raises `WorkerDied`."""
        try:
            self._connection.send_bytes(protocol.encode(request))
        except OSError:
            raise WorkerDied(self._obituary()) from None

    def receive(self, timeout_s: float) -> Reply:
        """The next reply; raises `TimeoutError` or `WorkerDied`."""
        try:
            data = self._connection.recv_bytes() if self._connection.poll(timeout_s) else None
        except (EOFError, OSError):  # OSError: killed in the middle of a message
            raise WorkerDied(self._obituary()) from None
        if data is None:
            raise TimeoutError
        reply: Reply = protocol.decode_reply(data)
        return reply

    def end(self) -> None:
        """Let the process die whatever it is doing: from any thread, whoever waits for it hears of it."""
        self._process.kill()

    def kill(self) -> None:
        """End the process and close what leads to it, which only the thread that uses it may do. Idempotent;
        raises `TimeoutError` if it will not go."""
        self.end()
        self._bury()
        self._connection.close()
        self._log.close()

    def _bury(self) -> int:
        try:
            status = self._process.wait(BURIAL_S)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"worker process {self._process.pid} does not end when killed") from None
        if self._process.stdin is not None:
            self._process.stdin.close()
        return status

    def _obituary(self) -> str:
        status = self._bury()
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return one_line(f"{how}: {lines[-1]}" if lines else how)

"""What the simulator says when a kernel does something wrong, or something that it does not know."""

from __future__ import annotations

from typing import Any


class SimulationError(Exception):
    """A kernel broke a rule of the machine, or uses what the simulator does not know; one line.

    The unit that notices says what was wrong and with which value, and marks in `wrong` (a bool array in the
    shape of what it was given) whose access it was; the machine adds the instruction, its PTX line, the warp
    and its CTA (`located`).
    """

    def __init__(self, message: str, wrong: Any = None) -> None:
        super().__init__(message)
        self.wrong = wrong
        self._located = False

    def located(self, where: str) -> SimulationError:
        """The same error with the place in front, unless it already names one."""
        if self._located:
            return self
        error = type(self)(f"{where}: {self}")
        error._located = True
        return error


class NotSimulatedError(SimulationError):
    """The kernel uses what the simulator does not know: nothing is known of the kernel."""


class EndlessError(SimulationError):
    """The kernel has run for as long as any kernel may and has not ended."""


class Deadlock(SimulationError):
    """No warp can go on and no asynchronous unit has anything left to do."""

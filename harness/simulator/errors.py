"""What the simulator says when a kernel does something wrong, or something that it does not know."""

from __future__ import annotations


class SimulationError(Exception):
    """A kernel broke a rule of the machine, or uses what the simulator does not know; one line.

    The unit that notices says what was wrong and with which value; the machine adds the instruction, its PTX
    line and the warp (`located`).
    """

    def located(self, where: str) -> SimulationError:
        """The same error with the place in front, unless it already names one."""
        if getattr(self, "_located", False):
            return self
        error = type(self)(f"{where}: {self}")
        error._located = True  # type: ignore[attr-defined]
        return error


class NotSimulatedError(SimulationError):
    """The kernel uses what the simulator does not know: nothing is known of the kernel."""


class Deadlock(SimulationError):
    """No warp can go on and no asynchronous unit has anything left to do."""

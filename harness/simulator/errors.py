"""What the simulator raises for a program that real hardware would not run as written."""

from __future__ import annotations


class SimulationError(Exception):
    """One line: what was wrong and the value. The machine adds the instruction, the warp and the PTX line."""

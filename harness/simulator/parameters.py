"""The sizes of a kernel's parameters, from its PTX (PTX ISA, "Kernel Function Parameters")."""

from __future__ import annotations

import re

from harness.simulator.errors import SimulationError

_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)")
_PARAM = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.(?P<type>\w+)\s+(?:\.ptr[\s.\w]*?\s)?[\w$]+(?:\[(?P<count>\d+)\])?"
)


def parameter_sizes(ptx: str) -> dict[str, tuple[int, ...]]:
    """Bytes of each parameter of each entry function, by the entry's name."""
    return {
        name: tuple(_size(declaration) for declaration in parameters.split(",") if declaration.strip())
        for name, parameters in _ENTRY.findall(ptx)
    }


def _size(declaration: str) -> int:
    match = _PARAM.fullmatch(declaration.strip())
    bits = re.fullmatch(r"[busf](8|16|32|64)", match["type"]) if match else None
    if match is None or bits is None:
        raise SimulationError(f"parameter of unknown form: {declaration.strip()}")
    return int(bits[1]) // 8 * int(match["count"] or 1)

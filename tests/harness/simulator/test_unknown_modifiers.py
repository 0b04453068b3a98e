"""A modifier that nobody knows is refused, whatever the instruction."""

from __future__ import annotations

import pytest

from harness.simulator import effects, effects_all  # noqa: F401  (for its registrations)
from harness.simulator.errors import SimulationError
from harness.simulator.instruction_set import lookup
from harness.simulator.ptx import Instruction
from harness.simulator.registry import registered

EFFECTS = sorted({*effects._EFFECTS, *effects._WAITS})


@pytest.mark.parametrize("prefix", EFFECTS, ids=".".join)
def test_of_effects(prefix: tuple[str, ...]) -> None:
    instruction = Instruction(1, (*prefix, "junk"), ())
    bind = effects._EFFECTS[prefix].bind if prefix in effects._EFFECTS else effects._WAITS[prefix]
    with pytest.raises(SimulationError, match=r"unknown modifier \.junk|junk is not known"):
        bind(instruction)


@pytest.mark.parametrize("key", list(registered()), ids=str)
def test_of_operations(key: tuple[str, str, int]) -> None:
    opcode, type_, destinations = key
    with pytest.raises(SimulationError, match=r"unknown modifier \.junk"):
        lookup((opcode, "junk", *([type_] if type_ else [])), destinations)

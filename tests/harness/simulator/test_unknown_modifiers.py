"""A modifier that nobody knows is refused, whatever the instruction."""

from __future__ import annotations

import pytest

from harness.simulator import effects, effects_all  # noqa: F401  (for its registrations)
from harness.simulator.errors import SimulationError
from harness.simulator.instruction_set import lookup
from harness.simulator.ptx import Instruction
from harness.simulator.registry import registered

# Effects that still take any modifier.
LENIENT = """
    cp.async.bulk.commit_group cp.async.bulk.prefetch.tensor cp.async.bulk.tensor cp.async.bulk.wait_group
    fence.mbarrier_init fence.proxy.alias fence.proxy.async::generic fence.proxy.tensormap::generic
    griddepcontrol.launch_dependents griddepcontrol.wait mov.b128 nanosleep prefetch.tensormap
    tcgen05.commit tcgen05.cp trap
"""
EFFECTS = sorted({*effects._EFFECTS, *effects._WAITS} - {tuple(name.split(".")) for name in LENIENT.split()})


@pytest.mark.parametrize("prefix", EFFECTS, ids=".".join)
def test_of_effects(prefix: tuple[str, ...]) -> None:
    instruction = Instruction(1, (*prefix, "junk"), ())
    bind = effects._EFFECTS[prefix].bind if prefix in effects._EFFECTS else effects._WAITS[prefix]
    with pytest.raises(SimulationError, match=r"unknown modifier \.junk|junk is not known"):
        bind(instruction)


@pytest.mark.parametrize("key", registered(), ids=str)
def test_of_operations(key: tuple[str, str, int]) -> None:
    opcode, type_, destinations = key
    with pytest.raises(SimulationError, match=r"unknown modifier \.junk"):
        lookup((opcode, "junk", *([type_] if type_ else [])), destinations)

"""Atomic operations and reductions in memory (PTX ISA, "atom", "red")."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cohort import LANES, Cohort
from harness.simulator.effects import Run, effect
from harness.simulator.effects_memory import (
    CACHES,
    ORDERS,
    SPACES,
    element_bytes,
    load_global,
    load_shared,
    narrowed,
    space_at,
    space_of,
    store_global,
    store_shared,
)
from harness.simulator.errors import SimulationError
from harness.simulator.instruction_set import lookup
from harness.simulator.ptx import Instruction

Array = npt.NDArray[Any]
_ATOMIC = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")
_FLAGS = f"{SPACES} {ORDERS} {CACHES} noftz {' '.join(_ATOMIC)}"


@effect("atom", flags=_FLAGS, writes=True)
def atomic(instruction: Instruction) -> Run:
    return _atomic(instruction)


@effect("red", flags=_FLAGS)
def reduction(instruction: Instruction) -> Run:
    perform = _atomic(instruction)

    def run(c: Cohort, m: Any, *operands: Any) -> None:
        perform(c, m, *operands)

    return run


def _atomic(instruction: Instruction) -> Run:
    """One lane after the other, in the order of warps and lanes: any order is a legal one."""
    size, space = element_bytes(instruction), space_of(instruction)
    operation = next((part for part in instruction.parts if part in _ATOMIC), "")
    kind = instruction.parts[-1]
    if not operation:
        raise SimulationError(f"{instruction.opcode} is not known")
    combine = lookup((operation, kind)) if operation in ("add", "min", "max", "and", "or", "xor") else None

    def updated(old: Any, value: Any, other: Any) -> Any:
        if combine is not None:
            return combine(old, value)
        match operation:
            case "exch":
                return value
            case "cas":
                return other if old == value else old
            case "inc":
                return old.dtype.type(0) if old >= value else old + old.dtype.type(1)
        return value if old == 0 or old > value else old - old.dtype.type(1)

    def run(c: Cohort, m: Any, address: Any, value: Any, other: Any = 0) -> Array:
        active = c.active(m)
        addresses, values, others = (
            c.lanes(address),
            c.lanes(narrowed(value, size)),
            c.lanes(narrowed(other, size)),
        )
        result = np.zeros(active.shape, np.dtype(f"u{size}"))
        where = space_at(c, space, address, active)
        if where not in ("shared", "global"):
            raise SimulationError(f"{instruction.opcode}: no atomics in state space {where}")
        is_shared = where == "shared"
        for warp, lane in np.argwhere(active):
            one = np.zeros((len(c.warps), LANES), np.bool_)
            one[warp, lane] = True
            loader = load_shared if is_shared else load_global
            old = loader(c, one, addresses, size, 1)[0][warp, lane]
            result[warp, lane] = old
            new = updated(old, values[warp, lane], others[warp, lane])
            (store_shared if is_shared else store_global)(c, one, addresses, (new,), size)
        return result

    return run

"""Atomic operations and reductions in memory (PTX ISA, "atom", "red")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cohort import Cohort
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
    """Lanes with one address one after the other, in the order of warps and lanes: any order is legal."""
    size, space = element_bytes(instruction), space_of(instruction)
    operation = next((part for part in instruction.parts if part in _ATOMIC), "")
    kind = instruction.parts[-1]
    if not operation:
        raise SimulationError(f"{instruction.opcode} is not known")
    combine = lookup((operation, kind)) if operation in ("add", "min", "max", "and", "or", "xor") else None

    def updated(old: Any, value: Any, other: Any) -> Any:
        if combine is not None:
            return combine(old, value)
        zero, one = old.dtype.type(0), old.dtype.type(1)
        match operation:
            case "exch":
                return value
            case "cas":
                return np.where(old == value, other, old)
            case "inc":
                return np.where(old >= value, zero, old + one)
        return np.where((old == zero) | (old > value), value, old - one)

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
        load, store = (load_shared, store_shared) if where == "shared" else (load_global, store_global)
        alone = where == "shared" or not _all_valid(c, active, addresses, size)
        for lanes in _one_by_one(active) if alone else _turns(active, addresses):
            old = load(c, lanes, addresses, size, 1)[0]
            result[lanes] = old[lanes]
            store(c, lanes, addresses, (updated(old, values, others),), size)
        return result

    return run


def _all_valid(c: Cohort, active: Array, addresses: Array, size: int) -> bool:
    """Whether every active lane has an address in global memory; else the first without one is at fault."""
    try:
        load_global(c, active, addresses, size, 1)
    except SimulationError:
        return False
    return True


def _one_by_one(active: Array) -> Iterator[Array]:
    """The active lanes [W, 32], each alone."""
    for warp, lane in np.argwhere(active):
        one = np.zeros_like(active)
        one[warp, lane] = True
        yield one


def _turns(active: Array, addresses: Array) -> Iterator[Array]:
    """The active lanes [W, 32], those together that have different addresses.

    Counters of hundreds of CTAs, each alone, took a tenth of a launch.
    """
    mine = addresses[active]
    order = np.argsort(mine, kind="stable")
    _, first, count = np.unique(mine[order], return_index=True, return_counts=True)
    turn = np.empty(len(mine), np.intp)
    turn[order] = np.arange(len(mine)) - np.repeat(first, count)
    for number in range(int(turn.max(initial=-1)) + 1):
        lanes = np.zeros_like(active)
        lanes[active] = turn == number
        yield lanes

"""All instruction semantics by name. Importing this module registers them."""

from __future__ import annotations

from functools import cache

from harness.simulator import (  # noqa: F401  (imported for their registrations)
    ops_approximate,
    ops_bits,
    ops_compare,
    ops_convert,
    ops_convert_packed,
    ops_float,
    ops_half,
    ops_integer,
    ops_lanes,
    ops_limits,
    ops_move,
    ops_packed,
)
from harness.simulator.registry import Execute, Form, find


@cache
def lookup(parts: tuple[str, ...], destinations: int = 1) -> Execute:
    """The function that executes the instruction spelled `parts`, e.g. `("add", "s32")`.

    It takes the source operands' raw bits in PTX order and returns the destination's, or a tuple of
    `destinations` of them for `d|p`. Results may share memory with operands. What does not fit that:

    - an instruction that `reads_carry` takes the carry (bool) as one more source after the others, and one
      that `writes_carry` returns it as one more destination, which `destinations` does not count;
    - instructions across lanes (`ops_lanes.ACROSS_LANES`) take `active`, the executing lanes as bool [W, 32]
      or None for all, as their last argument.
    """
    return find(Form(parts[0], parts[1:]), destinations)


def reads_carry(parts: tuple[str, ...]) -> bool:
    """Whether the instruction takes the condition code register's carry (addc, subc, madc)."""
    return parts[0] in ("addc", "subc", "madc")


def writes_carry(parts: tuple[str, ...]) -> bool:
    """Whether the instruction leaves a carry in the condition code register."""
    return "cc" in parts[1:]

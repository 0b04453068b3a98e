"""Instructions across the lanes of a warp (PTX ISA 9.7.9 `shfl.sync`, 9.7.13 `vote`, `match`, `redux`,
`elect`).

Each function takes `active` as its last argument: the lanes that execute the instruction, bool [W, 32],
or None for all. An active lane outside its own member mask, and a value taken from a lane that does not
execute the instruction, are undefined in the ISA and errors here. What is the same in all lanes comes
back as [W, 1].
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from harness.simulator.errors import SimulationError
from harness.simulator.float_bits import bits_f32
from harness.simulator.registry import Bits, Execute, Form, instruction
from harness.simulator.rounding import select

LANES = 32
ACROSS_LANES = frozenset(("shfl", "vote", "redux", "match", "elect", "activemask"))
_FULL = np.uint32(0xFFFFFFFF)
_LANE = np.arange(LANES, dtype=np.uint32)
_LANE_BIT = np.uint32(1) << _LANE

Mask = Any  # bool [W, 32] or what broadcasts to it


def ballot(predicate: Mask) -> Bits:
    """uint32 [W, 1] of bool [W, 32]: bit l is lane l's predicate."""
    return np.packbits(predicate, axis=1, bitorder="little").view("<u4")


def members_of(mask: Bits, active: Mask | None) -> Mask | None:
    """The lanes that take part, None for all, after checking that whoever executes is a member."""
    if active is None and mask.ndim == 0 and mask == _FULL:
        return None
    members = (mask & _LANE_BIT) != 0
    outside = ~members if active is None else active & ~members
    if outside.any():
        lane = int(np.argwhere(outside)[0][-1])
        raise SimulationError(
            f"lane {lane} executes it but is not in the member mask {int(np.max(mask)):#010x}"
        )
    return members if active is None else active


def _spread(a: Bits, members: Mask | None) -> Bits:
    """`a` with a value for each of the 32 lanes (and each warp, where the members tell their number)."""
    rows = 1 if members is None else len(members)
    return np.broadcast_to(a, np.broadcast_shapes(np.shape(a), (rows, LANES)))


@lru_cache(maxsize=1024)
def _fixed_source(mode: str, offset: int, bounds: int) -> tuple[Bits, Mask, int | None]:
    """Source lanes [32], whether they are in range, and the source lane where all have the same one."""
    source, inside = _source(mode, np.uint32(offset), np.uint32(bounds))
    only = int(source[0]) if (source == source[0]).all() else None
    return source.astype(np.intp), inside, only


def _source(mode: str, offset: Bits, bounds: Bits) -> tuple[Bits, Mask]:
    """The ISA's pseudo-code of `shfl.sync`: source lane and whether it is in range."""
    lane, offset = _LANE.astype(np.int32), (offset & np.uint32(31)).astype(np.int32)
    clamp, segment = ((bounds >> np.uint32(shift) & np.uint32(31)).astype(np.int32) for shift in (0, 8))
    last = (lane & segment) | (clamp & ~segment)
    if mode == "up":
        source = lane - offset
        inside = source >= last
    else:
        source = {
            "down": lambda: lane + offset,
            "bfly": lambda: lane ^ offset,
            "idx": lambda: (lane & segment) | (offset & ~segment),
        }[mode]()
        inside = source <= last
    return np.where(inside, source, lane), inside


def _shuffle(
    mode: str, a: Bits, offset: Bits, bounds: Bits, mask: Bits, active: Mask | None
) -> tuple[Bits, Mask]:
    members = members_of(mask, active)
    if offset.ndim == 0 and bounds.ndim == 0:
        source, inside, only = _fixed_source(mode, int(offset), int(bounds))
        if members is not None:
            _check_sources(members, members[:, source])
        if a.ndim == 0 or a.shape[1] == 1:
            return a, inside[None]
        return (a[:, source] if only is None else a[:, only : only + 1]), inside[None]
    sources, insides = _source(mode, offset, bounds)
    indices = np.atleast_2d(sources)
    if members is not None:
        _check_sources(members, np.take_along_axis(members, np.broadcast_to(indices, members.shape), axis=1))
    if a.ndim == 0 or a.shape[1] == 1:
        return a, np.atleast_2d(insides)
    return np.take_along_axis(a, np.broadcast_to(indices, a.shape), axis=1), np.atleast_2d(insides)


def _check_sources(members: Mask, executes: Mask) -> None:
    missing = members & ~executes
    if missing.any():
        raise SimulationError(
            f"lane {int(np.argwhere(missing)[0][-1])} reads a lane that does not execute it"
        )


_SHUFFLES = "sync up down bfly idx"


@instruction("shfl", "b32", _SHUFFLES)
def shfl(form: Form) -> Execute:
    """Each lane reads another's register: `d, a, offset, bounds, member mask`."""
    mode = form.one_of("up", "down", "bfly", "idx")
    return lambda a, b, c, mask, active=None: _shuffle(mode, a, b, c, mask, active)[0]


@instruction("shfl", "b32", _SHUFFLES, destinations=2)
def shfl_predicate(form: Form) -> Execute:
    """`shfl`, and whether the source lane was in range."""
    mode = form.one_of("up", "down", "bfly", "idx")
    return lambda a, b, c, mask, active=None: _shuffle(mode, a, b, c, mask, active)


@instruction("vote", "pred", "sync all any uni")
def vote(form: Form) -> Execute:
    """Whether the predicate holds in all or any of the lanes, or is the same in them."""
    kind = form.one_of("all", "any", "uni")

    def execute(a: Bits, mask: Bits, active: Mask | None = None) -> Bits:
        members = members_of(mask, active)
        values = _spread(a, members)
        yes = values if members is None else values & members
        some = yes.any(axis=1, keepdims=True)
        if kind == "any":
            return some
        every = (values if members is None else values | ~members).all(axis=1, keepdims=True)
        return every if kind == "all" else every | ~some

    return execute


@instruction("vote", "b32", "sync ballot")
def vote_ballot(form: Form) -> Execute:
    """The lanes' predicates as a bit mask."""

    def execute(a: Bits, mask: Bits, active: Mask | None = None) -> Bits:
        members = members_of(mask, active)
        values = _spread(a, members)
        return ballot(values if members is None else values & members)

    return execute


@instruction("activemask", "b32")
def activemask(form: Form) -> Execute:
    """The executing lanes as a bit mask."""
    return lambda active=None: _FULL if active is None else ballot(active)


@instruction("elect", "", "sync", destinations=2)
def elect(form: Form) -> Execute:
    """The lowest executing lane, and the predicate that is true there; [1, 32] where all lanes execute.

    The ISA leaves the choice open as long as it is always the same.
    """

    def execute(mask: Bits, active: Mask | None = None) -> tuple[Bits, Bits]:
        members = members_of(mask, active)
        if members is None:
            return np.uint32(0), (_LANE == 0)[None]
        leader = members.argmax(axis=1, keepdims=True).astype(np.uint32)
        return leader, (leader == _LANE) & members

    return execute


_REDUCTIONS: dict[str, tuple[np.ufunc, int]] = {
    # The operation and its neutral element for unsigned or untyped operands.
    "add": (np.add, 0),
    "min": (np.minimum, 0xFFFFFFFF),
    "max": (np.maximum, 0),
    "and": (np.bitwise_and, 0xFFFFFFFF),
    "or": (np.bitwise_or, 0),
    "xor": (np.bitwise_xor, 0),
}


@instruction("redux", "u32 s32 b32", f"sync {' '.join(_REDUCTIONS)}")
def redux(form: Form) -> Execute:
    """An integer reduction over the lanes."""
    operation, neutral = _REDUCTIONS[form.one_of(*_REDUCTIONS)]
    # An offset of 2^31 maps signed order to unsigned order.
    offset = np.uint32(1 << 31 if form.type == "s32" and operation in (np.minimum, np.maximum) else 0)

    def execute(a: Bits, mask: Bits, active: Mask | None = None) -> Bits:
        members = members_of(mask, active)
        values = _spread(a, members) + offset
        if members is not None:
            values = np.where(members, values, np.uint32(neutral))
        reduced: Bits = operation.reduce(values, axis=1, keepdims=True, dtype=np.uint32)
        return reduced - offset

    return execute


@instruction("redux", "f32", "sync min max abs NaN")
def redux_f32(form: Form) -> Execute:
    """The smallest or largest f32 (`.abs`: magnitude); a NaN counts only with `.NaN` or if all are NaN."""
    smallest = form.one_of("min", "max") == "min"
    operation: Any = (
        (np.minimum if smallest else np.maximum) if "NaN" in form else (np.fmin if smallest else np.fmax)
    )

    def execute(a: Bits, mask: Bits, active: Mask | None = None) -> Bits:
        members = members_of(mask, active)
        values = bits_f32(_spread(a, members).view(np.float32)).view(np.float32)  # no signalling NaN is left
        if "abs" in form:
            values = np.abs(values)
        if members is not None:  # a lane that does not take part repeats the leader's value
            leader = members.argmax(axis=1)[:, None]
            values = np.where(members, values, np.take_along_axis(values, leader, axis=1))
        return bits_f32(operation.reduce(values, axis=1, keepdims=True))

    return execute


def _equal_lanes(a: Bits, mask: Bits, active: Mask | None) -> tuple[Mask, Mask | None]:
    """bool [W, 32, 32]: whether lane l's value equals lane m's, m being a member; and the members."""
    members = members_of(mask, active)
    values = _spread(a, members)
    equal = values[:, :, None] == values[:, None, :]
    return (equal if members is None else equal & members[:, None, :]), members


def _ballots(predicates: Mask) -> Bits:
    return ballot(predicates.reshape(-1, LANES)).reshape(predicates.shape[:2])


@instruction("match", "b32 b64", "any sync")
def match_any(form: Form) -> Execute:
    """The lanes whose value equals one's own, as a bit mask."""
    return lambda a, mask, active=None: _ballots(_equal_lanes(a, mask, active)[0])


@instruction("match", "b32 b64", "all sync", destinations=2)
def match_all(form: Form) -> Execute:
    """The member mask and true where all lanes have the same value, else 0 and false."""

    def execute(a: Bits, mask: Bits, active: Mask | None = None) -> tuple[Bits, Bits]:
        equal, members = _equal_lanes(a, mask, active)
        taking_part = np.ones((len(equal), LANES), bool) if members is None else members
        leader = taking_part.argmax(axis=1)[:, None, None]
        same = np.take_along_axis(equal, leader, axis=1)[:, 0] | ~taking_part
        every = same.all(axis=1, keepdims=True)
        return select(every, ballot(taking_part), np.uint32(0)), every

    return execute

"""Loads and stores in global, shared, cluster, local and parameter memory.

PTX ISA, "Data movement and conversion instructions: ld, st, mapa, prefetch" and "State spaces". A generic
address below 2^32 is a shared one: the simulator's global addresses are the host's, which lie above. Local
and parameter memory lie above all of them (`machine_constants`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cohort import LANES, Cohort, some_lane
from harness.simulator.effects import Run, effect
from harness.simulator.errors import SimulationError
from harness.simulator.machine_constants import LOCAL_BASE, PARAM_BASE
from harness.simulator.ptx import Instruction, Vector
from harness.simulator.shared import OFFSET_MASK, RANK_SHIFT

Array = npt.NDArray[Any]
SHARED_WINDOW = 1 << 32
_TYPE = re.compile(r"(?:b|u|s|f|bf)(8|16|32|64|128)$")
# What loads, stores and atomics may say; order and caching change no value here.
SPACES = "global shared shared::cta shared::cluster local param param::entry const"
ORDERS = "weak volatile relaxed acquire release acq_rel sc mmio cta cluster gpu sys"
CACHES = "ca cg cs lu cv wb wt L1::* L2::*"
_SPACES = ("global", "shared", "param", "local", "const")


def space_of(instruction: Instruction) -> str:
    """The state space that an opcode names; "generic" when it names none."""
    for part in instruction.parts:
        base = part.split("::")[0]
        if base in _SPACES:
            return base
    return "generic"


def element_bytes(instruction: Instruction) -> int:
    """Bytes of one element, from the instruction's type."""
    for part in reversed(instruction.parts):
        if match := _TYPE.match(part):
            return int(match.group(1)) // 8
    raise SimulationError(f"{instruction.opcode} names no type")


def register_bytes(size: int) -> int:
    """Bytes of the register that holds an element: b8 lives in a 16-bit register."""
    return max(size, 2)


def shared_place(
    c: Cohort, address: Any, active: Array | None = None, by_copy: bool = False
) -> tuple[Array, Array]:
    """(row, offset) of shared::cluster addresses, each [W, 32] or [W, 1].

    What inactive lanes hold is no address. Accesses to other CTAs are noted as the warps' own, unless they
    are `by_copy`: an asynchronous operation that notes its end itself.
    """
    offsets = np.asarray(address).astype(np.int64)
    if active is not None and offsets.ndim == 2 and offsets.shape[1] > 1:
        offsets = np.where(active, offsets, 0)
    rows = c.rows[:, None]
    places, offsets = _rows_of(c, rows, offsets)
    if places is not rows and c.machine.thread_order is not None and not by_copy:
        remote = places != rows
        if active is not None:
            remote = remote & active
        if remote.any():
            warp, _ = np.nonzero(remote)
            c.machine.thread_order.access(c.warps[warp], np.broadcast_to(places, remote.shape)[remote])
    return places, offsets


def shared_place_of_lanes(c: Cohort, address: Any, lanes: Array) -> tuple[Array, Array, Array]:
    """(rows, offsets, warps of the cohort) as of `shared_place`, of the active lanes `lanes` [n], flat.

    Where one lane of each warp is active, all others need not be computed: arrivals on mbarriers of clusters
    take half the time.
    """
    warps = lanes // LANES
    own = c.rows[warps]
    rows, offsets = _rows_of(c, own, c.at_places(address, lanes))
    if rows is not own and c.machine.thread_order is not None:
        remote = np.flatnonzero(rows != own)
        if remote.size:
            c.machine.thread_order.access(c.warps[warps[remote]], rows[remote])
    return rows, offsets, warps


def _rows_of(c: Cohort, rows: Array, addresses: Array) -> tuple[Array, Array]:
    """The CTA's row and the offset of shared::cluster addresses that warps of CTAs `rows` use."""
    if c.machine.cluster_size == 1:
        if addresses.size and int(addresses.max()) > OFFSET_MASK:
            wrong = addresses > OFFSET_MASK
            raise SimulationError(f"shared address {int(addresses.max()):#x} lies outside the CTA", wrong)
        return rows, addresses
    ranks = addresses >> RANK_SHIFT
    if ranks.size and int(ranks.max()) >= c.machine.cluster_size:
        raise SimulationError(
            f"shared address {int(addresses.max()):#x}: rank {int(ranks.max())} of a cluster of "
            f"{c.machine.cluster_size} CTAs",
            ranks >= c.machine.cluster_size,
        )
    return c.machine.first_row_of_cluster[rows] + ranks, addresses & OFFSET_MASK


def space_at(c: Cohort, space: str, address: Any, active: Array | None) -> str:
    """The state space of an access: the one that the opcode names, or where its generic addresses lie."""
    if space != "generic":
        return space
    addresses = np.asarray(address)
    if active is not None and addresses.ndim:
        addresses = np.broadcast_to(addresses, active.shape)[active]
    if not addresses.size or (addresses < SHARED_WINDOW).all():
        return "shared"
    for name, first in (("param", PARAM_BASE), ("local", LOCAL_BASE), ("global", SHARED_WINDOW)):
        inside = addresses >= first
        if inside.all():
            return name
        if inside.any():
            raise SimulationError("generic addresses of different state spaces in one instruction")
    raise AssertionError(space)


@effect("ld", flags=f"{SPACES} {ORDERS} {CACHES} nc v2 v4 v8", writes=True)
def load(instruction: Instruction) -> Run:
    size, space = element_bytes(instruction), space_of(instruction)
    target = instruction.operands[0]
    count = len(target.items) if isinstance(target, Vector) else 1
    widen = _widener(instruction, size)

    def run(c: Cohort, m: Any, address: Any) -> Any:
        match space_at(c, space, address, None if m is None else c.active(m)):
            case "shared":
                values = load_shared(c, m, address, size, count)
            case "global":
                values = load_global(c, m, address, size, count)
            case "local":
                values = load_local(c, m, address, size, count)
            case "param":
                values = [load_parameter(c, address, size, i) for i in range(count)]
            case other:
                raise SimulationError(f"{instruction.opcode}: state space {other} is not known")
        values = [widen(value) for value in values]
        return tuple(values) if isinstance(target, Vector) else values[0]

    return run


def _widener(instruction: Instruction, size: int) -> Callable[[Any], Any]:
    """Sign or zero extension of elements narrower than their register."""
    if size != 1:
        return lambda value: value
    if "s8" in instruction.parts:
        return lambda value: value.view(np.int8).astype(np.int16).view(np.uint16)
    return lambda value: value.astype(np.uint16)


def load_parameter(c: Cohort, address: Any, size: int, index: int) -> Any:
    """Element `index` behind a parameter's address."""
    return c.machine.grids.parameters(np.asarray(address, np.uint64) + np.uint64(index * size), size)


def load_shared(c: Cohort, m: Any, address: Any, size: int, count: int) -> list[Array]:
    """`count` elements of `size` bytes, one after the other."""
    shared = c.machine.shared
    active = None if m is None else c.active(m)
    rows, offsets = shared_place(c, address, active)
    active = _restricted(c, m, offsets)
    if c.machine.cluster_size > 1 and c.machine.units.timed:
        c.machine.units.load_from_cluster(c, rows, offsets, active)
    whole = size * count
    _misaligned(offsets, whole, active, "shared")
    flat = shared.index(rows, offsets, size, active)
    if whole > size:
        shared.index(rows, offsets + (whole - size), size, active)
    if active is not None:
        flat = np.where(active, flat, 0)
    if c.machine.races is not None:
        note_reads(c, active, flat, whole)
    values = []
    memory = shared.bytes.reshape(-1).view(np.dtype(f"u{size}"))
    for i in range(count):
        place = flat + i * size
        if size <= 4:
            shared.check_initialized(place // 4, active)
        else:
            for word in range(size // 4):
                shared.check_initialized(place // 4 + word, active)
        values.append(memory[place // size])
    return values


def note_reads(c: Cohort, active: Array | None, flat: Array, size: int) -> None:
    """Tell the search for races that active lanes read `size` bytes at flat positions [W, 32] or [W, 1]."""
    races = c.machine.races
    assert races is not None
    chosen = np.ones(flat.shape, np.bool_) if active is None else np.broadcast_to(active, flat.shape)
    warps = np.broadcast_to(c.warps[:, None], flat.shape)[chosen]
    for first in range(0, size, 4):
        races.read((flat[chosen] + first) // 4, warps)


def _restricted(c: Cohort, m: Any, offsets: Array) -> Array | None:
    """The active lanes in the shape of an access; None when all are."""
    if m is None:
        return None
    active = c.active(m)
    # An address the whole warp shares is read once, by whoever is active.
    return active if offsets.ndim == 2 and offsets.shape[1] > 1 else some_lane(active)[:, None]


def _misaligned(addresses: Array, size: int, active: Array | None, space: str) -> None:
    bad = addresses & addresses.dtype.type(size - 1) != 0
    if active is not None:
        bad = bad & active
    if bad.any():
        value = int(np.broadcast_to(addresses, bad.shape)[bad].flat[0])
        raise SimulationError(f"{space} address {value:#x} is not aligned to the {size} bytes accessed", bad)


def load_global(c: Cohort, m: Any, address: Any, size: int, count: int) -> list[Array]:
    addresses = np.asarray(address, dtype=np.uint64)
    grids, launches = c.machine.grids, c.launches
    if c.machine.units.timed:
        whole_warp = np.broadcast_to(addresses, (len(c.warps), addresses.shape[1] if addresses.ndim else 1))
        c.machine.units.load_from_memory(c, whole_warp, size * count, _restricted(c, m, whole_warp))
    if m is not None and addresses.ndim == 2:
        active = _restricted(c, m, addresses)
        assert active is not None
        active = np.broadcast_to(active, np.broadcast_shapes(active.shape, addresses.shape))
        addresses = np.broadcast_to(addresses, active.shape)
        _misaligned(addresses, size * count, active, "global")
        owners = np.broadcast_to(launches, addresses.shape)[active]
        values = []
        for i in range(count):
            value = np.zeros(addresses.shape, np.dtype(f"u{size}"))
            value[active] = grids.load(addresses[active] + np.uint64(i * size), size, owners)
            values.append(value)
        return values
    _misaligned(addresses, size * count, None, "global")
    if addresses.ndim == 0 and len(grids.launches) > 1:
        addresses = np.broadcast_to(addresses, launches.shape)
    flat = np.atleast_1d(addresses)
    values = [grids.load(flat + np.uint64(i * size), size, launches) for i in range(count)]
    return values if addresses.ndim else [value[0] for value in values]


def load_local(c: Cohort, m: Any, address: Any, size: int, count: int) -> list[Array]:
    active, addresses = c.active(m), c.lanes(np.asarray(address, dtype=np.uint64))
    return [
        c.machine.local.load(c.warps, active, addresses + np.uint64(i * size), size) for i in range(count)
    ]


@effect("st", flags=f"{SPACES} {ORDERS} {CACHES} v2 v4 v8")
def store(instruction: Instruction) -> Run:
    size, space = element_bytes(instruction), space_of(instruction)

    def run(c: Cohort, m: Any, address: Any, values: Any) -> None:
        items = values if isinstance(values, tuple) else (values,)
        active = None if m is None else c.active(m)
        match space_at(c, space, address, active):
            case "shared":
                store_shared(c, active, address, items, size)
            case "global":
                store_global(c, active, address, items, size)
            case "local":
                store_local(c, active, address, items, size)
            case other:
                raise SimulationError(f"{instruction.opcode}: no store to state space {other}")

    return run


def narrowed(value: Any, size: int) -> Array:
    """An operand's low bytes: a literal, or a register at least as wide."""
    dtype = np.dtype(f"u{size}")
    if isinstance(value, int):
        return np.asarray(value & (2 ** (8 * size) - 1), dtype)
    return np.asarray(value).astype(dtype, copy=False)


def _selected(c: Cohort, active: Array | None, value: Any) -> Array:
    whole = c.lanes(value)
    return whole.reshape(-1) if active is None else whole[active]


def store_shared(c: Cohort, active: Array | None, address: Any, items: tuple[Any, ...], size: int) -> None:
    write_shared(c, active, shared_place(c, address, active), items, size)


def write_shared(
    c: Cohort, active: Array | None, place: tuple[Array, Array], items: tuple[Any, ...], size: int
) -> None:
    """Ordinary stores of `items`, one after the other, at `place` (rows, offsets)."""
    shared = c.machine.shared
    rows, offsets = place
    rows, offsets = _selected(c, active, rows), _selected(c, active, offsets)
    _misaligned(offsets, size * len(items), None, "shared")
    threads = _selected(c, active, c.machine.thread_of_lane[c.warps])
    flat = shared.index(rows, offsets, size, None)
    if len(items) > 1:
        shared.index(rows, offsets + size * (len(items) - 1), size, None)
    c.machine.check_store(rows, offsets, size * len(items))
    if c.machine.races is not None:
        warps = _selected(c, active, c.warps[:, None])
        for word in range(0, size * len(items), 4):
            c.machine.races.write((flat + word) // 4, warps)
    values = [_selected(c, active, narrowed(item, size)) for item in items]
    # A vector is written as one item.
    whole = values[0] if len(values) == 1 else np.stack(values, -1).view(f"V{size * len(values)}")[:, 0]
    shared.bytes.reshape(-1).view(whole.dtype)[flat // whole.itemsize] = whole
    shared.mark(flat // 4, threads, c.step, max(1, whole.itemsize // 4))


def store_global(c: Cohort, active: Array | None, address: Any, items: tuple[Any, ...], size: int) -> None:
    every = np.asarray(address, dtype=np.uint64)
    if c.machine.units.timed:
        c.machine.units.store_to_memory(c, c.lanes(every), size * len(items), active)
    addresses = _selected(c, active, every)
    _misaligned(addresses, size * len(items), None, "global")
    owners = _selected(c, active, c.launches)
    for i, item in enumerate(items):
        values = _selected(c, active, narrowed(item, size))
        c.machine.grids.store(addresses + np.uint64(i * size), values, size, owners)


def store_local(c: Cohort, active: Array | None, address: Any, items: tuple[Any, ...], size: int) -> None:
    lanes, addresses = c.active(active), c.lanes(np.asarray(address, dtype=np.uint64))
    for i, item in enumerate(items):
        values = c.lanes(narrowed(item, size))
        c.machine.local.store(c.warps, lanes, addresses + np.uint64(i * size), values, size)


@effect("mapa", flags="shared::cluster", writes=True)
def map_address(instruction: Instruction) -> Run:
    kind: Any = np.uint64 if instruction.parts[-1] == "u64" else np.uint32

    def run(c: Cohort, m: Any, address: Any, rank: Any) -> Any:
        ranks = np.asarray(rank & 0xFFFFFFFF if isinstance(rank, int) else rank)
        # A rank that the cluster has not gives an address that no access may use.
        offset: Any = np.asarray(address).astype(kind) & kind(OFFSET_MASK)
        shifted: Any = ranks.astype(kind) << kind(RANK_SHIFT)
        return offset | shifted

    return run


@effect("prefetch", flags="global local L1 L2 L2::evict_last L2::evict_normal")
@effect("prefetchu", flags="L1")
@effect("discard", flags="global L2")
@effect("applypriority", flags="global L2::evict_normal")
def hint(instruction: Instruction) -> Run:
    """Cache hints change no value."""
    return lambda c, m, *operands: None


_EVICTIONS = "L2::evict_last L2::evict_normal L2::evict_first L2::evict_unchanged"


@effect("createpolicy", flags=f"fractional range cvt L2 global {_EVICTIONS}", writes=True)
def policy(instruction: Instruction) -> Run:
    return lambda c, m, *operands: np.uint64(0)

"""`tcgen05.mma`, `tcgen05.cp` and `tcgen05.commit`: work for the tensor cores, issued by one thread.

PTX ISA, "TensorCore 5th Generation Family Instructions: tcgen05.mma, tcgen05.cp, tcgen05.commit".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.cohort import Cohort
from harness.simulator.effects import Run, effect
from harness.simulator.effects_memory import shared_place
from harness.simulator.errors import NotSimulatedError, SimulationError
from harness.simulator.ptx import Address, Instruction, Vector
from harness.simulator.tcgen05_copy import SHAPES
from harness.simulator.tcgen05_instruction import Kind, Mma, decode_mma
from harness.simulator.tcgen05_layout import DataPath, LaneLayout
from harness.simulator.tensor_issue import Issued
from harness.simulator.tensor_memory import HALF_QUADRANT, LANES, QUADRANT, column_of, lane_of
from harness.simulator.tensor_unit import TensorUnit, tensor_unit

Array = npt.NDArray[Any]
COLLECTOR = ("discard", "fill", "use", "lastuse")
# The top two bits of a scale factor's address name a byte (PTX ISA, "Scale Factor A ID").
SCALE_ADDRESS = np.uint32(0x3FFFFFFF)
WORKING_BITS = {Kind.F16: 16, Kind.TF32: 32, Kind.F8F6F4: 8, Kind.MXF8F6F4: 8, Kind.MXF4: 4, Kind.MXF4NVF4: 4}


def cta_group(instruction: Instruction) -> int:
    """The 1 or 2 of `.cta_group::`."""
    for part in instruction.parts:
        if part in ("cta_group::1", "cta_group::2"):
            return int(part[-1])
    raise SimulationError(f"{instruction.opcode} names no cta_group")


def issuers(c: Cohort, m: Any, instruction: Instruction) -> Array:
    """bool [W]: the warps of which a lane issues the instruction; it has to be one lane only."""
    lanes = c.active(m).sum(1)
    if (lanes > 1).any():
        raise SimulationError(
            f"{instruction.parts[1]} issued by {lanes.max()} lanes of a warp: want one thread", lanes > 1
        )
    here: Array = lanes == 1
    return here


def operand(c: Cohort, m: Any, here: Array, value: Any, dtype: Any) -> Array:
    """An operand of the issuing lanes [G]."""
    return c.per_warp(np.asarray(value), m)[here].astype(dtype)


@effect("tcgen05", "mma")
def mma(instruction: Instruction) -> Run:
    """Dense and block-scaled products; sparse and weight-stationary ones are not known."""
    parts = instruction.parts
    kind = next((part.removeprefix("kind::") for part in parts if part.startswith("kind::")), "")
    scaled = "block_scale" in parts
    vectors = [part for part in parts if part.startswith("scale_vec::") or part in ("block16", "block32")]
    for part in parts[2:]:
        known = part in ("block_scale", *vectors) or part.startswith(("cta_group::", "kind::"))
        if not known and not (part.startswith("collector::a::") and part.split("::")[2] in COLLECTOR):
            raise NotSimulatedError(f"{instruction.opcode} is not known")
    group = cta_group(instruction)
    from_memory = isinstance(instruction.operands[1], Address)
    masked = len(instruction.operands) > 4 and isinstance(instruction.operands[4], Vector)

    def run(c: Cohort, m: Any, d: Any, a: Any, b: Any, descriptor: Any, *rest: Any) -> None:
        here = issuers(c, m, instruction)
        if not here.any():
            return
        unit = tensor_unit(c.machine)
        count = int(here.sum())
        none = np.zeros(count, np.uint32)
        scale_a = scale_b = none
        disabled = None
        if scaled:
            scale_a, scale_b = (operand(c, m, here, value, np.uint32) for value in rest[:2])
            rest = rest[2:]
        elif masked:
            lanes = np.stack([operand(c, m, here, value, np.uint32) for value in rest[0]], 1)
            disabled = lanes if lanes.any() else None
            rest = rest[1:]
        enable, *scale_input = rest
        codes = operand(c, m, here, descriptor, np.uint32)
        whole = Issued(
            instruction=instruction,
            warps=c.warps[here],
            ctas=unit.ctas(c.rows[here], group),
            d=operand(c, m, here, d, np.uint32),
            a=operand(c, m, here, a, np.uint32 if from_memory else np.uint64),
            b=operand(c, m, here, b, np.uint64),
            accumulate=operand(c, m, here, enable, np.bool_),
            scale_a=scale_a & SCALE_ADDRESS,
            scale_b=scale_b & SCALE_ADDRESS,
            disabled=disabled,
            a_in_tensor_memory=from_memory,
            scale_input=int(scale_input[0]) if scale_input else 0,
        )
        times = c.clock[here]
        for code in np.unique(codes):
            chosen = codes == code
            shape = decode_mma(int(code), kind, group, vectors[0] if vectors else "")
            one = whole if chosen.all() else whole.of(chosen)
            _multiply(unit, Issued(**{**vars(one), "mma": shape}), shape, times[chosen])

    return run


def _multiply(unit: TensorUnit, one: Issued, shape: Mma, times: Array) -> None:
    """Check and queue a product of one shape."""
    layout = LaneLayout.of(shape)
    places = [("accumulator", one.d, layout.columns(shape.n))]
    if one.a_in_tensor_memory:
        places.append(("source", one.a, 8))
    if shape.scale is not None:
        split = 2 if shape.m // shape.cta_group < LANES and shape.cta_group == 2 else 1
        rows_a, rows_b = shape.m // shape.cta_group, shape.n // split
        places += [
            ("source", one.scale_a, -(-rows_a // QUADRANT)),
            ("source", one.scale_b, -(-rows_b // QUADRANT)),
        ]
    _, d, width = places[0]
    for _, address, columns in places[1:]:
        first, start = column_of(address), column_of(d)
        if ((first < start + width) & (start < first + columns)).any():
            raise SimulationError(
                f"the accumulator, {width} columns from {int(start[0])} on, overlaps an operand of its own, "
                f"{columns} columns from {int(first[0])} on"
            )
    claim(unit, one, places, layout.path is DataPath.HALF)
    units, bits = unit.machine.units, WORKING_BITS[shape.kind]
    # A CTA's tensor core works on 128 rows at a time; each CTA of a pair reads its own rows and half of B.
    products = max(shape.m // shape.cta_group, LANES) * shape.n * shape.k
    read_rows = ((0 if one.a_in_tensor_memory else shape.m) + shape.n) // shape.cta_group
    unit.issue(one, units.mma_cycles(products, read_rows * shape.k * bits / 8, bits), times)


def claim(unit: TensorUnit, one: Issued, places: list[tuple[str, Array, int]], halved: bool = False) -> None:
    """Check that the columns of each (role, address [G], columns) are allocated and not in use.

    `halved`: of each quarter of lanes, matrices lie in the half that their address names.
    """
    for role, address, columns in places:
        first = column_of(address)
        for cta in one.ctas.T:
            unit.allocations.check(cta, first, columns)
        if unit.shadow is not None:
            half = lane_of(address) // HALF_QUADRANT if halved else None
            cells = unit.shadow.all_lanes(one.warps, one.ctas, first, columns, half)
            unit.shadow.core(one.instruction, role, cells)


@effect("tcgen05", "cp")
def copy(instruction: Instruction) -> Run:
    """Shared memory to tensor memory."""
    shape = ".".join(part for part in instruction.parts[2:] if not part.startswith("cta_group::"))
    if shape not in SHAPES:
        raise NotSimulatedError(f"{instruction.opcode} is not known")
    group = cta_group(instruction)
    columns = SHAPES[shape].row_bytes // 4

    def run(c: Cohort, m: Any, target: Any, descriptor: Any) -> None:
        here = issuers(c, m, instruction)
        if not here.any():
            return
        unit = tensor_unit(c.machine)
        none = np.zeros(int(here.sum()), np.uint32)
        one = Issued(
            instruction=instruction,
            warps=c.warps[here],
            ctas=unit.ctas(c.rows[here], group),
            d=operand(c, m, here, target, np.uint32),
            a=operand(c, m, here, descriptor, np.uint64),
            b=none,
            accumulate=none,
            scale_a=none,
            scale_b=none,
            shape=shape,
        )
        claim(unit, one, [("copy", one.d, columns)])
        unit.issue(one, c.machine.units.target.chip["tensor_copy_cycles"], c.clock[here])

    return run


@effect(
    "tcgen05",
    "commit",
    flags="cta_group::1 cta_group::2 mbarrier::arrive::one shared::cluster multicast::cluster",
)
def commit(instruction: Instruction) -> Run:
    """Arrive on an mbarrier once all that the thread has issued is complete; multicast: in several CTAs."""
    group = cta_group(instruction)
    multicast = "multicast::cluster" in instruction.parts
    if "mbarrier::arrive::one" not in instruction.parts:
        raise NotSimulatedError(f"{instruction.opcode} is not known")

    def run(c: Cohort, m: Any, address: Any, mask: Any = 0) -> None:
        here = issuers(c, m, instruction)
        if not here.any():
            return
        machine = c.machine
        unit = tensor_unit(machine)
        unit.uses_group(group)
        place = shared_place(c, address, c.active(m), by_copy=True)
        rows, offsets = (c.per_warp(value, m)[here] for value in place)
        which = np.arange(len(rows))
        if multicast:
            wanted = operand(c, m, here, mask, np.int64)[:, None] >> np.arange(16) & 1
            if not wanted.any(1).all() or wanted[:, machine.cluster_size :].any():
                raise SimulationError(f"commit to CTAs {wanted[0]} of a cluster of {machine.cluster_size}")
            which, ranks = np.nonzero(wanted)
            rows, offsets = machine.first_row_of_cluster[rows[which]] + ranks, offsets[which]
        keys = machine.mbarriers.keys(rows, offsets)
        warps = c.warps[here]
        machine.check_initialized(warps[which], keys)
        ordering = machine.ordering
        clocks = ordering.committed(warps) if ordering is not None else None
        exits = machine.thread_order
        known = exits.commit(warps, which, rows) if exits is not None else None
        if unit.shadow is not None:
            unit.shadow.committed()

        def arrive(times: Array) -> None:
            if exits is not None and known is not None:
                exits.deliver("mbarrier", known[which], keys, machine.mbarriers.phase[keys])
            if ordering is not None and clocks is not None:
                ordering.deliver("mbarrier", clocks[which], keys, machine.mbarriers.phase[keys])
            machine.mbarriers.arrive(keys, 1, times[which])

        unit.commit(warps, c.clock[here], arrive)

    return run

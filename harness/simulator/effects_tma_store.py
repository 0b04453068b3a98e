"""TMA tile stores and reductions: shared memory to a tensor, in bulk groups.

PTX ISA, "cp.async.bulk.tensor", "cp.reduce.async.bulk.tensor". A store reads its source at an
event of its own, so that a kernel which reuses the source too early stores what it should not have.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.simulator import tma_copy
from harness.simulator.blame import origin
from harness.simulator.cohort import LANES, Cohort
from harness.simulator.effects import Run, effect
from harness.simulator.effects_bulk_groups import store_in_groups
from harness.simulator.errors import SimulationError
from harness.simulator.ptx import Instruction
from harness.simulator.shared import RANK_SHIFT
from harness.simulator.tensors_used import Tensor, check_alignment, corner_of, issued, tensors_used
from harness.simulator.tma_box import shared_bytes

if TYPE_CHECKING:
    from harness.simulator.machine import Machine

Array = npt.NDArray[Any]
RANKS = "1d 2d 3d 4d 5d"
_REDUCTION = f"{RANKS} add global shared::cta tile bulk_group L2::cache_hint"


@effect("cp", "reduce", "async", "bulk", "tensor", flags=_REDUCTION)
def tensor_reduction(instruction: Instruction) -> Run:
    parts = instruction.parts
    if "add" not in parts or parts[6] != "global":
        raise SimulationError(f"{instruction.opcode} is not known")
    return store_of(instruction, int(parts[5][0]), tma_copy.reduce_add)


def store_of(instruction: Instruction, rank: int, copy: Callable[..., None]) -> Run:
    def run(c: Cohort, m: Any, target: Any, source: Any, *rest: Any) -> None:
        machine = c.machine
        descriptor, coordinates = target
        warps, (maps, start, lanes, *places) = issued(
            c, m, descriptor, source, np.arange(LANES), *coordinates
        )
        corner = corner_of(places, rank)
        if not len(warps):
            return
        check_alignment(start, "tile store from")
        for tensor in chain.from_iterable(tensors_used(c, warps, maps, rank)):
            mine = tensor.issues
            _store_tiles(
                machine,
                c,
                tensor,
                warps[mine],
                lanes[mine],
                start[mine] & ((1 << RANK_SHIFT) - 1),
                corner[mine],
                copy,
                origin(machine, c, m, instruction),
            )

    return run


def _store_tiles(
    machine: Machine,
    c: Cohort,
    tensor: Tensor,
    warps: Array,
    lanes: Array,
    offsets: Array,
    corner: Array,
    copy: Callable[..., None],
    who: Callable[[], str],
) -> None:
    size = shared_bytes(tensor.map)
    rows = c.rows[warps]
    words = offsets[:, None] // 4 + np.arange(size // 4)
    machine.shared.index(rows, offsets + size - 16, 16, None)
    machine.shared.check_async_read(rows, words)
    if machine.races is not None:
        flat = rows[:, None] * (machine.shared.size // 4) + words
        machine.races.read(flat.reshape(-1), np.repeat(c.warps[warps], words.shape[1]))
    done = machine.units.store(machine.sm_of_row[rows], np.full(len(warps), size), c.clock[warps])

    def read() -> Array:
        if not machine.functional:
            return np.zeros((0, 0), np.uint8)
        cells = machine.shared.chunks()
        return cells[rows[:, None], offsets[:, None] // 16 + np.arange(size // 16)].view(np.uint8)

    def write(data: Array) -> None:
        if machine.functional:
            copy(tensor.map, tensor.memory, corner, offsets, data)

    store_in_groups(machine, c.warps[warps], lanes, c.clock[warps], done, read, write, who)

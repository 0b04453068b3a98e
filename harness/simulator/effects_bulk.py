"""Bulk copies without a tensor map, and stores that signal an mbarrier.

PTX ISA, "Data movement and conversion instructions: cp.async.bulk, st.async". As with tile loads, the bytes
appear, and count on their mbarrier, when the copy's event is due.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.blame import origin
from harness.simulator.cohort import LANES, Cohort
from harness.simulator.copy_targets import check_arrival, check_target
from harness.simulator.effects import Run, effect
from harness.simulator.effects_bulk_groups import store_in_groups
from harness.simulator.effects_memory import element_bytes, narrowed, shared_place, write_shared
from harness.simulator.errors import SimulationError
from harness.simulator.ptx import Instruction, Vector

Array = npt.NDArray[Any]
BULK_ALIGNMENT = 16
_TO_SHARED = {"shared::cta", "shared::cluster", "global", "mbarrier::complete_tx::bytes", "L2::cache_hint"}
_TO_GLOBAL = {"global", "shared::cta", "bulk_group", "L2::cache_hint"}


@effect("cp", "async", "bulk")
def bulk_copy(instruction: Instruction) -> Run:
    """`cp.async.bulk.<to>.<from>`: bytes as they are, in multiples of 16."""
    parts = instruction.parts[3:]
    if parts[0] == "global" and set(parts) <= _TO_GLOBAL and "bulk_group" in parts:
        return _bulk_store(instruction)
    if parts[0].startswith("shared") and parts[1] == "global" and set(parts) <= _TO_SHARED:
        return _bulk_load(instruction)
    raise SimulationError(f"{instruction.opcode} is not known")


def each_lane(c: Cohort, m: Any, *operands: Any) -> list[tuple[int, ...]]:
    """(warp of the cohort, operands...) of every active lane."""
    active = c.active(m)
    warps, _ = np.nonzero(active)
    columns = [c.lanes(np.asarray(operand)).astype(np.int64)[active] for operand in operands]
    return list(zip(warps.tolist(), *(column.tolist() for column in columns), strict=True))


def _check_bulk(place: int, start: int, size: int) -> None:
    for what, value in (("shared address", place), ("global address", start), ("size", size)):
        if value % BULK_ALIGNMENT:
            raise SimulationError(f"bulk copy with {what} {value:#x}: want a multiple of {BULK_ALIGNMENT}")


def _bulk_load(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any, to: Any, source: Any, size: Any, mbarrier: Any, *hint: Any) -> None:
        machine, active = c.machine, c.active(m)
        rows, offsets = (c.lanes(value) for value in shared_place(c, to, active, by_copy=True))
        bar_rows, bar_offsets = (c.lanes(value) for value in shared_place(c, mbarrier, active, by_copy=True))
        for warp, start, count, row, place, bar_row, bar in each_lane(
            c, m, source, size, rows, offsets, bar_rows, bar_offsets
        ):
            _check_bulk(place, start, count)
            target, places, sizes = np.array([row]), np.array([place]), np.array([count])
            check_target(machine, target, places, count, "a bulk copy")
            keys = machine.mbarriers.keys(np.array([bar_row]), np.array([bar]))
            machine.shared.begin_load(target, places, count)
            sms, clock = machine.sm_of_row[c.rows[[warp]]], c.clock[[warp]]
            tiles = [("bulk", start, count)]
            done = machine.units.load(sms, sizes, sizes, clock, tiles, machine.units.is_shared(start))
            warps, epochs = c.warps[[warp]], None
            if machine.thread_order is not None:
                epochs = machine.thread_order.copy(warps, np.zeros(1, np.int64), target, keys)

            def arrive(
                target: Array = target,
                places: Array = places,
                start: int = start,
                count: int = count,
                keys: Array = keys,
                done: Array = done,
                warps: Array = warps,
                epochs: Array | None = epochs,
            ) -> None:
                check_arrival(machine, target, keys, "a bulk copy")
                first = int(places[0])
                source = machine.memory_of(int(target[0])).array(start, count)
                machine.shared.bytes[target[0], first : first + count] = source
                machine.shared.mark_loaded(target, places, count, machine.step)
                if machine.thread_order is not None and epochs is not None:
                    machine.thread_order.complete(warps, epochs, keys, machine.mbarriers.phase[keys])
                machine.mbarriers.complete_bytes(keys, count, done)

            machine.at(float(done[0]), arrive, origin(machine, c, m, instruction))

    return run


def _bulk_store(instruction: Instruction) -> Run:
    def run(c: Cohort, m: Any, to: Any, source: Any, size: Any, *hint: Any) -> None:
        machine = c.machine
        rows, offsets = (c.lanes(value) for value in shared_place(c, source, c.active(m)))
        lanes = np.arange(LANES)
        for warp, start, count, row, place, lane in each_lane(c, m, to, size, rows, offsets, lanes):
            _check_bulk(place, start, count)
            source_row, places = np.array([row]), np.array([place])
            machine.shared.index(source_row, places, BULK_ALIGNMENT, None)
            machine.shared.index(source_row, places + count - BULK_ALIGNMENT, BULK_ALIGNMENT, None)
            machine.shared.check_async_read(source_row, places[:, None] // 4 + np.arange(count // 4))
            sms, clock = machine.sm_of_row[c.rows[[warp]]], c.clock[[warp]]
            done = machine.units.store(sms, np.array([count]), clock)

            def read(row: int = row, place: int = place, count: int = count) -> Array:
                return machine.shared.bytes[row, place : place + count].copy()

            def write(data: Array, row: int = row, start: int = start) -> None:
                machine.memory_of(row).array(start, len(data))[:] = data

            store_in_groups(
                machine,
                c.warps[[warp]],
                np.array([lane]),
                clock,
                done,
                read,
                write,
                origin(machine, c, m, instruction),
            )

    return run


@effect("st", "async", flags="weak shared::cluster mbarrier::complete_tx::bytes v2 v4")
def signalling_store(instruction: Instruction) -> Run:
    """`st.async [to], value, [mbarrier]`: bytes and their count appear together, in whichever CTA it is."""
    size = element_bytes(instruction)
    value = instruction.operands[1]
    total = size * (len(value.items) if isinstance(value, Vector) else 1)

    def run(c: Cohort, m: Any, to: Any, values: Any, mbarrier: Any) -> None:
        machine, active = c.machine, c.active(m)
        place = shared_place(c, to, active, by_copy=True)
        rows = c.lanes(place[0])[active]
        barrier = shared_place(c, mbarrier, active, by_copy=True)
        bar_rows, bar_offsets = (c.lanes(part)[active] for part in barrier)
        if (rows != bar_rows).any():
            raise SimulationError(
                "the mbarrier of st.async lies in another CTA than the bytes", rows != bar_rows
            )
        keys = machine.mbarriers.keys(bar_rows, bar_offsets)
        warps, _ = np.nonzero(active)
        done = c.clock[warps] + machine.units.target.chip["multicast_latency"]
        items = tuple(
            c.lanes(narrowed(item, size)) for item in (values if isinstance(values, tuple) else (values,))
        )
        issuers, epochs = c.warps[warps], None
        if machine.thread_order is not None:
            epochs = machine.thread_order.copy(issuers, np.arange(len(warps)), rows, keys)

        def arrive() -> None:
            write_shared(c, active, place, items, size)
            if machine.thread_order is not None and epochs is not None:
                machine.thread_order.complete(issuers, epochs, keys, machine.mbarriers.phase[keys])
            machine.mbarriers.complete_bytes(keys, total, done)

        machine.at(float(done.max(initial=0.0)), arrive, origin(machine, c, m, instruction))

    return run

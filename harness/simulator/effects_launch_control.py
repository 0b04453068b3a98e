"""`clusterlaunchcontrol`: a running cluster asks for the work of one that has not been launched yet.

PTX ISA, "Parallel synchronization and communication instructions: clusterlaunchcontrol.try_cancel,
clusterlaunchcontrol.query_cancel". A machine launches all of its clusters at once, so there is none left to
cancel and every request fails: the answer that ends a kernel's loop over tiles. It comes, as on a GPU,
asynchronously, 16 opaque bytes and their count on an mbarrier.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.blame import origin
from harness.simulator.cohort import LANES, Cohort
from harness.simulator.copy_targets import check_arrival, check_target
from harness.simulator.effects import Run, effect
from harness.simulator.effects_barriers import barrier_places
from harness.simulator.errors import NotSimulatedError, SimulationError
from harness.simulator.ptx import Instruction

Array = npt.NDArray[Any]
RESPONSE_BYTES = 16
FAILED = 0  # the response's first byte; a success is not known here


@effect(
    "clusterlaunchcontrol",
    "try_cancel",
    flags="async shared::cta mbarrier::complete_tx::bytes multicast::cluster::all b128",
)
def try_cancel(instruction: Instruction) -> Run:
    """`[response], [mbarrier]`; .multicast::cluster::all: at these places of every CTA of the cluster."""
    everywhere = "multicast::cluster::all" in instruction.parts

    def run(c: Cohort, m: Any, response: Any, barrier: Any) -> None:
        machine = c.machine
        rows, offsets, warps = barrier_places(c, m, response)
        _, barriers, _ = barrier_places(c, m, barrier)
        if (offsets % RESPONSE_BYTES).any():
            raise SimulationError(f"response at {int(offsets[0]):#x}: want a multiple of {RESPONSE_BYTES}")
        count = machine.cluster_size if everywhere else 1
        first = machine.first_row_of_cluster[rows] if everywhere else rows
        targets = (first[:, None] + np.arange(count)).reshape(-1)
        places, signals = offsets.repeat(count), barriers.repeat(count)
        check_target(machine, targets, places, RESPONSE_BYTES, "a response")
        keys = machine.mbarriers.keys(targets, signals)
        machine.check_initialized(c.warps[warps].repeat(count), keys)
        done = (c.clock[warps] + machine.units.target.chip["l2_latency"]).repeat(count)
        machine.shared.begin_load(targets, places, RESPONSE_BYTES)

        def arrive() -> None:
            check_arrival(machine, targets, keys, "a response")
            machine.shared.bytes[targets[:, None], places[:, None] + np.arange(RESPONSE_BYTES)] = FAILED
            machine.shared.mark_loaded(targets, places, RESPONSE_BYTES, machine.step)
            machine.mbarriers.complete_bytes(keys, RESPONSE_BYTES, done)

        machine.at(float(done.min()), arrive, origin(machine, c, m, instruction))

    return run


@effect("mov", "b128", flags="", writes=True)
def whole_response(instruction: Instruction) -> Run:
    """A response from its two halves, of which the first says all."""
    return lambda c, m, halves: halves[0]


@effect("clusterlaunchcontrol", "query_cancel", writes=True)
def query_cancel(instruction: Instruction) -> Run:
    """Whether a request succeeded, or the first CTA that it won: undefined for one that failed, here 0."""
    query = instruction.parts[2]
    if query != "is_canceled" and not query.startswith("get_first_ctaid::"):
        raise NotSimulatedError(f"{instruction.opcode} is not known")

    def run(c: Cohort, m: Any, response: Any) -> Array:
        if (c.lanes(response)[c.active(m)] != FAILED).any():
            raise SimulationError("a response of clusterlaunchcontrol.try_cancel that it did not give")
        kind = np.bool_ if query == "is_canceled" else np.uint32
        return np.zeros((len(c.warps), LANES), kind)

    return run

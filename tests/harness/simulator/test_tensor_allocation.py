"""Allocation of tensor memory: what fits where, who waits, and what is refused."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from harness.simulator.errors import Deadlock, SimulationError
from harness.simulator.global_memory import GlobalMemory
from harness.simulator.grids import Grids
from harness.simulator.launch import Launch
from harness.simulator.loaded import load
from harness.simulator.machine import Machine
from harness.simulator.target import target_named
from harness.simulator.tensor_allocation import Allocations
from harness.simulator.timing import Units
from tests.harness.simulator import handshake_ptx


def allocate(allocations: Allocations, rows: tuple[int, ...], columns: int) -> int | None:
    """The first column that the CTAs of `rows` get together, None while they have to wait."""
    for row in rows:
        allocations.ask(row, columns)
    allocations.grant(rows)
    granted = [allocations.collect(row) for row in rows]
    assert len(set(granted)) == 1
    return granted[0][0] if granted[0] is not None else None


def test_allocations_of_a_cta_do_not_overlap() -> None:
    allocations = Allocations(np.arange(2))
    assert [allocate(allocations, (0,), columns) for columns in (128, 64, 32)] == [0, 128, 192]
    assert allocate(allocations, (1,), 512) == 0
    allocations.free(0, 128, 64, 10.0)
    assert allocate(allocations, (0,), 32) == 128
    assert allocate(allocations, (0,), 32) == 160
    assert allocate(allocations, (0,), 32) == 224


def test_allocations_do_not_grow() -> None:
    allocations = Allocations(np.arange(1))
    assert allocate(allocations, (0,), 32) == 0
    allocations.free(0, 0, 32, 10.0)
    with pytest.raises(
        SimulationError, match="an allocation of 64 columns of tensor memory behind one of 32"
    ):
        allocations.ask(0, 64)


def test_a_cta_waits_for_what_its_neighbour_on_the_sm_holds() -> None:
    allocations = Allocations(np.array([3, 3]))
    assert allocate(allocations, (0,), 512) == 0
    assert allocate(allocations, (1,), 32) is None
    assert allocations.waits_for(1) == "32 columns of tensor memory (0 are free on its SM)"
    allocations.free(0, 0, 512, 99.0)
    allocations.grant((1,))
    assert allocations.collect(1) == (0, 99.0)


def test_a_pair_gets_the_same_columns() -> None:
    allocations = Allocations(np.array([0, 1]))
    assert allocate(allocations, (0,), 128) == 0
    assert allocate(allocations, (0, 1), 64) == 128
    allocations.ask(0, 32)
    allocations.grant((0, 1))
    assert allocations.collect(0) is None
    allocations.ask(1, 64)
    with pytest.raises(SimulationError, match="the CTAs of a pair allocate"):
        allocations.grant((0, 1))


class OneSm(Units):
    """Every CTA on the same SM."""

    def place(self, rows: int, cluster_size: int) -> Any:
        return np.zeros(rows, np.int64)


def run_two_ctas(ptx: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Two CTAs of the handshake kernel on one SM; when each one ends, in cycles."""
    out = np.full((handshake_ptx.ROUNDS, handshake_ptx.ROWS), np.nan, np.float32)
    memory = GlobalMemory()
    memory.register("out", out.ctypes.data, out.nbytes)
    pointer = bytes(ctypes.c_uint64(out.ctypes.data))
    launch = Launch("handshake", (2, 1, 1), (handshake_ptx.THREADS, 1, 1), (1, 1, 1), 0, (pointer,))
    units = OneSm(target_named("sm_100a"))
    kernel = load(ptx)["handshake"]
    ends = Machine(kernel, Grids.of_launch(kernel, launch, memory), np.arange(2), units).run()
    assert (out == handshake_ptx.MMA_K * np.array([[1], [2]])).all()
    return ends


def whole_sm(ptx: str) -> str:
    """The kernel with all columns of an SM instead of the 32 that it needs."""
    return ptx.replace(f"[%r2+{handshake_ptx.ADDRESS}], 32;", f"[%r2+{handshake_ptx.ADDRESS}], 512;").replace(
        "%r5, 32;", "%r5, 512;"
    )


def test_ctas_that_share_an_sm_run_one_after_the_other_if_each_wants_all_of_it() -> None:
    together = run_two_ctas(handshake_ptx.KERNEL)
    one_by_one = run_two_ctas(whole_sm(handshake_ptx.KERNEL))
    assert together.max() < 1.2 * together.min()
    assert one_by_one.max() > 1.5 * one_by_one.min()


def test_a_barrier_behind_an_allocation_that_cannot_come_is_a_deadlock() -> None:
    ptx = whole_sm(handshake_ptx.KERNEL)
    stuck = ptx.replace("    tcgen05.dealloc", "STUCK: bar.sync 4, 64;\n    tcgen05.dealloc")
    with pytest.raises(Deadlock, match=r"512 columns of tensor memory \(0 are free on its SM\)"):
        run_two_ctas(stuck)

"""The account of one modelled launch: where its time goes, by wave, unit and warp role."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness.simulator.account_record import LOAD, PRODUCT, STORE, LaunchAccount, RoleAccount, WaveAccount
from harness.simulator.machine import SCHEDULERS
from harness.simulator.memory_path import Wave
from harness.simulator.model import Model, launch_cycles
from harness.simulator.run import Program
from harness.simulator.target import Target
from harness.simulator.trace import TracedUnits

# Of the roles, in the order in which data passes them.
ROLE_ORDER = ("TMA", "MMA", "math", "epilogue", "other")


def account(program: Program, args: Sequence[torch.Tensor], *, warm: bool, **model: Any) -> LaunchAccount:
    """Model a launch of `program` on `args` with everything written down; `model` is passed to `Model`."""
    traced: list[TracedUnits] = []

    def make_units(target: Target, wave: Wave) -> TracedUnits:
        traced.append(TracedUnits(target, wave))
        return traced[-1]

    microseconds = Model(program, make_units=make_units, **model).microseconds(args, warm)
    first = traced[0]
    assert first.machine is not None
    target = first.target
    return LaunchAccount(
        microseconds,
        target.clock_mhz,
        launch_cycles(target, first.wave.clusters * first.machine.cluster_size),
        tuple(_wave(units) for units in traced),
    )


def _wave(units: TracedUnits) -> WaveAccount:
    machine = units.machine
    assert machine is not None
    cycles = float(units.clock.max())
    sms = len(np.unique(machine.sm_of_row))
    total: defaultdict[str, float] = defaultdict(float)
    sizes: defaultdict[str, float] = defaultdict(float)
    for span in units.spans:
        total[span.kind] += span.end - span.begin
        sizes[span.kind] += span.size
    chip = units.target.chip
    shares = {
        "tensor cores": total[PRODUCT] / (sms * cycles),
        "SM intake": sizes[LOAD] / chip["sm_bytes"] / (sms * cycles),
        "L2": units.memory.l2_bytes / units.memory.l2.rate / cycles,
        "memory": units.memory.memory_bytes / units.memory.dram.rate / cycles,
        "issue slots": units.issue_cycles / (SCHEDULERS * sms * cycles),
    }
    return WaveAccount(
        kernel=machine.kernel.kernel.name,
        clusters=units.wave.clusters,
        simulated_ctas=machine.rows,
        warps_per_cta=machine.warps_per_cta,
        cycles=cycles,
        shares=shares,
        l2_bytes=units.memory.l2_bytes,
        memory_bytes=units.memory.memory_bytes,
        stored_bytes=float(sizes[STORE]),
        roles=_roles(units, cycles),
        spans=tuple(span for span in units.spans if span.sm == machine.sm_of_row[0]),
        lanes=_lanes(units),
    )


def _roles(units: TracedUnits, cycles: float) -> tuple[RoleAccount, ...]:
    machine = units.machine
    assert machine is not None
    members: defaultdict[str, list[int]] = defaultdict(list)
    for warp in range(len(units.clock)):
        members[units.role(warp)].append(warp)
    role_of = {warp: role for role, warps in members.items() for warp in warps}
    waited: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for wait in units.waits:
        waited[role_of[wait.warp]][wait.at] += wait.end - wait.begin
    accounts = []
    for role in sorted(members, key=ROLE_ORDER.index):
        whole = len(members[role]) * cycles
        idle = float((cycles - units.clock[members[role]]).sum()) / whole
        longest = sorted(waited[role].items(), key=lambda item: -item[1])
        waits = tuple((at, spent / whole) for at, spent in longest)
        busy = 1.0 - idle - sum(share for _, share in waits)
        spent = units.busy[members[role]].sum(0) / whole
        work = tuple((units.lines(int(b)), float(spent[b])) for b in np.argsort(-spent) if spent[b] > 0)
        accounts.append(RoleAccount(role, len(members[role]) / machine.rows, busy, idle, work, waits))
    return tuple(accounts)


def _lanes(units: TracedUnits) -> tuple[tuple[str, tuple[tuple[float, float], ...]], ...]:
    """When the first CTA's warps ran: one warp of each role, the busiest, its time without its waits."""
    machine = units.machine
    assert machine is not None
    waits: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for wait in units.waits:
        waits[wait.warp].append((wait.begin, wait.end))
    chosen: dict[str, tuple[float, tuple[tuple[float, float], ...]]] = {}
    for warp in range(machine.warps_per_cta):
        runs, begin = [], 0.0
        for pause, resumed in sorted(waits[warp]):
            runs.append((begin, pause))
            begin = resumed
        runs.append((begin, float(units.clock[warp])))
        ran = sum(end - begin for begin, end in runs)
        role = units.role(warp)
        if role not in chosen or ran > chosen[role][0]:
            chosen[role] = (ran, tuple(runs))
    return tuple((role, chosen[role][1]) for role in sorted(chosen, key=ROLE_ORDER.index))

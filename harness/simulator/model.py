"""Modelled time of a launch at any M: the event machine without the arithmetic of copies and tensor cores.

A grid that fits the chip runs in one go; a larger one in waves of as many clusters as the SMs hold. All CTAs
of a wave do the same on different tokens, so a few columns of the grid are simulated (all CTAs with the same
x, which covers every partner of a merge), and the chip's L2 and memory serve them with the share that those
columns have of the wave. What several columns read, the weight, comes from memory once: its bytes are charged
to the simulated columns in the same proportion.

The chip takes the clusters of a grid along x first. Where a wave does not hold the whole grid, the CTAs of a
column do not run together: the tokens that one row of clusters has read come from memory again for a row of
a later turn, unless all inputs fit into the L2.

A small grid is simulated whole; there the model equals the machine's full run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.global_memory import GlobalMemory
from harness.simulator.grids import Grids
from harness.simulator.launch import Launch
from harness.simulator.loaded import LoadedKernel
from harness.simulator.machine import Machine
from harness.simulator.memory_path import Wave
from harness.simulator.run import Program, memory_of
from harness.simulator.target import Target
from harness.simulator.timing import Units

Array = npt.NDArray[Any]
# CTAs to simulate at least: enough that neighbours contend for what an SM or a cluster shares.
REPRESENTATIVE = 8
REGISTER_GRANULE = 8
DEFAULT_REGISTERS = 168


class Model:
    """Modelled times of one artifact.

    `registers`: of a thread as compiled, by kernel name (from the cubin). `weights`: which arguments of a
    launch all tokens share. `make_units`: another `Units`, one for each wave.
    """

    def __init__(
        self,
        program: Program,
        registers: Mapping[str, int] | None = None,
        target: Target | None = None,
        weights: tuple[int, ...] = (1,),
        make_units: Callable[[Target, Wave], Units] = Units,
    ) -> None:
        self.program = program
        self.weights = weights
        self.registers = dict(registers or {})
        self.target = target or next(iter(program.kernels.values())).target
        self.make_units = make_units

    def fits(self, args: Sequence[Any]) -> bool:
        """Whether all of `args` fit into the L2."""
        size = sum(arg.numel() * arg.element_size() for arg in args)
        return bool(size <= self.target.chip["l2_capacity_bytes"])

    def columns(self, args: Sequence[Any]) -> int:
        """Columns of clusters of the first kernel that a launch on `args` starts."""
        (launch, *_) = self.program.recorder.record(args)
        return launch.grid[0] // launch.cluster[0]

    def microseconds(self, args: Sequence[Any], warm: bool = False, fits: bool | None = None) -> float:
        """Time of one launch of the artifact on `args`; `warm`: the inputs lie in the L2 already.

        `fits`: whether all inputs fit into the L2, where the launch stands for one of another size.
        """
        fits = self.fits(args) if fits is None else fits
        weights = tuple(
            (args[i].data_ptr(), args[i].data_ptr() + args[i].numel() * args[i].element_size())
            for i in self.weights
        )
        launches = self.program.recorder.record(args)
        total = 0.0
        for number, launch in enumerate(launches):
            kernel = self.program.kernels[launch.kernel]
            # What one kernel of a launch wrote, the next one finds in the L2.
            inputs = Inputs(memory_of(args), weights, (warm and fits) or number > 0, fits)
            total += self._cycles(kernel, launch, inputs) / self.target.clock_mhz
        return total

    def _cycles(self, kernel: LoadedKernel, launch: Launch, inputs: Inputs) -> float:
        clusters = launch.ctas // launch.cluster_size
        registers = self.registers.get(launch.kernel, DEFAULT_REGISTERS)
        at_once = resident_clusters(kernel, launch, self.target, registers)
        full, rest = divmod(clusters, at_once)
        # What fits into the L2 stays there from one turn to the next.
        rows = launch.ctas if inputs.fit else rows_at_once(launch, at_once)

        def wave(size: int, later: bool) -> float:
            return self._wave(kernel, launch, inputs, size, later, rows)

        cycles = launch_cycles(self.target, min(launch.ctas, at_once * launch.cluster_size))
        for number in range(min(full, 2)):
            cycles += wave(at_once, number > 0) * (1 if number == 0 else full - 1)
        if rest:
            cycles += wave(rest, full > 0)
        return cycles + max(0, full + bool(rest) - 1) * self.target.chip["wave_cycles"]

    def _wave(
        self,
        kernel: LoadedKernel,
        launch: Launch,
        inputs: Inputs,
        clusters: int,
        later: bool,
        rows: int,
    ) -> float:
        """Cycles of one wave of `clusters`; `later`: the wave before has brought what all columns share.

        `rows`: of clusters, that the chip runs in one turn.
        """
        chosen = representative(launch, clusters)
        columns = launch.grid[0] // launch.cluster[0]
        turns = np.repeat(chosen // columns // rows, launch.cluster_size)
        at_once = min(columns, clusters)
        wave = Wave(clusters, len(chosen), inputs.warm, later, inputs.weights, at_once, turns)
        units = self.make_units(self.target, wave)
        grids = Grids.of_launch(kernel, launch, inputs.memory)
        machine = Machine(kernel, grids, chosen, units, functional=False)
        return float(machine.run().max())


@dataclass(frozen=True)
class Inputs:
    """What a launch reads.

    Attributes:
        weights: addresses (first, end) of what all tokens share.
        warm: everything lies in the L2 before the launch.
        fit: everything fits into the L2.
    """

    memory: GlobalMemory
    weights: tuple[tuple[int, int], ...]
    warm: bool
    fit: bool


def launch_cycles(target: Target, ctas: int) -> float:
    """Cycles until the first wave, of `ctas`, runs."""
    return target.chip["launch_cycles"] + ctas * target.chip["launch_cta_cycles"]


def rows_at_once(launch: Launch, at_once: int) -> int:
    """Rows of clusters that run together: the chip takes a grid's clusters along x first."""
    return max(1, at_once * launch.cluster[0] // launch.grid[0])


def representative(launch: Launch, clusters: int) -> Array:
    """Numbers of the clusters to simulate of a wave of `clusters`: whole columns of the grid."""
    columns = launch.grid[0] // launch.cluster[0]
    per_column = launch.ctas // launch.cluster_size // columns
    wanted = -(-REPRESENTATIVE // (per_column * launch.cluster_size))
    count = max(1, min(wanted, columns, clusters // per_column))
    if columns * per_column <= clusters and columns * per_column * launch.cluster_size <= 2 * REPRESENTATIVE:
        count = columns
    return (np.arange(per_column)[:, None] * columns + np.arange(count)).reshape(-1)


def resident_clusters(kernel: LoadedKernel, launch: Launch, target: Target, registers: int) -> int:
    """Clusters that the chip holds at once: by shared memory, registers and threads of an SM, and by GPC."""
    chip = target.chip
    per_sm = min(
        int(chip["shared_bytes"] + 1024)
        // (kernel.shared_bytes(launch) + (-kernel.shared_bytes(launch)) % 128),
        int(chip["registers"]) // (-(-registers // REGISTER_GRANULE) * REGISTER_GRANULE * launch.threads),
        int(chip["max_threads"]) // launch.threads,
    )
    per_sm = max(1, per_sm)
    size = launch.cluster_size
    if (known := chip.get(f"clusters_of_{size}")) is not None:
        return max(1, int(known) * per_sm)
    # Not measured for this target: GPCs of equal size, SMs in pairs.
    sms_of_gpc = target.sms // int(chip["gpcs"]) // 2 * 2
    return max(1, sms_of_gpc * per_sm // size * int(chip["gpcs"]))

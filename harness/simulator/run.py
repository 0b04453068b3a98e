"""Running recorded launches: which CTAs are resident together, one wave after the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifact import LAUNCHER
from harness.resources import read_resources
from harness.simulator.global_memory import GlobalMemory
from harness.simulator.grids import Grids, alike
from harness.simulator.launch import Launch
from harness.simulator.loaded import LoadedKernel, load
from harness.simulator.machine import Machine
from harness.simulator.recorder import Recorder
from harness.simulator.timing import Untimed

# CTAs that one machine holds, give or take half: enough for numpy to be busy, few enough for their shared
# memory to fit.
RESIDENT = 528
# The search for races remembers every warp's last read of every word: some 3 MB for each CTA. Half as many
# take a quarter longer, twice as many gain little.
RESIDENT_WITH_RACES = 32


@dataclass(frozen=True)
class Program:
    """An artifact's host code and kernels, loaded once."""

    recorder: Recorder
    kernels: dict[str, LoadedKernel]
    races: bool = False  # also look for races in shared memory, at a price in time
    # At most so many columns of clusters, as if the chip held no more: a persistent kernel makes more rounds.
    columns: int | None = None
    implied_order: bool = False  # do without tcgen05.fence at barriers, as NVIDIA's kernels do (`Ordering`)

    @classmethod
    def of_folder(cls, folder: Path, races: bool = False, implied_order: bool = False) -> Program:
        kernels = load((folder / "kernel.ptx").read_text(), _launched_registers(folder / "kernel.cubin"))
        recorder = Recorder(folder / LAUNCHER, [loaded.kernel for loaded in kernels.values()])
        return cls(recorder, kernels, races, implied_order=implied_order)

    def __call__(self, *args: Any) -> None:
        """Launch on CPU tensors, as the artifact's launcher would on CUDA tensors."""
        self.together([args])

    def together(self, calls: Sequence[Sequence[Any]]) -> None:
        """Several launches of the artifact, of which none reads what another writes.

        Those of the same kernel are executed by one machine: ten cost two or three times what one costs.
        """
        memories = [memory_of(args) for args in calls]
        recorded = [[self._narrowed(launch) for launch in self.recorder.record(args)] for args in calls]
        # What one kernel of a call leaves, the next one finds.
        for number in range(max(map(len, recorded))):
            groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
            for call, launches in enumerate(recorded):
                if number < len(launches):
                    groups[alike(launches[number])].append(call)
            for members in groups.values():
                kernel = self.kernels[recorded[members[0]][number].kernel]
                launches = [recorded[call][number] for call in members]
                grids = Grids(kernel, launches, [memories[call] for call in members])
                execute(kernel, grids, self.races, self.implied_order)

    def _narrowed(self, launch: Launch) -> Launch:
        if self.columns is None:
            return launch
        x, y, z = launch.grid
        return replace(launch, grid=(min(x, self.columns * launch.cluster[0]), y, z))


def _launched_registers(cubin: Path) -> dict[str, int]:
    """The registers of a thread as compiled, by kernel name; none of a kernel that only has PTX."""
    if not cubin.is_file():
        return {}
    return {entry.kernel: entry.registers for entry in read_resources(cubin.read_bytes())}


def memory_of(tensors: Iterable[Any]) -> GlobalMemory:
    """The memory of these tensors, each under its argument's number."""
    memory = GlobalMemory()
    for number, tensor in enumerate(tensors):
        memory.register(f"argument {number}", tensor.data_ptr(), tensor.numel() * tensor.element_size())
    return memory


def execute(kernel: LoadedKernel, grids: Grids, races: bool = False, implied_order: bool = False) -> None:
    """Run every CTA of the grids, functionally."""
    ctas = grids.clusters * grids.one.cluster_size
    # A machine of a few CTAs takes half as long as a full one: none is made for what is left over.
    machines = max(1, round(ctas / (RESIDENT_WITH_RACES if races else RESIDENT)))
    for chosen in np.array_split(np.arange(grids.clusters), machines):
        units = Untimed(kernel.target)
        Machine(kernel, grids, chosen, units, races=races, implied_order=implied_order).run()

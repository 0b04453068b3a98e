"""The grids that one machine runs: one launch's, or those of several launches of a kernel at the same time.

Several launches cost little more than one, because their warps stand at the same places of the program. Each
keeps its own parameters and sees its own memory only. Their clusters are numbered one launch after the other,
and so are their parameter spaces: a parameter's address tells whose it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.simulator.errors import SimulationError
from harness.simulator.global_memory import GlobalMemory
from harness.simulator.launch import Launch
from harness.simulator.loaded import LoadedKernel
from harness.simulator.machine_constants import PARAM_BASE

Array = npt.NDArray[Any]
PARAM_ALIGNMENT = 128  # of each parameter space: a tensor map in it wants 64


class Grids:
    """`launches` of one kernel, alike in block, cluster and shared memory; each may touch its `memories`."""

    def __init__(
        self, kernel: LoadedKernel, launches: Sequence[Launch], memories: Sequence[GlobalMemory]
    ) -> None:
        self.launches, self.memories = tuple(launches), tuple(memories)
        self.one: Launch = self.launches[0]  # whatever all of them have in common
        if len({alike(launch) for launch in self.launches}) > 1:
            raise ValueError("launches that differ in kernel, block, cluster or shared memory")
        counts = [launch.ctas // launch.cluster_size for launch in self.launches]
        self.clusters = sum(counts)
        self.first_cluster = np.cumsum([0, *counts])[:-1]
        self.param_bytes = kernel.param_bytes
        self._stride = -(-max(1, kernel.param_bytes) // PARAM_ALIGNMENT) * PARAM_ALIGNMENT
        space = np.zeros((len(self.launches), self._stride), np.uint8)
        for row, launch in zip(space, self.launches, strict=True):
            values = kernel.parameter_bytes(launch)
            row[: len(values)] = values
        self._parameters: npt.NDArray[np.uint8] = space.reshape(-1)

    @classmethod
    def of_launch(cls, kernel: LoadedKernel, launch: Launch, memory: GlobalMemory) -> Grids:
        return cls(kernel, (launch,), (memory,))

    def launch_of(self, clusters: Array) -> Array:
        """The number of each cluster's launch."""
        return np.searchsorted(self.first_cluster, clusters, side="right") - 1

    def per_launch(self, values: Sequence[int], launches: Array) -> Any:
        """One value of each launch: a scalar where all have the same, else that of each of `launches`."""
        return values[0] if len(set(values)) == 1 else np.array(values)[launches]

    # Parameters.

    def parameter_address(self, offset: int, launches: Array) -> Any:
        """The address of a parameter's byte: one for all, or that of each of `launches`."""
        if len(self.launches) == 1:
            return np.uint64(PARAM_BASE + offset)
        return launches.astype(np.uint64) * np.uint64(self._stride) + np.uint64(PARAM_BASE + offset)

    def parameters(self, addresses: Any, size: int) -> Any:
        """Unsigned integers of `size` bytes at parameters' addresses; a scalar where all are the same."""
        places = np.asarray(addresses).astype(np.uint64) - np.uint64(PARAM_BASE)
        offsets = places % np.uint64(self._stride)
        wrong = (offsets + np.uint64(size) > self.param_bytes) | (places >= len(self._parameters))
        if wrong.any():
            offset = int(offsets[wrong].flat[0])
            raise SimulationError(f"parameter byte {offset}: the kernel has {self.param_bytes}", wrong)
        if (places % np.uint64(size)).any():
            raise SimulationError(f"parameter byte {int(offsets.max())} is not aligned to {size} bytes")
        values = self._parameters.view(np.dtype(f"u{size}"))[places // np.uint64(size)]
        first = values.flat[0] if values.ndim else values
        return first if (values == first).all() else values

    def parameter_bytes(self, address: int, size: int) -> bytes:
        """`size` bytes of a parameter space, at the address of the first."""
        first = address - PARAM_BASE
        return self._parameters[first : first + size].tobytes()

    # Memory. `launches` says whose each address is; one launch alone needs no telling.

    def load(self, addresses: Array, size: int, launches: Array) -> Array:
        """Unsigned integers of `size` bytes at uint64 `addresses` (any shape)."""
        if len(self.memories) == 1:
            return self.memories[0].load(addresses, size)
        out = np.empty(addresses.shape, np.dtype(f"u{size}"))
        for number, mine in _each(launches, addresses.shape):
            with _wrong_of(mine):
                out[mine] = self.memories[number].load(addresses[mine], size)
        return out

    def store(self, addresses: Array, values: Array, size: int, launches: Array) -> None:
        """Write `values` of `size` bytes at `addresses`, both flat; the last of equal addresses wins."""
        if len(self.memories) == 1:
            self.memories[0].store(addresses, values, size)
            return
        for number, mine in _each(launches, addresses.shape):
            with _wrong_of(mine):
                self.memories[number].store(addresses[mine], values[mine], size)


def alike(launch: Launch) -> tuple[Any, ...]:
    """What launches must have in common to run in one machine."""
    return launch.kernel, launch.block, launch.cluster, launch.dynamic_smem_bytes


def _each(launches: Array, shape: tuple[int, ...]) -> list[tuple[int, Array]]:
    """The launches that occur, and where."""
    whole = np.broadcast_to(launches, shape)
    return [(int(number), whole == number) for number in np.unique(launches)]


@contextmanager
def _wrong_of(mine: Array) -> Iterator[None]:
    """An error about the places `mine` of an access tells which places of the whole access are wrong."""
    try:
        yield
    except SimulationError as error:
        if error.wrong is not None:
            wrong = np.zeros(mine.shape, np.bool_)
            wrong[mine] = error.wrong
            error.wrong = wrong
        raise

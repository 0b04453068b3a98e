"""One kernel launch as the artifact's host code asked for it: what a GPU would have been given."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.simulator.errors import SimulationError

Dim3 = tuple[int, int, int]

# CUDA C++ Programming Guide, "Compute Capabilities", the same for 9.0 and 10.x.
MAX_THREADS = 1024
MAX_GRID: Dim3 = (2**31 - 1, 65535, 65535)
MAX_BLOCK: Dim3 = (1024, 1024, 64)
MAX_SMEM_BYTES = 227 * 1024  # what a block may have, static and dynamic, once it opted in
MAX_CLUSTER = 16  # with the non-portable cluster size allowed, as the host code asks for


@dataclass(frozen=True)
class Launch:
    """A launch. `params` are the bytes of each kernel parameter, in the order of the PTX `.param` list.

    `cooperative` and `programmatic` (programmatic stream serialization) are the launch attributes of those
    names; `attributes` has every other one, by its number in `cudaLaunchAttributeID`, as its 64 bytes.
    """

    kernel: str
    grid: Dim3
    block: Dim3
    cluster: Dim3
    dynamic_smem_bytes: int
    params: tuple[bytes, ...]
    cooperative: bool = False
    programmatic: bool = False
    attributes: dict[int, bytes] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def ctas(self) -> int:
        """CTAs of the grid."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def cluster_size(self) -> int:
        """CTAs of a cluster."""
        return self.cluster[0] * self.cluster[1] * self.cluster[2]


def check_limits(launch: Launch) -> None:
    """Raises `SimulationError` for a launch that a GPU would refuse."""
    for name, dims, limits in (("grid", launch.grid, MAX_GRID), ("block", launch.block, MAX_BLOCK)):
        if any(not 1 <= extent <= limit for extent, limit in zip(dims, limits, strict=True)):
            raise SimulationError(f"{name} {dims}: each extent is from 1 to {limits}")
    threads = launch.block[0] * launch.block[1] * launch.block[2]
    if threads > MAX_THREADS:
        raise SimulationError(f"block {launch.block} has {threads} threads: at most {MAX_THREADS}")
    if launch.dynamic_smem_bytes > MAX_SMEM_BYTES:
        raise SimulationError(
            f"{launch.dynamic_smem_bytes} bytes of dynamic shared memory: at most {MAX_SMEM_BYTES}"
        )
    ctas = launch.cluster[0] * launch.cluster[1] * launch.cluster[2]
    if not 1 <= ctas <= MAX_CLUSTER:
        raise SimulationError(f"cluster {launch.cluster} has {ctas} CTAs: from 1 to {MAX_CLUSTER}")
    if any(blocks % size for blocks, size in zip(launch.grid, launch.cluster, strict=True)):
        raise SimulationError(f"grid {launch.grid} is not a multiple of the cluster {launch.cluster}")

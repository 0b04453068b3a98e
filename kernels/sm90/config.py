"""The search space of the Hopper router kernel and the single statement of its constraints.

A CTA computes `tile_m` tokens against its share of the experts, `tile_n` experts at a time, `tile_k` of the
hidden size per pipeline stage. A cluster has three dimensions:

    cluster_m      CTAs with different tokens and the same experts: they share B by multicast
    expert_split   CTAs with the same tokens and different experts: they share A by multicast, and
                   merge their top k through distributed shared memory
    split_k        CTAs with the same tokens and experts and different parts of K: they add their
                   accumulators through distributed shared memory, then merge like an expert split
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kernels.family import ParamValue
from kernels.problem import RouterProblem, Score

# Hopper, compute capability 9.0 (CUDA C++ programming guide, table of technical specifications).
SMEM_BYTES = 232_448 - 1_024  # 227 KB for a block; the driver keeps 1 KB for itself
REGISTERS = 65_536
PORTABLE_CLUSTER = 8
MAX_CLUSTER = 16  # beyond 8 the launch asks for a non-portable cluster
WARPGROUP = 128
# wgmma: N is a multiple of 8 up to 256 (PTX ISA, wgmma.mma_async shapes). M is 64.
WGMMA_M = 64
WGMMA_MAX_N = 256
BARRIER_BYTES = 1_024  # mbarriers, rounded up to the alignment of the stages behind them

# The epilogue's scratch: 16 rows of a warp, two lanes to a row. With rows 2 elements apart from a multiple of
# 16, the lanes of a warp, each at column 2 i + (lane % 2) of row lane / 2, read 32 different banks.
SCRATCH_ROWS = 16
SCRATCH_PADDING = 2
MAX_EPI_N = 48

# Registers a thread after setmaxnreg, by number of consumer warpgroups: (producer, consumer). The sum over
# the warpgroups stays within 512 = 65536 / 128.
REGISTER_SPLIT = {1: (40, 240), 2: (24, 240), 3: (24, 160), 4: (24, 120)}
# What the epilogue needs besides accumulators and top-k lists: measured from cubins that do not spill.
EPILOGUE_REGISTERS = 48


class Schedule(StrEnum):
    """How consumer warpgroups share a CTA's tiles."""

    COOPERATIVE_M = "cooperative_m"  # each takes its share of the tile's tokens
    COOPERATIVE_N = "cooperative_n"  # each takes its share of the tile's experts
    PINGPONG = "pingpong"  # two take turns on whole tiles: one's epilogue runs under the other's MMA


@dataclass(frozen=True)
class Sm90Config:
    """One point of the space. See the module for the cluster's dimensions.

    Attributes:
        multicast_a: (expert_split > 1) each CTA loads a slice of A for all of them; otherwise each loads A
            whole and runs at its own pace.
        early_release: (pingpong) hand the tensor cores to the other warpgroup as soon as the accumulator
            is complete in registers, before its epilogue, rather than after it.
    """

    tile_m: int = 128
    tile_n: int = 128
    tile_k: int = 64
    stages: int = 4
    cluster_m: int = 1
    expert_split: int = 1
    split_k: int = 1
    multicast_a: bool = False
    warpgroups: int = 2
    schedule: str = Schedule.COOPERATIVE_M.value
    early_release: bool = False

    @property
    def cluster_size(self) -> int:
        return self.cluster_m * self.expert_split * self.split_k

    @property
    def a_multicast(self) -> int:
        """How many CTAs one load of A feeds."""
        return self.expert_split if self.multicast_a else 1

    @property
    def rows_per_warpgroup(self) -> int:
        return self.tile_m // self.warpgroups if self.schedule == Schedule.COOPERATIVE_M else self.tile_m

    @property
    def columns_per_warpgroup(self) -> int:
        return self.tile_n // self.warpgroups if self.schedule == Schedule.COOPERATIVE_N else self.tile_n

    @property
    def lists_per_row(self) -> int:
        """Partial top-k lists of one token inside a CTA."""
        return 1 if self.schedule == Schedule.COOPERATIVE_M else self.warpgroups

    @property
    def stage_bytes(self) -> int:
        return (self.tile_m + self.tile_n) * self.tile_k * 2

    @property
    def accumulator_registers(self) -> int:
        return self.rows_per_warpgroup * self.columns_per_warpgroup // WARPGROUP

    @property
    def epi_n(self) -> int:
        """Columns of a subtile: the largest multiple of 8 up to 48 that divides a warpgroup's columns."""
        columns = self.columns_per_warpgroup
        return max((n for n in range(8, MAX_EPI_N + 1, 8) if columns % n == 0), default=0)

    @property
    def scratch_bytes(self) -> int:
        """The epilogue's scratch of all consumer warps."""
        return 4 * self.warpgroups * SCRATCH_ROWS * (self.epi_n + SCRATCH_PADDING) * 4

    def n_tiles(self, problem: RouterProblem) -> int:
        """Expert tiles that one CTA walks."""
        return -(-problem.experts // (self.tile_n * self.expert_split))

    def merge_bytes(self, problem: RouterProblem) -> int:
        """Shared memory of the partial lists: (s, i, a) of 4 bytes each."""
        return self.tile_m * self.lists_per_row * problem.top_k * 12

    def reduction_bytes(self) -> int:
        """Shared memory of the accumulators that split-K adds up."""
        return self.tile_m * (self.tile_n + SCRATCH_PADDING) * 4 if self.split_k > 1 else 0


@dataclass(frozen=True)
class TwoKernelConfig(Sm90Config):
    """The GEMM's config, and how many tokens (warps) a block of the gate kernel takes."""

    gate_warps: int = 4


# tile_n = 24 would divide 384 experts by 16, but aborts the compiler of DSL 4.8.1.
SPACE: dict[str, tuple[ParamValue, ...]] = {
    "tile_m": (64, 128, 256),
    "tile_n": (32, 48, 64, 96, 128, 192, 256, 384),
    "tile_k": (64, 128),
    "stages": (2, 3, 4, 6, 8, 12),
    "cluster_m": (1, 2, 4),
    "expert_split": (1, 2, 3, 4, 6, 8, 16),
    "split_k": (1, 2, 4, 8),
    "multicast_a": (False, True),
    "warpgroups": (1, 2, 3),
    "schedule": tuple(schedule.value for schedule in Schedule),
    "early_release": (False, True),
}

GATE_SPACE: dict[str, tuple[ParamValue, ...]] = {"gate_warps": (1, 2, 4, 8)}


def illegal_reason(problem: RouterProblem, config: Sm90Config, *, router: bool = True) -> str | None:
    """None when the kernel can be built, else one line that says why not.

    `router` is False for the GEMM that only writes logits: it keeps no top-k lists.
    """
    c = config
    for name, choices in SPACE.items():
        if getattr(c, name) not in choices:
            return f"{name} = {getattr(c, name)} is not one of {', '.join(map(str, choices))}"
    if router and problem.score is Score.SOFTMAX and not problem.renorm:
        return "softmax without renormalization needs a denominator over all experts: use the two-kernel path"
    return (
        _schedule_reason(problem, c)
        or _cluster_reason(problem, c)
        or _resource_reason(problem, c, router=router)
    )


def _schedule_reason(problem: RouterProblem, c: Sm90Config) -> str | None:
    if c.schedule == Schedule.PINGPONG:
        if c.warpgroups != 2:
            return f"pingpong alternates two warpgroups, not {c.warpgroups}"
        if c.n_tiles(problem) < 2:
            return "pingpong needs at least two expert tiles in a CTA"
    elif c.early_release:
        return "early_release belongs to the pingpong schedule: elsewhere nobody waits for the tensor cores"
    if c.schedule == Schedule.COOPERATIVE_N and c.warpgroups == 1:
        return "one warpgroup has nobody to share columns with: use cooperative_m"
    if c.schedule == Schedule.COOPERATIVE_M and c.tile_m % (WGMMA_M * c.warpgroups):
        return f"tile_m = {c.tile_m} is not a multiple of 64 rows for each of {c.warpgroups} warpgroups"
    columns = c.columns_per_warpgroup
    if c.tile_n % columns or columns % 8 or columns > WGMMA_MAX_N:
        return f"{columns} columns for a warpgroup: wgmma takes multiples of 8 up to {WGMMA_MAX_N}"
    return None


def _cluster_reason(problem: RouterProblem, c: Sm90Config) -> str | None:
    if c.cluster_size > MAX_CLUSTER:
        return f"a cluster of {c.cluster_size} CTAs: at most {MAX_CLUSTER}"
    if c.n_tiles(problem) * c.tile_n * c.expert_split - problem.experts >= c.tile_n:
        return f"tile_n = {c.tile_n} and expert_split = {c.expert_split} leave a whole tile without an expert"
    if c.cluster_m > 1 and c.tile_n % (8 * c.cluster_m):
        return f"multicast hands each of {c.cluster_m} CTAs a part of B's {c.tile_n} rows in units of 8"
    group = c.expert_split * c.split_k
    if c.multicast_a and c.expert_split == 1:
        return "multicast_a shares A among the CTAs of an expert split, and there is none"
    if c.multicast_a and c.tile_m % (8 * c.expert_split):
        return f"multicast hands each of {c.expert_split} CTAs a part of A's {c.tile_m} rows in units of 8"
    if c.lists_per_row * group > 32:
        return f"{c.lists_per_row * group} partial lists of a row: a warp merges at most 32"
    if c.tile_m % group:
        return f"tile_m = {c.tile_m} rows cannot be merged evenly by {group} CTAs"
    if c.split_k > 1:
        if c.n_tiles(problem) > 1:
            return "split_k reduces a single expert tile per CTA: raise tile_n or expert_split"
        if (c.columns_per_warpgroup // 8) % c.split_k:
            return f"{c.columns_per_warpgroup} columns cannot be reduced evenly by {c.split_k} CTAs"
    k_tiles = -(-problem.hidden // c.tile_k)
    if k_tiles % c.split_k:
        return f"{k_tiles} K tiles cannot be divided among {c.split_k} CTAs"
    if c.stages > max(2, k_tiles // c.split_k):
        return f"{c.stages} stages for {k_tiles // c.split_k} K tiles"
    return None


def _resource_reason(problem: RouterProblem, c: Sm90Config, *, router: bool) -> str | None:
    stages_bytes = c.stages * c.stage_bytes
    needed = BARRIER_BYTES + c.n_tiles(problem) * c.tile_n * 4 + stages_bytes
    if router:
        needed += c.scratch_bytes
    if needed > SMEM_BYTES:
        return f"{needed} bytes of shared memory: a block has {SMEM_BYTES}"
    overlay = c.reduction_bytes() + (c.merge_bytes(problem) if router else 0)
    if overlay > stages_bytes:
        return f"{overlay} bytes of partial results do not fit over {stages_bytes} bytes of stages"
    lists = 3 * problem.top_k * (c.rows_per_warpgroup // WGMMA_M) if router else 0
    registers = c.accumulator_registers + lists + EPILOGUE_REGISTERS
    limit = REGISTER_SPLIT[c.warpgroups][1]
    if registers > limit:
        return f"about {registers} registers a thread: {c.warpgroups} consumer warpgroups leave {limit}"
    return None


def default_config(problem: RouterProblem, m: int) -> Sm90Config:
    """A legal config for any problem, untuned: few tokens want many CTAs per tile, many want few.

    The two shapes are the ones that did well in the first sweep on an H100 (see results/published).
    """
    few_tokens = [
        Sm90Config(
            tile_m=64,
            tile_n=tile_n,
            tile_k=tile_k,
            stages=stages,
            expert_split=split,
            warpgroups=1,
        )
        for split in (8, 4, 2, 1)
        for tile_n in sorted(
            n for n in SPACE["tile_n"] if isinstance(n, int) and n * split >= problem.experts
        )[:1]
        for tile_k, stages in ((128, 6), (64, 6), (64, 3), (64, 2))
    ]
    many_tokens = [Sm90Config(), Sm90Config(tile_n=64), Sm90Config(tile_n=64, stages=2)]
    ladder = few_tokens + many_tokens if m <= 1024 else many_tokens + few_tokens
    for config in ladder:
        if (
            illegal_reason(problem, config, router=problem.renorm or problem.score is not Score.SOFTMAX)
            is None
        ):
            return config
    raise ValueError(f"no default config is legal for {problem}: name a config")

"""The search space of the Hopper router kernel and the single statement of its constraints.

A CTA computes `tile_m` tokens against its share of the experts, `tile_n` experts at a time, `tile_k` of the
hidden size per pipeline stage. Its neighbours share the work in four ways:

    cluster_m      CTAs with different tokens and the same experts: they share B by multicast
    expert_split   CTAs with the same tokens and different experts: they may share A by multicast, and
                   merge their top k through distributed shared memory
    split_k        CTAs with the same tokens and experts and different parts of K: they add their
                   accumulators through distributed shared memory, then merge like an expert split
    grid_split     clusters with the same tokens and different experts: the last one to finish a row merges
                   the lists of all of them through global memory

The first three are the dimensions of the cluster. A cluster lives in one GPC, whose SMs together read about
0.45 TB/s of weight (H100, 2026-11-23: M = 1 takes 18 us on 8 SMs and on 16), hence the fourth.

The constraints are `RULES`: each names the parameters that it reads, so that an enumeration can drop a
partial config as soon as they are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kernels.family import ParamValue, Rule, no_choice
from kernels.problem import RouterProblem, Score

# Hopper, compute capability 9.0 (CUDA C++ programming guide, table of technical specifications).
SMEM_BYTES = 232_448 - 1_024  # 227 KB for a block; the driver keeps 1 KB for itself
MAX_CLUSTER = 16  # beyond 8 the launch asks for a non-portable cluster
WARPGROUP = 128
# wgmma: N is a multiple of 8 up to 256 (PTX ISA, wgmma.mma_async shapes). M is 64.
WGMMA_M = 64
WGMMA_MAX_N = 256
MIN_COLUMNS = 16  # with 8 the DSL's fragment has one mode less than the epilogue indexes
BARRIER_BYTES = 1_024  # mbarriers and flags, rounded up to the alignment of the stages behind them
# Rows of K-major shared memory with the 128-byte swizzle come in atoms of 8.
ATOM_ROWS = 8

# The epilogue's scratch: 16 rows of a warp, two lanes to a row. With rows 2 elements apart from a multiple of
# 16, the lanes of a warp, each at column 2 i + (lane % 2) of row lane / 2, read 32 different banks.
SCRATCH_ROWS = 16
SCRATCH_PADDING = 2
MAX_EPI_N = 48

# Registers a thread after setmaxnreg, by number of consumer warpgroups: (producer, consumer). The sum over
# the warpgroups stays within 512 = 65536 / 128.
REGISTER_SPLIT = {1: (40, 240), 2: (24, 240), 3: (24, 160)}
# What the epilogue needs besides accumulators and top-k lists, at least; a config may still spill a little,
# which its record says.
EPILOGUE_REGISTERS = 14


class Schedule(StrEnum):
    """How consumer warpgroups share a CTA's tiles."""

    COOPERATIVE_M = "cooperative_m"  # each takes its share of the tile's tokens
    COOPERATIVE_N = "cooperative_n"  # each takes its share of the tile's experts
    PINGPONG = "pingpong"  # two take turns on whole tiles: one's epilogue runs under the other's MMA


@dataclass(frozen=True)
class Sm90Config:
    """One point of the space. See the module for how CTAs share the work.

    Attributes:
        tile_m: tokens of a CTA. Below 64, wgmma's M, the other rows of the tile are zeros that nobody loads.
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
    grid_split: int = 1
    multicast_a: bool = False
    warpgroups: int = 2
    schedule: str = Schedule.COOPERATIVE_M.value
    early_release: bool = False

    @property
    def cluster_size(self) -> int:
        return self.cluster_m * self.expert_split * self.split_k

    @property
    def group_size(self) -> int:
        """CTAs of a cluster that work on the same tokens, and merge their rows' lists."""
        return self.expert_split * self.split_k

    @property
    def a_multicast(self) -> int:
        """How many CTAs one load of A feeds."""
        return self.expert_split if self.multicast_a else 1

    @property
    def mma_rows(self) -> int:
        """Rows that the MMA computes: `tile_m`, or the 64 that it is padded to."""
        return max(self.tile_m, WGMMA_M)

    @property
    def rows_per_warpgroup(self) -> int:
        return self.mma_rows // self.warpgroups if self.schedule == Schedule.COOPERATIVE_M else self.mma_rows

    @property
    def columns_per_warpgroup(self) -> int:
        return self.tile_n // self.warpgroups if self.schedule == Schedule.COOPERATIVE_N else self.tile_n

    @property
    def lists_per_row(self) -> int:
        """Partial top-k lists of one token inside a CTA."""
        return 1 if self.schedule == Schedule.COOPERATIVE_M else self.warpgroups

    @property
    def load_bytes(self) -> int:
        """What TMA brings into one stage."""
        return (self.tile_m + self.tile_n) * self.tile_k * 2

    @property
    def ring_bytes(self) -> int:
        """Shared memory of all stages, the padding of A included."""
        return self.stages * (self.mma_rows + self.tile_n) * self.tile_k * 2

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

    @property
    def reduction_bytes(self) -> int:
        """Shared memory of the accumulators that split-K adds up."""
        return self.mma_rows * (self.tile_n + SCRATCH_PADDING) * 4 if self.split_k > 1 else 0

    def n_tiles(self, problem: RouterProblem) -> int:
        """Expert tiles that one CTA walks."""
        return -(-problem.experts // (self.tile_n * self.expert_split * self.grid_split))

    def k_tiles(self, problem: RouterProblem) -> int:
        """K tiles of the whole hidden size."""
        return -(-problem.hidden // self.tile_k)

    def merge_bytes(self, problem: RouterProblem) -> int:
        """Shared memory of the partial lists: (s, i, a) of 4 bytes each."""
        return self.mma_rows * self.lists_per_row * problem.top_k * 12


@dataclass(frozen=True)
class TwoKernelConfig(Sm90Config):
    """The GEMM's config, and how many tokens (warps) a block of the gate kernel takes."""

    gate_warps: int = 4


# tile_n = 24 would divide 384 experts by 16, but aborts the compiler of DSL 4.8.1.
SPACE: dict[str, tuple[ParamValue, ...]] = {
    "tile_m": (8, 16, 64, 128, 256),
    "tile_n": (16, 32, 48, 64, 96, 128, 192, 256, 384),
    "tile_k": (64, 128),
    "stages": (3, 4, 6, 8, 12, 18),
    "cluster_m": (1, 2),
    "expert_split": (1, 2, 3, 4, 6, 8),
    "split_k": (1, 2, 4, 8),
    "grid_split": (1, 2, 3, 4, 6, 8, 12),
    "multicast_a": (False, True),
    "warpgroups": (1, 2, 3),
    "schedule": tuple(schedule.value for schedule in Schedule),
    "early_release": (False, True),
}
GATE_SPACE: dict[str, tuple[ParamValue, ...]] = {"gate_warps": (1, 2, 4, 8)}


def _renormalized_softmax(problem: RouterProblem, c: Sm90Config) -> str | None:
    if problem.score is Score.SOFTMAX and not problem.renorm:
        return (
            "softmax without renormalization needs a sum over all experts: only the two-kernel path forms it"
        )
    return None


def _pingpong(problem: RouterProblem, c: Sm90Config) -> str | None:
    if c.schedule == Schedule.PINGPONG and c.warpgroups != 2:
        return f"pingpong alternates two warpgroups, not {c.warpgroups}"
    if c.early_release and c.schedule != Schedule.PINGPONG:
        return "early_release belongs to the pingpong schedule: elsewhere nobody waits for the tensor cores"
    return None


def _pingpong_tiles(problem: RouterProblem, c: Sm90Config) -> str | None:
    if c.schedule == Schedule.PINGPONG and c.n_tiles(problem) < 2:
        return "pingpong needs at least two expert tiles in a CTA"
    return None


def _cooperation(problem: RouterProblem, c: Sm90Config) -> str | None:
    if c.schedule == Schedule.COOPERATIVE_N and c.warpgroups == 1:
        return "one warpgroup has nobody to share columns with: use cooperative_m"
    if c.schedule == Schedule.COOPERATIVE_M and c.mma_rows % (WGMMA_M * c.warpgroups):
        return f"tile_m = {c.tile_m} has not 64 rows for each of {c.warpgroups} warpgroups"
    columns = c.columns_per_warpgroup
    if c.tile_n % columns or columns % 8 or not MIN_COLUMNS <= columns <= WGMMA_MAX_N:
        return f"{columns} columns for a warpgroup: multiples of 8 from {MIN_COLUMNS} to {WGMMA_MAX_N}"
    return None


def _cluster_size(problem: RouterProblem, c: Sm90Config) -> str | None:
    if c.cluster_size > MAX_CLUSTER:
        return f"a cluster of {c.cluster_size} CTAs: at most {MAX_CLUSTER}"
    return None


def _no_idle_tiles(problem: RouterProblem, c: Sm90Config) -> str | None:
    ctas = c.expert_split * c.grid_split
    if c.n_tiles(problem) * c.tile_n * ctas - problem.experts >= c.tile_n:
        return f"tile_n = {c.tile_n} for each of {ctas} CTAs leaves a whole tile without an expert"
    return None


def _multicast_b(problem: RouterProblem, c: Sm90Config) -> str | None:
    if c.cluster_m > 1 and c.tile_n % (ATOM_ROWS * c.cluster_m):
        return f"multicast gives each of {c.cluster_m} CTAs a part of B's {c.tile_n} rows in units of 8"
    return None


def _multicast_a(problem: RouterProblem, c: Sm90Config) -> str | None:
    if c.multicast_a and c.expert_split == 1:
        return "multicast_a shares A among the CTAs of an expert split, and there is none"
    if c.multicast_a and c.tile_m % (ATOM_ROWS * c.expert_split):
        return f"multicast gives each of {c.expert_split} CTAs a part of A's {c.tile_m} rows in units of 8"
    return None


def _lists(problem: RouterProblem, c: Sm90Config) -> str | None:
    if c.lists_per_row * c.group_size > 32:
        return f"{c.lists_per_row * c.group_size} partial lists of a row: a warp merges at most 32"
    return None


def _split_k(problem: RouterProblem, c: Sm90Config) -> str | None:
    k_tiles = c.k_tiles(problem)
    if k_tiles % c.split_k:
        return f"{k_tiles} K tiles cannot be divided among {c.split_k} CTAs"
    if c.stages > max(3, k_tiles // c.split_k):
        return f"{c.stages} stages for {k_tiles // c.split_k} K tiles"
    return None


def _reduction(problem: RouterProblem, c: Sm90Config) -> str | None:
    if c.split_k > 1 and c.n_tiles(problem) > 1:
        return "split_k reduces a single expert tile per CTA: raise tile_n, expert_split or grid_split"
    if c.split_k > 1 and c.columns_per_warpgroup % (2 * c.split_k):
        return f"{c.columns_per_warpgroup} columns cannot be reduced in pairs by {c.split_k} CTAs"
    return None


def _shared_memory(problem: RouterProblem, c: Sm90Config) -> str | None:
    needed = BARRIER_BYTES + c.n_tiles(problem) * c.tile_n * 4 + c.scratch_bytes + c.ring_bytes
    if needed > SMEM_BYTES:
        return f"{needed} bytes of shared memory: a block has {SMEM_BYTES}"
    return None


def _overlay(problem: RouterProblem, c: Sm90Config) -> str | None:
    overlay = c.reduction_bytes + c.merge_bytes(problem)
    if overlay > c.ring_bytes:
        return f"{overlay} bytes of partial results do not fit over {c.ring_bytes} bytes of stages"
    return None


def _registers(problem: RouterProblem, c: Sm90Config) -> str | None:
    lists = 3 * problem.top_k * (c.rows_per_warpgroup // WGMMA_M)
    registers = c.accumulator_registers + lists + EPILOGUE_REGISTERS
    limit = REGISTER_SPLIT[c.warpgroups][1]
    if registers > limit:
        return f"at least {registers} registers a thread: {c.warpgroups} consumer warpgroups leave {limit}"
    return None


_EXPERT_PARAMETERS = ("tile_n", "expert_split", "grid_split")
_WARPGROUP_PARAMETERS = ("tile_m", "tile_n", "warpgroups", "schedule")
_RING_PARAMETERS = ("tile_m", "tile_n", "tile_k", "stages")

RULES: tuple[Rule, ...] = (
    Rule((), _renormalized_softmax),
    Rule((), no_choice),
    Rule(_EXPERT_PARAMETERS, _no_idle_tiles),
    Rule(("cluster_m", "expert_split", "split_k"), _cluster_size),
    Rule(("tile_n", "cluster_m"), _multicast_b),
    Rule(("tile_m", "expert_split", "multicast_a"), _multicast_a),
    Rule(("tile_k", "stages", "split_k"), _split_k),
    Rule(("warpgroups", "schedule", "early_release"), _pingpong),
    Rule((*_EXPERT_PARAMETERS, "schedule"), _pingpong_tiles),
    Rule(_WARPGROUP_PARAMETERS, _cooperation),
    Rule(("expert_split", "split_k", "warpgroups", "schedule"), _lists),
    Rule((*_EXPERT_PARAMETERS, *_WARPGROUP_PARAMETERS, "split_k"), _reduction),
    Rule((*_EXPERT_PARAMETERS, *_RING_PARAMETERS, *_WARPGROUP_PARAMETERS), _shared_memory),
    Rule((*_RING_PARAMETERS, *_WARPGROUP_PARAMETERS, "split_k"), _overlay),
    Rule(_WARPGROUP_PARAMETERS, _registers),
)


# The GEMM that writes logits keeps the router's rules, so that both kernels search the same shapes.
TWO_KERNEL_RULES: tuple[Rule, ...] = RULES[1:]


def default_config(problem: RouterProblem, m: int, rules: tuple[Rule, ...] = RULES) -> Sm90Config:
    """A legal config for any problem, untuned: the first legal one of those that suit about `m` tokens.

    The shapes are those that did well in the first sweeps of deepseek-v4-pro on an H100 (see
    results/published): few tokens want the experts and K spread over the whole chip, many want large tiles.
    """
    for config in (*_shapes(m), *_shapes(512), *_shapes(16384), *_small_problem_shapes()):
        if all(rule.reason(problem, config) is None for rule in rules):
            return config
    reason = next(filter(None, (rule.reason(problem, Sm90Config()) for rule in rules)))
    raise ValueError(f"{problem.name}: no default config is legal ({reason})")


def _shapes(m: int) -> list[Sm90Config]:
    if m <= 128:
        return [
            Sm90Config(
                tile_m=16 if m <= 16 else 64,
                tile_n=tile_n,
                tile_k=128,
                stages=6,
                expert_split=2,
                split_k=4,
                grid_split=grid_split,
                warpgroups=1,
            )
            for tile_n in (32, 16, 48)
            for grid_split in (12, 6, 4, 3, 2)
        ]
    if m <= 512:
        return [
            Sm90Config(tile_m=64, tile_n=tile_n, tile_k=tile_k, stages=6, expert_split=split, warpgroups=1)
            for split in (8, 4, 2)
            for tile_n in (32, 48, 64, 96)
            for tile_k in (128, 64)
        ]
    if m <= 2048:
        return [
            Sm90Config(
                tile_m=64,
                tile_n=64,
                stages=12,
                expert_split=2,
                grid_split=split,
                multicast_a=True,
                warpgroups=1,
            )
            for split in (3, 2, 1)
        ]
    if m <= 8192:
        return [
            Sm90Config(tile_n=tile_n, stages=6, expert_split=2, grid_split=2, multicast_a=True)
            for tile_n in (96, 64, 48, 32)
        ]
    return [Sm90Config(tile_n=tile_n, expert_split=2, multicast_a=True) for tile_n in (192, 128, 64)]


def _small_problem_shapes() -> list[Sm90Config]:
    return [
        Sm90Config(tile_m=64, tile_n=tile_n, stages=3, warpgroups=1)
        for tile_n in (16, 32, 48, 64, 96, 128, 192, 256)
    ]


# Arrival counters of a grid split, at the head of the workspace whatever M is, so that launches at different
# M find them as zero as each left them. Enough for 32768 tokens in the smallest tiles of the largest cluster.
COUNTERS = 65_536


def workspace_elements(problem: RouterProblem, config: Sm90Config, m: int) -> int:
    """fp32 elements of the fused kernel's workspace at `m` tokens: counters, then (s, i, a) of each list.

    Raises `ValueError` when `m` needs more counters than there are.
    """
    if config.grid_split == 1:
        return 1
    tiles = -(-m // (config.tile_m * config.cluster_m)) * config.cluster_m
    if tiles * config.group_size > COUNTERS:
        raise ValueError(f"M = {m} in tiles of {config.tile_m} needs over {COUNTERS} counters: raise tile_m")
    return COUNTERS + 3 * config.grid_split * m * problem.top_k

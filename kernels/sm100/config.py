"""The search space of the Blackwell router kernel and the single statement of its constraints.

One block-scaled MMA multiplies `mma_m` rows by `mma_n` columns, 64 of the hidden size at a time; a pipeline
stage holds 256 of it. Rows are tokens and columns experts, or, with `swap_operands`, the other way round.
CTAs share the work in four ways:

    cluster_m      CTAs with different tokens and the same experts: they share the experts' operand by
                   multicast; with CtaGroup TWO, neighbours issue one MMA together
    expert_split   CTAs with the same tokens and different experts: they may share the tokens' operand by
                   multicast, and merge their top k through distributed shared memory
    split_k        CTAs with the same tokens and experts and different parts of K: they add their
                   accumulators through distributed shared memory, then merge like an expert split
    grid_split     clusters with the same tokens and different experts: the last one to finish a tile's rows
                   merges the lists of all of them through global memory

The first three are the dimensions of the cluster; a cluster lives in one GPC and shares its bandwidth, hence
the fourth (see `kernels.sm90.config`).

The kernel is persistent: as many clusters as the chip holds walk the token tiles.

The constraints are `RULES`: each names the parameters that it reads, so that an enumeration can drop a
partial config as soon as they are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernels.family import ParamValue, Rule, no_choice
from kernels.nvfp4_layout import BLOCK, SCALE_ROWS
from kernels.problem import RouterProblem, Score

# Blackwell, compute capability 10.x (CUDA C++ programming guide, table of technical specifications).
SMEM_BYTES = 232_448 - 1_024  # 227 KB for a block; the driver keeps 1 KB for itself
SM_SMEM_BYTES = 233_472
# A CTA asks for more than half of its SM's shared memory, so that it has the SM to itself: waiting for the
# tensor memory of another it would hold up its cluster, two clusters possibly each other.
EXCLUSIVE_SMEM_BYTES = SM_SMEM_BYTES // 2
RESIDENT_CTAS = 148  # SMs of a B200, one CTA each; a chip with more leaves the rest idle
MAX_CLUSTER = 16  # beyond 8 the launch asks for a non-portable cluster
WARP = 32
WARPGROUP = 128
# Tensor memory: 128 lanes of 512 columns of 32 bits, allocated in powers of two from 32 (PTX ISA,
# tcgen05.alloc).
TMEM_LANES = 128
TMEM_COLUMNS = 512
MIN_TMEM_COLUMNS = 32

MMA_K = 64  # e2m1 elements of one tcgen05.mma.kind::mxf4nvf4
MMAS_PER_STAGE = 4
TILE_K = MMA_K * MMAS_PER_STAGE  # a row of a stage is 128 bytes, one row of the 128-byte swizzle
# A column of tensor memory holds the scales of 32 rows for one MMA, four bytes each.
SCALE_ROWS_PER_COLUMN = 32
ATOM_ROWS = 8  # rows of K-major shared memory with the 128-byte swizzle come in atoms of 8
TMA_ROW_BYTES = 16  # a row's stride is a multiple of it

BARRIER_BYTES = 256  # mbarriers, the tensor memory's address, a counter
RING_ALIGNMENT = 1_024  # of the swizzle's atoms, 8 rows of 128 bytes
STAGING_PADDING = 1  # so that neither rows nor columns of staged accumulators meet in one bank


@dataclass(frozen=True)
class Sm100Config:
    """One point of the space. See the module for how CTAs share the work.

    Attributes:
        mma_m: rows of one MMA, of one CTA or of both CTAs of a pair.
        mma_n: columns of one MMA.
        cta_group: CTAs that issue one MMA together: 1 or 2 (CtaGroup ONE and TWO).
        multicast_a: (expert_split > 1) each CTA loads a slice of the tokens for all of them.
        stages: pipeline stages of shared memory, 256 of the hidden size each.
        acc_stages: accumulators in tensor memory.
        early_release: hand the accumulator back to the MMA warp as soon as its last columns are in registers,
            rather than after their top-k work. With one accumulator of 256 columns the next one overlaps it
            in as many columns as the scale factors take, and every other tile is walked in reverse.
        epi_warpgroups: epilogue warpgroups; two take turns on the subtiles and merge their lists.
        epi_n: columns of a subtile: what a thread reads from tensor memory at once.
        swap_operands: experts are the MMA's rows and tokens its columns.
    """

    mma_m: int = 128
    mma_n: int = 128
    cta_group: int = 1
    cluster_m: int = 1
    expert_split: int = 1
    split_k: int = 1
    grid_split: int = 1
    multicast_a: bool = False
    stages: int = 4
    acc_stages: int = 2
    early_release: bool = False
    epi_warpgroups: int = 1
    epi_n: int = 32
    swap_operands: bool = False

    @property
    def cluster_size(self) -> int:
        return self.cluster_m * self.expert_split * self.split_k

    @property
    def group_size(self) -> int:
        """CTAs of a cluster that work on the same tokens, and merge their rows' lists."""
        return self.expert_split * self.split_k

    @property
    def a_multicast(self) -> int:
        """How many CTAs one load of the tokens feeds."""
        return self.expert_split if self.multicast_a else 1

    @property
    def rows(self) -> int:
        """Rows of the MMA that are this CTA's: the lanes of its accumulator."""
        return self.mma_m // self.cta_group

    @property
    def token_tile(self) -> int:
        """Tokens of a CTA."""
        return self.mma_n if self.swap_operands else self.rows

    @property
    def expert_tile(self) -> int:
        """Experts of a tile."""
        return self.rows if self.swap_operands else self.mma_n

    @property
    def scale_columns(self) -> int:
        """Rows of the column operand's scale tile: whole atoms of 128."""
        return -(-self.mma_n // SCALE_ROWS) * SCALE_ROWS

    @property
    def load_bytes(self) -> int:
        """What TMA brings into one stage of one CTA: both operands and their scales."""
        elements = (self.rows + self.mma_n // self.cta_group) * TILE_K // 2
        scales = (self.rows + self.scale_columns) * TILE_K // BLOCK
        return elements + scales

    @property
    def ring_bytes(self) -> int:
        """Shared memory of all stages."""
        return self.stages * self.load_bytes

    @property
    def sfa_tmem_columns(self) -> int:
        return self.rows // SCALE_ROWS_PER_COLUMN * MMAS_PER_STAGE

    @property
    def sfb_tmem_columns(self) -> int:
        return self.scale_columns // SCALE_ROWS_PER_COLUMN * MMAS_PER_STAGE

    @property
    def overlaps(self) -> bool:
        """Whether two accumulators share as many columns as the scale factors leave no room for."""
        return self.early_release and self.acc_stages == 1 and 2 * self.mma_n == TMEM_COLUMNS

    @property
    def accumulator_columns(self) -> int:
        """Tensor-memory columns of all accumulators; the scale factors' come behind."""
        if self.overlaps:
            return TMEM_COLUMNS - self.sfa_tmem_columns - self.sfb_tmem_columns
        return self.acc_stages * self.mma_n

    @property
    def tmem_columns(self) -> int:
        """Tensor-memory columns in use."""
        return self.accumulator_columns + self.sfa_tmem_columns + self.sfb_tmem_columns

    @property
    def tmem_allocation(self) -> int:
        """Tensor-memory columns to allocate: the next power of two."""
        return max(MIN_TMEM_COLUMNS, 1 << (self.tmem_columns - 1).bit_length())

    @property
    def subtiles(self) -> int:
        """Subtiles of one accumulator."""
        return self.mma_n // self.epi_n

    @property
    def walk_steps(self) -> int:
        """Subtiles that one epilogue warpgroup takes."""
        return self.subtiles // self.epi_warpgroups

    @property
    def iter_acc_early_release(self) -> int | None:
        """The step of the walk after whose tensor-memory load the accumulator goes back to the MMA warp.

        The last one; where accumulators overlap, the one that completes the columns that they share. None
        without early release.
        """
        if not self.early_release:
            return None
        if not self.overlaps:
            return self.walk_steps - 1
        shared = self.sfa_tmem_columns + self.sfb_tmem_columns
        return -(-shared // (self.epi_n * self.epi_warpgroups)) - 1

    @property
    def stages_accumulators(self) -> bool:
        """Whether the epilogue passes accumulators through shared memory: to add them up, or to turn them."""
        return self.split_k > 1 or self.swap_operands

    @property
    def staging_bytes(self) -> int:
        """Shared memory of one staged accumulator."""
        return self.mma_n * (self.rows + STAGING_PADDING) * 4 if self.stages_accumulators else 0

    @property
    def epilogue_threads(self) -> int:
        return WARPGROUP * self.epi_warpgroups

    @property
    def lists_per_row(self) -> int:
        """Partial top-k lists of one token inside a CTA."""
        return self.epilogue_threads // self.token_tile

    @property
    def threads(self) -> int:
        """Threads of a block: the epilogue's, the MMA warp and the TMA warp."""
        return self.epilogue_threads + 2 * WARP

    def n_tiles(self, problem: RouterProblem) -> int:
        """Expert tiles that one CTA walks."""
        return -(-problem.experts // (self.expert_tile * self.expert_split * self.grid_split))

    def k_tiles(self, problem: RouterProblem) -> int:
        """K tiles of the whole hidden size."""
        return -(-problem.hidden // TILE_K)

    def merge_bytes(self, problem: RouterProblem) -> int:
        """Shared memory of the partial lists: (s, i, a) of 4 bytes each."""
        if self.lists_per_row * self.group_size == 1:
            return 0
        return self.token_tile * self.lists_per_row * problem.top_k * 12

    def epilogue_bytes(self, problem: RouterProblem) -> int:
        """Shared memory of the epilogue: bias, partial lists, a staged accumulator."""
        bias = self.n_tiles(problem) * self.expert_tile * 4
        return bias + self.merge_bytes(problem) + self.staging_bytes

    def padding_bytes(self, problem: RouterProblem) -> int:
        """Shared memory that a CTA asks for only to have its SM to itself."""
        return max(0, EXCLUSIVE_SMEM_BYTES - self.epilogue_bytes(problem) - self.ring_bytes)

    def smem_bytes(self, problem: RouterProblem) -> int:
        """All of a CTA's shared memory."""
        front = BARRIER_BYTES + self.epilogue_bytes(problem) + self.padding_bytes(problem)
        return -(-front // RING_ALIGNMENT) * RING_ALIGNMENT + self.ring_bytes


@dataclass(frozen=True)
class TwoKernelConfig(Sm100Config):
    """The GEMM's config, and how many tokens (warps) a block of the gate kernel takes."""

    gate_warps: int = 4


SPACE: dict[str, tuple[ParamValue, ...]] = {
    "mma_m": (128, 256),
    "mma_n": (64, 128, 192, 256),
    "cta_group": (1, 2),
    "cluster_m": (1, 2, 4),
    "expert_split": (1, 2, 3, 4, 6),
    "split_k": (1, 2, 4, 8),
    "grid_split": (1, 2, 3, 6),
    "multicast_a": (False, True),
    "stages": (2, 3, 4, 5, 6, 7, 8),
    "acc_stages": (1, 2),
    "early_release": (False, True),
    "epi_warpgroups": (1, 2),
    "epi_n": (16, 32, 64),
    "swap_operands": (False, True),
}
GATE_SPACE: dict[str, tuple[ParamValue, ...]] = {"gate_warps": (1, 2, 4, 8)}


def _hidden(problem: RouterProblem, c: Sm100Config) -> str | None:
    if problem.hidden // 2 % TMA_ROW_BYTES:
        return f"hidden = {problem.hidden}: a row of e2m1 must be a multiple of {TMA_ROW_BYTES} bytes for TMA"
    return None


def _renormalized_softmax(problem: RouterProblem, c: Sm100Config) -> str | None:
    if problem.score is Score.SOFTMAX and not problem.renorm:
        return (
            "softmax without renormalization needs a sum over all experts: only the two-kernel path forms it"
        )
    return None


def _mma_rows(problem: RouterProblem, c: Sm100Config) -> str | None:
    if c.rows != TMEM_LANES:
        return f"mma_m = {c.mma_m} with cta_group = {c.cta_group}: this kernel gives a CTA {TMEM_LANES} rows"
    return None


def _pairs(problem: RouterProblem, c: Sm100Config) -> str | None:
    if c.cluster_m % c.cta_group:
        return f"cta_group = 2 pairs CTAs along cluster_m, which is {c.cluster_m}"
    return None


def _cluster_size(problem: RouterProblem, c: Sm100Config) -> str | None:
    if c.cluster_size > MAX_CLUSTER:
        return f"a cluster of {c.cluster_size} CTAs: at most {MAX_CLUSTER}"
    return None


def _swap(problem: RouterProblem, c: Sm100Config) -> str | None:
    if not c.swap_operands:
        return None
    if c.cta_group > 1 or c.cluster_m > 1:
        return "swap_operands is for few tokens: with cta_group = 1 and cluster_m = 1"
    if WARPGROUP % c.token_tile:
        return f"swap_operands gives each of {c.mma_n} tokens a thread of a warpgroup: mma_n = 64 or 128"
    return None


def _no_idle_tiles(problem: RouterProblem, c: Sm100Config) -> str | None:
    ctas = c.expert_split * c.grid_split
    if c.n_tiles(problem) * c.expert_tile * ctas - problem.experts >= c.expert_tile:
        return f"tiles of {c.expert_tile} experts for {ctas} CTAs leave a whole tile without an expert"
    return None


def _scale_blocks(problem: RouterProblem, c: Sm100Config) -> str | None:
    # Blocks are the third dimension of their tensor map. Where a tile has more than there are, the DSL (4.8)
    # gives it two coordinates all the same.
    if not c.swap_operands and c.mma_n > SCALE_ROWS >= problem.experts:
        return (
            f"mma_n = {c.mma_n} takes two blocks of {SCALE_ROWS} scales: {problem.experts} experts have one"
        )
    return None


def _multicast_a(problem: RouterProblem, c: Sm100Config) -> str | None:
    if c.multicast_a and c.expert_split == 1:
        return "multicast_a shares the tokens among the CTAs of an expert split, and there is none"
    if c.multicast_a and MMAS_PER_STAGE % c.expert_split:
        return f"multicast divides a stage's {MMAS_PER_STAGE} scale atoms, not among {c.expert_split} CTAs"
    return None


def _k_tiles(problem: RouterProblem, c: Sm100Config) -> str | None:
    k_tiles = c.k_tiles(problem)
    if k_tiles % c.split_k:
        return f"{k_tiles} K tiles cannot be divided among {c.split_k} CTAs"
    if c.stages > max(2, k_tiles // c.split_k):
        return f"{c.stages} stages for {k_tiles // c.split_k} K tiles"
    return None


def _tensor_memory(problem: RouterProblem, c: Sm100Config) -> str | None:
    if c.tmem_columns > TMEM_COLUMNS:
        return f"{c.tmem_columns} columns of tensor memory: there are {TMEM_COLUMNS}"
    return None


def _walk(problem: RouterProblem, c: Sm100Config) -> str | None:
    if c.mma_n % (c.epi_n * c.epi_warpgroups):
        return f"{c.mma_n} columns in subtiles of {c.epi_n} for {c.epi_warpgroups} epilogue warpgroups"
    return None


def _staged(problem: RouterProblem, c: Sm100Config) -> str | None:
    if c.stages_accumulators and c.early_release:
        return "early_release: staging an accumulator in shared memory returns it at once, there is no choice"
    return None


def _lists(problem: RouterProblem, c: Sm100Config) -> str | None:
    if c.lists_per_row * c.group_size > WARP:
        return f"{c.lists_per_row * c.group_size} partial lists of a row: a warp merges at most {WARP}"
    return None


def _shared_memory(problem: RouterProblem, c: Sm100Config) -> str | None:
    if c.smem_bytes(problem) > SMEM_BYTES:
        return f"{c.smem_bytes(problem)} bytes of shared memory: a block has {SMEM_BYTES}"
    return None


_TILE_PARAMETERS = ("mma_m", "mma_n", "cta_group", "swap_operands")
_EXPERT_PARAMETERS = (*_TILE_PARAMETERS, "expert_split", "grid_split")
_TMEM_PARAMETERS = ("mma_m", "mma_n", "cta_group", "acc_stages", "early_release")

RULES: tuple[Rule, ...] = (
    Rule((), _renormalized_softmax),
    Rule((), _hidden),
    Rule((), no_choice),
    Rule(("mma_m", "cta_group"), _mma_rows),
    Rule(("cta_group", "cluster_m"), _pairs),
    Rule(("cluster_m", "expert_split", "split_k"), _cluster_size),
    Rule((*_TILE_PARAMETERS, "cluster_m"), _swap),
    Rule(_EXPERT_PARAMETERS, _no_idle_tiles),
    Rule(("mma_n", "swap_operands"), _scale_blocks),
    Rule(("expert_split", "multicast_a"), _multicast_a),
    Rule(("split_k", "stages"), _k_tiles),
    Rule(_TMEM_PARAMETERS, _tensor_memory),
    Rule(("mma_n", "epi_warpgroups", "epi_n"), _walk),
    Rule(("split_k", "swap_operands", "early_release"), _staged),
    Rule((*_TILE_PARAMETERS, "expert_split", "split_k", "epi_warpgroups"), _lists),
    Rule((*_EXPERT_PARAMETERS, "split_k", "epi_warpgroups", "stages"), _shared_memory),
)

# The GEMM that writes logits keeps the router's rules, so that both kernels search the same shapes.
TWO_KERNEL_RULES: tuple[Rule, ...] = RULES[1:]


SMS = 148  # of a B200


def default_config(
    problem: RouterProblem, m: int, rules: tuple[Rule, ...] = RULES, *, routes: bool = True
) -> Sm100Config:
    """A legal config for any problem, untuned: the first legal one of those that suit about `m` tokens.

    Nothing here has been measured: few tokens want experts and K spread over a cluster, many want both CTAs
    of a pair in one MMA. `routes`: the epilogue takes the top k, not the logits alone.
    """
    shapes = [*_shapes(m), *_any_shapes()]
    if m > (2048 if routes else 512):
        shapes = [*_one_wave(problem, m, routes), *shapes]
    # Where a CTA has one tile of 64 experts, four for K are too many: 16.0 us, not 14.8, at M = 2048.
    if routes and (1024 if problem.experts > 128 else 2048) < m <= 4096:
        shapes = [*_clusters_of_one_wave(m), *shapes]
    for config in shapes:
        if all(rule.reason(problem, config) is None for rule in rules):
            return config
    reason = next(filter(None, (rule.reason(problem, Sm100Config()) for rule in rules)))
    raise ValueError(f"{problem.name}: no default config is legal ({reason})")


def _clusters_of_one_wave(m: int) -> list[Sm100Config]:
    """Clusters that split experts and K, as large as one wave has room for.

    Modelled for deepseek-v4-pro at M = 2048 and 4096: 19.0 and 23.1 us, where K splits alone and pairs of
    CTAs with a tile of experts each take 24.6 and 29.5. With one epilogue warpgroup it is 28.9 at 4096:
    nothing hides the top k there.
    """
    return [
        Sm100Config(
            mma_n=64,
            expert_split=2,
            split_k=4 if m <= 2048 else 2,
            stages=stages,
            acc_stages=1,
            epi_warpgroups=2,
            epi_n=16,
        )
        for stages in (6, 4, 2)
    ]


def _one_wave(problem: RouterProblem, m: int, routes: bool) -> list[Sm100Config]:
    """Pairs of CTAs with a tile of experts each, the smallest that suit the SMs; else with all experts.

    Two warpgroups take the top k: where an SM has a tile or little more, nothing else hides it. Modelled for
    deepseek-v4-pro at M = 4096 and 8192: 26 and 32 us with tiles of 128 and 192 experts, 70 with one
    warpgroup for all experts; at 16384, where only that is left, 47 and 70. Logits are written as fast by
    one.
    """
    pair = Sm100Config(mma_m=256, cta_group=2, cluster_m=2, stages=5, epi_warpgroups=2, epi_n=16)
    ctas = -(-m // (pair.cluster_m * pair.token_tile)) * pair.cluster_m
    found = []
    for mma_n in (64, 128, 192, 256):
        split = -(-problem.experts // mma_n)
        if split in SPACE["grid_split"] and ctas * split <= SMS and (split > 1 or not routes):
            tile = replace(pair, mma_n=mma_n, grid_split=split)
            found += [tile, replace(tile, acc_stages=1, early_release=True)]
    return [*found, pair] if routes else found


def _shapes(m: int) -> list[Sm100Config]:
    if m > 2048:
        return [
            Sm100Config(mma_m=256, mma_n=mma_n, cta_group=2, cluster_m=2, stages=5, early_release=True)
            for mma_n in (192, 128, 64)
        ]
    # As many CTAs for a tile of tokens as one wave has room for (modelled at M = 1024: 16.3 us with 12, 41 in
    # two waves with 24).
    splits = [(1, 3), (1, 2), (1, 1)]
    if m <= 512:
        splits = [(2, 3), (2, 2), (1, 6), *splits]
    return [
        Sm100Config(
            mma_n=64, expert_split=split, split_k=split_k, grid_split=grid_split, stages=stages, epi_n=16
        )
        for split, grid_split in splits
        for split_k in ((4, 2) if m <= 1024 else (2,))
        for stages in (6, 4, 2)
    ]


def _any_shapes() -> list[Sm100Config]:
    return [
        Sm100Config(mma_n=mma_n, stages=stages, acc_stages=1)
        for stages in (4, 3, 2)
        for mma_n in (64, 128, 192, 256)
    ]


# Arrival counters of a grid split, at the head of the workspace whatever M is, so that launches at different
# M find them as zero as each left them.
COUNTERS = 65_536


def workspace_elements(problem: RouterProblem, config: Sm100Config, m: int) -> int:
    """fp32 elements of the fused kernel's workspace at `m` tokens: counters, then (s, i, a) of each list.

    Raises `ValueError` when `m` needs more counters than there are.
    """
    if config.grid_split == 1:
        return 1
    tiles = -(-m // (config.token_tile * config.cluster_m)) * config.cluster_m
    if tiles * config.group_size > COUNTERS:
        raise ValueError(
            f"M = {m} in tiles of {config.token_tile} needs over {COUNTERS} counters: set grid_split to 1"
        )
    return COUNTERS + 3 * config.grid_split * m * problem.top_k

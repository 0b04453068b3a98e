"""Defects planted in the Blackwell kernel, of the kind that a first attempt has.

Each is a subclass or a replacement of one small thing of the real kernel; all of them compile. What must
notice it stands in `Defect.caught`: the check, in its verdict's words, or the simulator, in its error's.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any
from unittest.mock import patch

import cutlass
import cutlass.cute as cute
from cutlass import Boolean

from harness.check_cases import DISTRIBUTIONS
from kernels.device.fences import fence_acquire_shared
from kernels.problem import RouterProblem
from kernels.sm100 import epilogue as epilogue_module
from kernels.sm100 import exchange as exchange_module
from kernels.sm100 import gemm as gemm_module
from kernels.sm100 import launch as launch_module
from kernels.sm100 import tiles as tiles_module
from kernels.sm100.config import Sm100Config
from kernels.sm100.gemm import Sm100RouterGemm
from kernels.sm100.router import RouterEpilogue
from kernels.sm100.sync import fence_after_sync
from kernels.sm100.tiles import Tiles
from tests.kernels.mutants_sm100_epilogue import (
    BiasUnawaited,
    CounterKept,
    ForwardIds,
    GivenBackUnfenced,
    LastPartMissing,
    NeverCleared,
    NeverLowered,
    NeverRaised,
    NoBarrierAfterTheLoads,
    PublishedInOnePlace,
    TailUnguarded,
    Unmasked,
    alpha_after_score,
    alpha_forgotten,
    bias_before_score,
    bias_in_weight,
    exchanging,
    first_address,
    listing,
    own_address,
    stale_acquire,
    stale_await,
    taking,
)
from tests.kernels.mutants_sm100_gemm import (
    AllocatedTooSmall,
    ConsumerSkipsAKTile,
    KRankIgnored,
    KTailSkipped,
    LastKTileSkipped,
    OwnBarrier,
    ReleasedOneSubtileEarly,
    ReleasesByTheWarp,
    SameRound,
    ScalesOfTheFirstHalfAtom,
    ScalesOneColumnOn,
    ScalesOverAccumulator,
    ScalesOverOtherAccumulator,
    ScaleTileOfTheColumns,
    SfbFollowsCtaGroup,
    SfbFromMainMma,
    StaleRingPhase,
    TokenTileOfTheCta,
    masked_by,
    plain_scales,
    scales_with,
    turned_scales,
    with_bytes,
)
from tests.kernels.planted import NO_DEFECT
from tests.kernels.planting import Without, nothing

PROBLEM = RouterProblem("planted", hidden=512, experts=128, top_k=6, routed_scale=2.5)
CONFIG = Sm100Config(mma_n=64, stages=2, epi_n=16)


@dataclass(frozen=True)
class Defect:
    """What is replaced in the kernel, in which config and problem it shows, and what catches it.

    Attributes:
        layout: replaces the config's class, whose properties the kernel computes with.
        patches: (module or class, name in it, replacement) while the kernel is compiled.
        only: the check's distributions to run, where most would pass and take their time.
        caught: a regular expression for the verdict: "check: ..." or "simulator: ...".
    """

    caught: str
    kernel: type[Sm100RouterGemm] = Sm100RouterGemm
    epilogue: type[RouterEpilogue] = RouterEpilogue
    tiles: type[Tiles] = Tiles
    layout: type[Sm100Config] = Sm100Config
    config: Sm100Config = CONFIG
    problem: RouterProblem = PROBLEM
    patches: tuple[tuple[Any, str, Any], ...] = ()
    only: tuple[str, ...] = tuple(DISTRIBUTIONS)


PAIR = replace(CONFIG, mma_m=256, cta_group=2, cluster_m=2)
WIDE_PAIR = replace(PAIR, mma_n=128)
CLUSTER = replace(CONFIG, cluster_m=2)
SPLIT = replace(CONFIG, expert_split=2)
SPLIT_A = replace(SPLIT, multicast_a=True)
SPLIT_K = replace(CONFIG, split_k=2)
GRID = replace(CONFIG, grid_split=2)
EARLY = replace(CONFIG, acc_stages=1, early_release=True)
OVERLAP = replace(CONFIG, mma_n=256, acc_stages=1, early_release=True)
SWAPPED = replace(CONFIG, swap_operands=True)
WARPGROUPS = replace(CONFIG, epi_warpgroups=2)
# Two tiles of 256 experts, the second not full.
MANY = replace(PROBLEM, experts=384)
WHOLE = replace(PROBLEM, experts=256)
# An odd number of experts: the last tile has columns without one.
ODD = replace(PROBLEM, experts=104)
ONE_CLUSTER = ((gemm_module, "RESIDENT_CTAS", 1),)  # so that M = 160 takes two rounds


RANKS = "check: .* ranks above expert"
UNORDERED = "simulator: .*nothing orders the two"
STALLED = "simulator: deadlock"
OVERLAPS = "simulator: .*overlaps an operand of its own"
RACE = "simulator: .*race: it .*no barrier orders the two"
SCOPE = "simulator: .*race: it .*not of cluster scope"
FILLING = "simulator: .*a tile load is still under way"
REFUSED = "compiler: .*expected top-level shape equivalence between the SMEM layout and the CTA V-map"

DEFECTS: dict[str, Defect] = {
    # Scale factors.
    "sfb_from_the_main_mma": Defect(REFUSED, tiles=SfbFromMainMma, config=WIDE_PAIR),
    "sfb_follows_the_cta_group": Defect(REFUSED, tiles=SfbFollowsCtaGroup, config=WIDE_PAIR),
    "scales_of_the_first_half_atom": Defect(RANKS, tiles=ScalesOfTheFirstHalfAtom),
    "scales_one_column_on": Defect("simulator: .*nobody wrote tensor memory", tiles=ScalesOneColumnOn),
    "scale_tile_of_the_columns": Defect(RANKS, tiles=ScaleTileOfTheColumns, problem=MANY),
    "scale_atoms_in_row_order": Defect(
        RANKS, patches=((tiles_module, "scales", scales_with((1, 2))),), problem=MANY
    ),
    "scales_unswizzled": Defect(
        "simulator: .*illegal tensor map: box of 4 bytes", patches=((tiles_module, "scales", plain_scales),)
    ),
    "scale_atom_turned": Defect(
        "simulator: .*illegal tensor map: box of 8 bytes", patches=((tiles_module, "scales", turned_scales),)
    ),
    # Tensor memory.
    "scales_over_accumulator": Defect(
        "simulator: .*overlaps an operand of its own", layout=ScalesOverAccumulator
    ),
    "scales_over_the_other_accumulator": Defect(OVERLAPS, layout=ScalesOverOtherAccumulator),
    "allocated_too_small": Defect("simulator: .*are not allocated", layout=AllocatedTooSmall),
    "released_one_subtile_early": Defect(UNORDERED, layout=ReleasedOneSubtileEarly, config=EARLY),
    "overlap_released_one_subtile_early": Defect(
        UNORDERED, layout=ReleasedOneSubtileEarly, config=OVERLAP, problem=MANY
    ),
    "load_not_waited_for": Defect(
        UNORDERED, config=EARLY, patches=((cute.arch, "fence_view_async_tmem_load", nothing),)
    ),
    "given_back_unfenced": Defect(UNORDERED, epilogue=GivenBackUnfenced, config=EARLY),
    "accumulator_read_unfenced": Defect(UNORDERED, patches=((epilogue_module, "fence_after_sync", nothing),)),
    "accumulator_written_unfenced": Defect(
        UNORDERED, config=EARLY, patches=((gemm_module, "fence_after_sync", Without(fence_after_sync, 2)),)
    ),
    "freed_unfenced": Defect(
        "simulator: .*frees tensor memory",
        patches=((gemm_module, "fence_after_sync", Without(fence_after_sync, 4)),),
    ),
    "freed_before_the_epilogue_is_done": Defect(UNORDERED, epilogue=NoBarrierAfterTheLoads),
    "tensor_memory_not_freed": Defect(
        "simulator: a CTA exits with 256 columns", patches=((cutlass.memory.TmemAllocator, "free", nothing),)
    ),
    "accumulator_never_cleared": Defect(
        "simulator: .*nobody wrote tensor memory",
        patches=((gemm_module, "Boolean", lambda value: Boolean(True)),),
    ),
    "accumulator_always_cleared": Defect(
        RANKS, patches=((gemm_module, "Boolean", lambda value: Boolean(False)),)
    ),
    # The ring.
    "bytes_16_more": Defect(STALLED, tiles=with_bytes(lambda tiles: 16)),
    "bytes_16_less": Defect(STALLED, tiles=with_bytes(lambda tiles: -16)),
    "bytes_without_sfb": Defect(FILLING, tiles=with_bytes(lambda tiles: -128 * 16)),
    "bytes_of_one_cta": Defect(
        STALLED, tiles=with_bytes(lambda tiles: -tiles.config.load_bytes), config=PAIR
    ),
    "own_barrier": Defect(STALLED, tiles=OwnBarrier, config=PAIR),
    "mask_of_the_next_ctas": Defect(
        "simulator: .*multicast", tiles=masked_by(lambda mask: mask << 1), config=SPLIT_A
    ),
    "mask_of_one": Defect(STALLED, tiles=masked_by(lambda mask: mask & 1), config=SPLIT_A),
    "stale_ring_phase": Defect(FILLING, kernel=StaleRingPhase),
    "stage_released_by_the_warp": Defect("simulator: .*may still read", kernel=ReleasesByTheWarp),
    "last_k_tile_skipped": Defect(RANKS, kernel=LastKTileSkipped),
    "k_tail_skipped": Defect(RANKS, kernel=KTailSkipped, problem=replace(PROBLEM, hidden=544)),
    "consumer_skips_a_k_tile": Defect(STALLED, kernel=ConsumerSkipsAKTile),
    "k_rank_ignored": Defect(RANKS, kernel=KRankIgnored, config=SPLIT_K),
    "token_tile_of_the_cta": Defect(RANKS, kernel=TokenTileOfTheCta, config=PAIR),
    "next_round_is_this_round": Defect(RANKS, kernel=SameRound, patches=ONE_CLUSTER),
    # The epilogue.
    "alpha_forgotten": Defect(RANKS, epilogue=taking(alpha_forgotten)),
    "alpha_after_score": Defect(RANKS, epilogue=taking(alpha_after_score)),
    "bias_before_score": Defect(RANKS, epilogue=taking(bias_before_score)),
    "bias_in_weight": Defect("check: .* the weight of expert", epilogue=taking(bias_in_weight)),
    "columns_past_the_end_unmasked": Defect("check: .* is outside ", epilogue=Unmasked, problem=ODD),
    "rows_past_the_end_written": Defect("simulator: .*outside every tensor", epilogue=TailUnguarded),
    "list_kept_for_the_next_tile": Defect(
        "check: .*is selected twice", epilogue=listing(NeverCleared), patches=ONE_CLUSTER
    ),
    "forward_ids_on_the_reversed_walk": Defect(RANKS, epilogue=ForwardIds, config=OVERLAP, problem=MANY),
    "ties_by_arrival": Defect(
        "check: ties", epilogue=listing(NeverLowered), config=OVERLAP, problem=WHOLE, only=("ties",)
    ),
    "ties_lost_for_good": Defect(
        "check: ties", epilogue=listing(NeverRaised), config=OVERLAP, problem=MANY, only=("ties",)
    ),
    "bias_read_before_it_is_there": Defect(RACE, epilogue=BiasUnawaited),
    # Exchanges between CTAs.
    "own_list_only": Defect(
        "check: .*is selected twice", epilogue=exchanging(address=own_address), config=SPLIT
    ),
    "first_part_twice": Defect(
        "check: .*is selected twice", epilogue=exchanging(address=first_address), config=SPLIT_K
    ),
    "last_part_missing": Defect(RANKS, epilogue=LastPartMissing, config=SPLIT_K),
    "lists_read_early": Defect(RACE, epilogue=exchanging(await_peers=nothing), config=SPLIT),
    "parts_read_early": Defect(RACE, epilogue=exchanging(await_peers=nothing), config=SPLIT_K),
    "lists_not_released": Defect(
        SCOPE, config=SPLIT, patches=((exchange_module, "fence_release_shared", nothing),)
    ),
    "parts_not_released": Defect(
        SCOPE, config=SPLIT_K, patches=((exchange_module, "fence_release_shared", nothing),)
    ),
    "lists_not_acquired": Defect(
        SCOPE,
        config=SPLIT,
        patches=((exchange_module, "fence_acquire_shared", Without(fence_acquire_shared, 2)),),
    ),
    "space_not_acquired": Defect(
        SCOPE,
        config=SPLIT,
        patches=((exchange_module, "fence_acquire_shared", Without(fence_acquire_shared, 1)), *ONE_CLUSTER),
    ),
    "space_not_released": Defect(
        SCOPE, config=SPLIT, patches=((cute.arch, "fence_acq_rel_cluster", nothing), *ONE_CLUSTER)
    ),
    "space_never_given_back": Defect(
        STALLED, epilogue=exchanging(release=nothing), config=SPLIT, patches=ONE_CLUSTER
    ),
    "stale_exchange_phase": Defect(STALLED, epilogue=exchanging(await_peers=stale_await), config=SPLIT),
    "stale_acquire": Defect(STALLED, epilogue=exchanging(acquire=stale_acquire), config=SPLIT),
    "lists_overwritten_early": Defect(
        RACE, epilogue=exchanging(acquire=nothing), config=SPLIT, patches=ONE_CLUSTER
    ),
    "parts_overwritten_early": Defect(RACE, epilogue=exchanging(acquire=nothing), config=SPLIT_K),
    "left_while_peers_read": Defect(
        "simulator: .*it exits, and nothing orders before",
        config=SPLIT,
        patches=(
            (cute.arch, "cluster_arrive", nothing),
            (cute.arch, "cluster_wait", Without(cute.arch.cluster_wait, 2)),
        ),
    ),
    "published_in_one_place": Defect(RANKS, epilogue=PublishedInOnePlace, config=GRID),
    "grid_counter_never_reset": Defect(
        "check: .*a second launch gives other bits", epilogue=CounterKept, config=GRID
    ),
}


def compile_mutant(name: str, problem: RouterProblem, config: Sm100Config) -> Any:
    """The kernel with the named defect, or without, as a `launch` like any other."""
    parameters = {field.name: getattr(config, field.name) for field in fields(Sm100Config)}
    if name == NO_DEFECT:
        return launch_module.compile_fused(problem, Sm100Config(**parameters))
    defect = DEFECTS[name]

    def kernel(problem: RouterProblem, config: Sm100Config) -> Sm100RouterGemm:
        return defect.kernel(problem, config, defect.epilogue)

    own = ((gemm_module, "Tiles", defect.tiles), (launch_module, "Sm100RouterGemm", kernel))
    with ExitStack() as stack:
        for place, attribute, value in (*own, *defect.patches):
            stack.enter_context(patch.object(place, attribute, value))
        return launch_module.compile_fused(problem, defect.layout(**parameters))

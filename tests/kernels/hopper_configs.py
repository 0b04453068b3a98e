"""A Hopper config for each thing that a config can change, and a problem that shows it."""

from __future__ import annotations

from kernels.problem import RouterProblem
from kernels.sm90.config import Schedule, Sm90Config

SMALL = RouterProblem("small", hidden=1040, experts=72, top_k=5, routed_scale=1.5)
# One config for each thing that a config can change, on top of the families' defaults.
CONFIGS: dict[str, Sm90Config | None] = {
    "default": None,
    "three_tiles": Sm90Config(tile_m=64, tile_n=32, warpgroups=1),
    "two_blocks": Sm90Config(tile_m=128, tile_n=32, warpgroups=1),
    "tile_of_256": Sm90Config(tile_m=256, tile_n=32),
    "padded_tile_of_8": Sm90Config(tile_m=8, tile_n=96, stages=3, warpgroups=1),
    "padded_tile_of_16": Sm90Config(tile_m=16, tile_n=32, tile_k=128, stages=3, warpgroups=1),
    "pair_of_tiles_sharing_b": Sm90Config(tile_m=64, tile_n=48, cluster_m=2, warpgroups=1),
    "expert_split": Sm90Config(tile_m=64, tile_n=48, expert_split=2, warpgroups=1),
    "expert_split_sharing_a": Sm90Config(
        tile_m=64, tile_n=48, expert_split=2, multicast_a=True, warpgroups=1
    ),
    "cluster_sharing_both": Sm90Config(
        tile_m=64, tile_n=48, cluster_m=2, expert_split=2, multicast_a=True, warpgroups=1
    ),
    "columns_over_warpgroups": Sm90Config(tile_m=64, tile_n=96, schedule=Schedule.COOPERATIVE_N.value),
    "pingpong": Sm90Config(tile_m=64, tile_n=32, schedule=Schedule.PINGPONG.value),
    "early_release": Sm90Config(tile_m=64, tile_n=32, schedule=Schedule.PINGPONG.value, early_release=True),
    "grid_split": Sm90Config(tile_m=16, tile_n=32, grid_split=3, warpgroups=1, stages=8),
}

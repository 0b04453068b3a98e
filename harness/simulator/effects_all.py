"""Importing this registers every effect and every wait."""

from __future__ import annotations

from harness.simulator import (  # noqa: F401
    effects_atomics,
    effects_barriers,
    effects_bulk,
    effects_bulk_groups,
    effects_cp_async,
    effects_launch_control,
    effects_matrix,
    effects_memory,
    effects_mma,
    effects_registers,
    effects_tcgen05,
    effects_tcgen05_memory,
    effects_tma,
    effects_tma_store,
    effects_wgmma,
)

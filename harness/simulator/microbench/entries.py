"""Which micro gives which entry of the target's table.

A `Direct` entry is computed from the device's numbers alone. A `Shifted` one is a latency inside something
that the simulator models as a whole (a loop around a barrier, a tile load): the entry moves by the difference
between the device's cycles and the simulator's, for each of the events that the run contains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.simulator.microbench import arithmetic, clusters, fetch, memory, patterns, products, sync, tiles
from harness.simulator.microbench.results import Results


@dataclass(frozen=True)
class Direct:
    """`entry` ("section.name") of the table from the results; `micro` is named as its source."""

    entry: str
    micro: str
    value: Callable[[Results], float]


@dataclass(frozen=True)
class Shifted:
    """`events` of the run's events each contain the entry once."""

    entry: str
    micro: str
    run: str
    events: int
    column: int = 0


Entry = Direct | Shifted

CHAIN = arithmetic.LOOPS * arithmetic.UNROLL
STREAM = CHAIN * arithmetic.WARPS_PER_SCHEDULER
# Cycles of an integer instruction that a chain contains beside what it measures.
LINK = 5.0


def _latency(entry: str, name: str, beside: float = 0.0) -> Direct:
    micro = f"latency_{name}"
    return Direct(f"latency.{entry}", micro, lambda r: r.cycles(micro) / CHAIN - beside)


def _issue(entry: str, name: str, instructions: int = 1) -> Direct:
    micro = f"issue_{name}"
    return Direct(f"issue.{entry}", micro, lambda r: r.cycles(micro) / STREAM / instructions)


def _per(entry: str, micro: str, events: int, beside: float = 0.0, run: str | None = None) -> Direct:
    return Direct(entry, micro, lambda r: r.cycles(micro, run) / events - beside)


CLUSTER_MICROS = "cluster_rows_2, stream_ld_cluster_v1"


def _line(r: Results) -> float:
    """Cycles of a line of which one sector is touched: every load of a warp of `cluster_rows_2` has 16."""
    loads = clusters.LOOPS * clusters.UNROLL * clusters.THREADS // 32
    return r.cycles("cluster_rows_2", "one") / (16 * loads)


def _sector(r: Results) -> float:
    """Cycles of each further sector: a load of 128 neighbouring bytes has one line and four of them."""
    loads = memory.LOOPS * memory.UNROLL * memory.STREAM_THREADS // 32
    return (r.cycles("stream_ld_cluster_v1") / loads - _line(r)) / 3


ARITHMETIC: list[Entry] = [
    Direct(
        "latency.default",
        "latency_fma, latency_max_add (mean of a chain in one pipe and one across two)",
        lambda r: (r.cycles("latency_fma") + r.cycles("latency_max_add") / 2) / 2 / CHAIN,
    ),
    *(
        _latency(entry, name)
        for entry, name in {
            "ex2": "ex2",
            "lg2": "lg2",
            "rsqrt": "rsqrt",
            "sqrt": "sqrt_rn",
            "sqrt.approx": "sqrt_approx",
            "div": "div_rn",
            "div.full": "div_full",
            "rcp.rn": "rcp_rn",
            "shfl": "shfl",
            "redux": "redux",
        }.items()
    ),
    _latency("rcp", "rcp_add", LINK),
    *(
        _issue(entry, name)
        for entry, name in {
            "ex2": "ex2",
            "lg2": "lg2",
            "rsqrt": "rsqrt",
            "rcp": "rcp_add",
            "rcp.rn": "rcp_rn",
            "sqrt": "sqrt_rn",
            "sqrt.approx": "sqrt_approx",
            "div": "div_rn",
            "div.full": "div_full",
            "cvt": "cvt_bf16x2",
            "mad": "mad_int",
            "shfl": "shfl",
            "redux": "redux",
        }.items()
    ),
    _issue("setp", "setp_selp", 2),
    _issue("selp", "setp_3_selp", 4),
    # Less than a cycle can be hidden; an instruction takes at least one to issue.
    Direct(
        "issue.elect",
        "latency_elect, latency_add",
        lambda r: max(1.0, (r.cycles("latency_elect") - r.cycles("latency_add")) / CHAIN),
    ),
]

SHARED = memory.LOOPS * memory.UNROLL
STREAMED = SHARED * memory.STREAM_THREADS // 128
MEMORY: list[Entry] = [
    _per("latency.ld.shared", "chase_shared", SHARED),
    _per("latency.ld.shared::cluster", "chase_cluster", SHARED, LINK),
    _per("latency.ld.global", "chase_global", memory.CHASE_LOADS, 2 * LINK, "l2"),
    _per("latency.ld", "chase_global", memory.CHASE_LOADS, 2 * LINK, "l2"),
    _per("latency.atom", "chase_atomic_relaxed", memory.ATOMICS, LINK),
    *(_per(f"issue.{op}.shared", f"stream_{op}_shared_v1", STREAMED) for op in ("ld", "st")),
    *(_per(f"issue.{op}.shared.v4", f"stream_{op}_shared_v4", STREAMED // 2) for op in ("ld", "st")),
    _per("issue.ld.shared::cluster", "stream_ld_shared_v1", STREAMED),
    Direct("chip.cluster_line_cycles", CLUSTER_MICROS, lambda r: _line(r) - _sector(r)),
    Direct("chip.cluster_sector_cycles", CLUSTER_MICROS, lambda r: _sector(r)),
    _per("issue.ld.global", "stream_ld_global", STREAMED // 4),
    *(
        _per(f"stall.fence.{name}", f"repeat_fence_{name.replace('.', '_')}", memory.FENCES_IN_ALL, 1)
        for name in (
            "acq_rel.gpu",
            "acq_rel.cluster",
            "acq_rel.cta",
            "proxy.async",
            "release.sync_restrict",
            "acquire.sync_restrict",
        )
    ),
]


ONE = f"one_{patterns.WARPS}"  # the run of an SM's warps


def access_cycles(r: Results, op: str, pattern: patterns.Pattern, run: str) -> float:
    """Cycles of an SM for each access of a warp."""
    return r.cycles(pattern.micro(op), run) / (patterns.WARP_TURNS * pattern.accesses)


def _pattern(entry: str, op: str, pattern: patterns.Pattern, parts: int, run: str = ONE) -> Direct:
    """Cycles of an SM for each of an access's `parts`."""
    return Direct(entry, pattern.micro(op), lambda r: access_cycles(r, op, pattern, run) / parts)


def _store_sms(r: Results) -> float:
    """SMs whose stores the L2 takes at their own rate."""
    one, every = (access_cycles(r, "st", ROW, run) for run in (ONE, f"own_{patterns.SMS}"))
    return patterns.SMS * one / every


def _mask(r: Results) -> float:
    """What a line takes more where bytes of a sector are left out."""
    sectors = HALVES.sectors * access_cycles(r, "st", ROW, ONE) / ROW.sectors
    return (access_cycles(r, "st", HALVES, ONE) - sectors) / HALVES.lines


# Neighbouring bytes, rows of an accumulator (a sector in each of eight lines), and half sectors.
ROW, ROWS, HALVES = patterns.Pattern(1, 16), patterns.Pattern(8, 8), patterns.Pattern(8, 4)
PATTERNS: list[Entry] = [
    _pattern("issue.st.global", "st", patterns.Pattern(1, 4), 1, "one_1"),
    _pattern("chip.store_line_cycles", "st", ROWS, ROWS.lines),
    _pattern("chip.store_sector_cycles", "st", ROW, ROW.sectors),
    Direct("chip.store_mask_cycles", f"{HALVES.micro('st')}, {ROW.micro('st')}", _mask),
    Direct("chip.l2_store_sms", f"{ROW.micro('st')}, {patterns.SMS} SMs and one", _store_sms),
    _pattern("chip.load_line_cycles", "ld_cg", ROWS, ROWS.lines),
    _pattern("chip.load_sector_cycles", "ld_cg", ROW, ROW.sectors),
]

SYNCS = sync.LOOPS * 4
SYNCHRONIZATION: list[Entry] = [
    _per("stall.mbarrier", "repeat_arrive", sync.LOOPS * 8, 1),
    Direct(
        "stall.barrier.cluster.arrive",
        "cluster_release_4, cluster_relaxed_4",
        lambda r: (r.cycles("cluster_release_4") - r.cycles("cluster_relaxed_4")) / SYNCS,
    ),
    # From 4 warps to 12.
    Direct(
        "chip.bar_warp_cycles",
        "bar_sync_384, bar_sync_128",
        lambda r: (r.cycles("bar_sync_384") - r.cycles("bar_sync_128")) / SYNCS / 8,
    ),
    Shifted("latency.bar.sync", "bar_sync_128", "bar", SYNCS),
    Shifted("latency.barrier.cluster.wait", "cluster_relaxed_4", "cluster", SYNCS),
    Shifted("latency.mbarrier.wait", "try_wait_complete", "wait", sync.LOOPS * 8),
]


def _product(r: Results, n: int) -> float:
    """Cycles of one m64nNk16, from groups of 16 and of 4."""
    more = r.cycles(f"wgmma_n{n}_steps16_left0_groups1") - r.cycles(f"wgmma_n{n}_steps4_left0_groups1")
    return more / products.LOOPS / 12


PRODUCTS: list[Entry] = [
    Direct("chip.mma_macs", "wgmma_n256", lambda r: 64 * 256 * 16 / _product(r, 256)),
    Direct("chip.mma_shared_bytes", "wgmma_n16", lambda r: (64 + 16) * 16 * 2 / _product(r, 16)),
    Shifted("chip.mma_latency", "wgmma_n128_steps1_left0_groups1", "wgmma", products.LOOPS),
]


def _burst(r: Results, rows: int, column: int = 1) -> float:
    """Cycles of one burst of tile loads."""
    return r.cycles(f"tma_burst_rows{rows}_tiles{tiles.BURST}", "l2", column) / tiles.TURNS


def _sm_bytes(r: Results) -> float:
    more = (128 - 16) * tiles.ROW_BYTES * tiles.BURST
    return more / (_burst(r, 128) - _burst(r, 16))


def _tma_issue(r: Results) -> float:
    """What 8-row tiles take beyond the bytes of 16-row ones: less than the issue of each."""
    without = _burst(r, 16) - tiles.BURST * 16 * tiles.ROW_BYTES / _sm_bytes(r)
    return (_burst(r, 8) - without) / tiles.BURST


def _rate(r: Results, rows: int, run: str, cluster: int = 1) -> float:
    """Bytes a cycle of all CTAs of a run of the pipelined loads."""
    micro = next(m for m in tiles.micros() if m.name.startswith(_pipelined(rows, cluster)))
    found = next(one for one in micro.runs if one.name == run)
    return found.ctas * found.parameters[0] * rows * tiles.ROW_BYTES / r.cycles(micro.name, run)


def _pipelined(rows: int, cluster: int) -> str:
    kind = "tile" if cluster == 1 else f"cluster{cluster}"
    return f"tma_{kind}_rows{rows}_stages{tiles.stages(rows)}"


TILES: list[Entry] = [
    Direct("chip.sm_bytes", "tma_burst_rows128, tma_burst_rows16", _sm_bytes),
    Direct("chip.tma_issue_cycles", "tma_burst_rows8", _tma_issue),
    Direct("chip.gpc_bytes", "tma_cluster16_rows128", lambda r: _rate(r, 128, "gpc_l2_16", 16)),
    Direct("chip.l2_bytes", "tma_tile_rows128, 132 SMs, distinct tiles", lambda r: _rate(r, 128, "l2_132")),
    Direct("chip.dram_bytes", "tma_tile_rows64, 132 SMs", lambda r: _rate(r, 64, "dram_132")),
    # Issuing a load and an add, in a row of loads that the unit takes without delay.
    Direct("issue.cp", "tma_burst_rows8", lambda r: _burst(r, 8, 0) / tiles.BURST - 1),
    Shifted("chip.l2_latency", f"tma_burst_rows64_tiles{tiles.BURST}", "l2", tiles.TURNS, 1),
    Shifted("chip.dram_latency", "tma_tile_rows64_stages1", "dram", tiles.LATENCY_TILES),
    Shifted("chip.multicast_latency", "tma_burst_multicast4_rows32_tiles1", "l2", tiles.TURNS, 1),
]


def _late(r: Results, count: int) -> float:
    micro = f"fetch_{count}"
    return r.cycles(micro, "cold_132", 0) - r.cycles(micro, "cold_132", 1)


def _fetch_bytes(r: Results) -> float:
    return 1024 * fetch.INSTRUCTION_BYTES / (_late(r, 2048) - _late(r, 1024))


CODE: list[Entry] = [
    Direct("chip.instruction_bytes", "fetch_2048, fetch_1024, all SMs, not in the L2", _fetch_bytes),
    Direct(
        "chip.instruction_prefetch_bytes",
        "fetch_1024, all SMs, not in the L2",
        lambda r: 1024 * fetch.INSTRUCTION_BYTES - _late(r, 1024) * _fetch_bytes(r),
    ),
]

LAUNCHES: list[Entry] = [
    Direct("chip.launch_cycles", "spin, one CTA", lambda r: r.beyond_spin("graph_few")),
    Direct(
        "chip.launch_cta_cycles",
        "spin, 132 CTAs and one",
        lambda r: (r.beyond_spin("graph_132") - r.beyond_spin("graph_few")) / 131,
    ),
    Direct("chip.wave_cycles", "spin, 8 CTAs on each SM", lambda r: r.gap_between_ctas()),
]

ENTRIES: list[Entry] = [
    *LAUNCHES,
    *ARITHMETIC,
    *MEMORY,
    *PATTERNS,
    *SYNCHRONIZATION,
    *PRODUCTS,
    *TILES,
    *CODE,
]

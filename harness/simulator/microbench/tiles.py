"""TMA tile loads: one thread keeps `stages` tiles in flight and takes them in order.

With one stage each turn is a load's latency; with many, the time per tile is what the path to the SM lets
through. Parameters: p0 tiles, p1 the step in row blocks after a full row of tiles, p2 the row blocks between
neighbouring CTAs, p3 the row blocks in all (they wrap), p4 the tiles by which a CTA's first column is ahead
of its neighbour's.
"""

from __future__ import annotations

from harness.simulator.microbench.micro import (
    SOURCE_COLUMNS,
    SOURCE_ROWS,
    TILE_COLUMNS,
    Micro,
    Run,
    clock,
    store,
)
from harness.simulator.microbench.sync import CLUSTER_SYNC, wait

ROW_BYTES = 2 * TILE_COLUMNS
COLUMNS = SOURCE_COLUMNS // TILE_COLUMNS
ROWS = (8, 16, 32, 64, 128)
RING_BYTES = 192 * 1024
MAX_STAGES = 48
BURST = 12
LATENCY_TILES = 64
TURNS = 16  # bursts
CLUSTERS = (2, 4, 8, 16)
LOAD = "cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes"
MULTICAST = (
    "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
)
SMS = 132
# 17 MB of source: lies in either half of the L2. 9 blocks of 128 rows: 132 CTAs begin at different tiles.
L2_ROWS = 1152
MEMORY_BYTES = 400 * 2**20  # what all SMs read together from memory


def micros() -> list[Micro]:
    return [
        *(_micro(rows, 1, _latency_runs(rows)) for rows in ROWS),
        *(_micro(rows, stages(rows), _rate_runs(rows)) for rows in ROWS),
        _micro(64, 4, _rate_runs(64)),
        *(_micro(rows, stages(rows), _gpc_runs(rows), 16) for rows in (16, 64, 128)),
        *(_burst(rows, BURST) for rows in ROWS),
        *(_burst(128 // size, tiles, size) for size in CLUSTERS for tiles in (1, BURST)),
    ]


def stages(rows: int) -> int:
    """Tiles in flight when as many as fit are."""
    return min(MAX_STAGES, RING_BYTES // (rows * ROW_BYTES))


def _tiles(rows: int) -> int:
    """Tiles of a run: 4 MB of them into one SM."""
    return 4 * 2**20 // (rows * ROW_BYTES)


def _latency_runs(rows: int) -> tuple[Run, ...]:
    wide = (LATENCY_TILES, 1, 1, SOURCE_ROWS // rows, 0)
    return (Run("l2", 1, wide), Run("dram", 1, wide, flush=True))


def _rate_runs(rows: int) -> tuple[Run, ...]:
    blocks = L2_ROWS // rows
    memory = MEMORY_BYTES // (SMS * rows * ROW_BYTES)
    spread = (_tiles(rows), 1, 1, blocks, 1)
    return (
        *(Run(f"l2_{ctas}", ctas, spread) for ctas in (1, 8, 16, 32, 66, SMS)),
        Run("l2_same_132", SMS, (_tiles(rows), 1, 0, blocks, 0)),
        *(
            Run(f"dram_{ctas}", ctas, (memory, ctas, 1, SOURCE_ROWS // rows, 0), flush=True)
            for ctas in (1, 16, 66, SMS)
        ),
    )


def _gpc_runs(rows: int) -> tuple[Run, ...]:
    blocks = L2_ROWS // rows
    memory = MEMORY_BYTES // (SMS * rows * ROW_BYTES)
    return (
        Run("gpc_l2_16", 16, (_tiles(rows), 1, 1, blocks, 1)),
        Run("gpc_l2_same_16", 16, (_tiles(rows), 1, 0, blocks, 0)),
        Run("gpc_l2_32", 32, (_tiles(rows), 1, 1, blocks, 1)),
        Run("gpc_dram_16", 16, (memory, 16, 1, SOURCE_ROWS // rows, 0), flush=True),
    )


def _micro(rows: int, stages: int, runs: tuple[Run, ...], cluster: int = 1) -> Micro:
    """`rows`: of a box; each of a cluster's CTAs loads for itself."""
    tile = rows * ROW_BYTES
    issue = f"""
mbarrier.arrive.expect_tx.shared.b64 _, [bar], {tile};
{LOAD} [to], [map, {{{{x, y}}}}], [bar];
add.u32 x, x, {TILE_COLUMNS};
setp.ge.u32 wraps, x, {SOURCE_COLUMNS};
@!wraps bra {{label}};
mov.b32 x, 0;
add.u32 block, block, p1;
rem.u32 block, block, p3;
mul.lo.u32 y, block, {rows};
{{label}}:
"""
    body = f"""
.reg .b64 begin, end, first, last;
.reg .b32 x, y, block, bar, bars, to, stage, parity, turn, left;
.reg .pred ready, wraps, more, idle;
mov.u32 x, %ctaid.x;
mul.lo.u32 block, x, p2;
rem.u32 block, block, p3;
mul.lo.u32 y, block, {rows};
mul.lo.u32 x, x, p4;
rem.u32 x, x, {COLUMNS};
mul.lo.u32 x, x, {TILE_COLUMNS};
add.u32 bars, smem, {stages * tile};
setp.ne.u32 idle, tid, 0;
@idle bra INITIALIZED;
mov.b32 stage, 0;
INITIALIZE:
mad.lo.u32 bar, stage, 8, bars;
mbarrier.init.shared.b64 [bar], 1;
add.u32 stage, stage, 1;
setp.lt.u32 more, stage, {stages};
@more bra INITIALIZE;
fence.mbarrier_init.release.cluster;
fence.proxy.async.shared::cta;
INITIALIZED:
{CLUSTER_SYNC if cluster > 1 else "bar.sync 0;"}
@idle bra DONE;
mov.u64 first, %globaltimer;
{clock("begin")}
mov.b32 stage, 0;
FILL:
mad.lo.u32 bar, stage, 8, bars;
mad.lo.u32 to, stage, {tile}, smem;
{issue.format(label="FILLED")}
add.u32 stage, stage, 1;
setp.lt.u32 more, stage, {stages};
@more bra FILL;
mov.b32 stage, 0;
mov.b32 parity, 0;
mov.b32 turn, 0;
sub.u32 left, p0, {stages};
TAKE:
mad.lo.u32 bar, stage, 8, bars;
{wait("T", "bar", "parity")}
setp.ge.u32 more, turn, left;
@more bra TAKEN;
mad.lo.u32 to, stage, {tile}, smem;
{issue.format(label="TAKEN")}
add.u32 stage, stage, 1;
setp.lt.u32 more, stage, {stages};
@more bra SAME;
mov.b32 stage, 0;
xor.b32 parity, parity, 1;
SAME:
add.u32 turn, turn, 1;
setp.lt.u32 more, turn, p0;
@more bra TAKE;
{clock("end")}
mov.u64 last, %globaltimer;
sub.u64 end, end, begin;
sub.u64 last, last, first;
{store(0, "end")}{store(1, "last")}
DONE:
{CLUSTER_SYNC if cluster > 1 else ""}
"""
    kind = f"cluster{cluster}" if cluster > 1 else "tile"
    name = f"tma_{kind}_rows{rows}_stages{stages}"
    return Micro(name, body, runs, 32, cluster, stages * tile + 8 * stages, rows)


def _burst(rows: int, tiles: int, cluster: int = 1) -> Micro:
    """`tiles` loads issued back to back for one barrier; columns: cycles of issuing, and until all arrived.

    In a cluster each CTA loads a box of `rows` rows of every tile and multicasts it to all. p0 bursts: each
    begins at the next row of tiles.
    """
    box = rows * ROW_BYTES
    tile = box * cluster
    operands = "[to+{offset}], [map, {{x{odd}, y}}], [smem]" + (", mask" if cluster > 1 else "")
    loads = "".join(
        f"{LOAD if cluster == 1 else MULTICAST} {operands.format(offset=number * tile, odd=number % 2)};\n"
        f"add.u32 x{number % 2}, x{number % 2}, {2 * TILE_COLUMNS};\n"
        for number in range(tiles)
    )
    body = f"""
.reg .b64 begin, middle, end, issuing, arriving;
.reg .b32 x0, x1, y, to, turn, parity, rank;
.reg .b16 mask;
.reg .pred idle, ready, more;
mov.b16 mask, {(1 << cluster) - 1};
setp.ne.u32 idle, tid, 0;
mov.u32 rank, %cluster_ctarank;
mul.lo.u32 y, rank, {rows};
mad.lo.u32 to, rank, {box}, smem;
add.u32 to, to, 1024;
mov.b64 issuing, 0;
mov.b64 arriving, 0;
mov.b32 parity, 0;
mov.b32 turn, 0;
@idle bra BURST;
mbarrier.init.shared.b64 [smem], 1;
fence.mbarrier_init.release.cluster;
fence.proxy.async.shared::cta;
BURST:
mov.b32 x0, 0;
mov.b32 x1, {TILE_COLUMNS};
@idle bra EXPECTED;
mbarrier.arrive.expect_tx.shared.b64 _, [smem], {tiles * tile};
EXPECTED:
barrier.cluster.arrive;
barrier.cluster.wait;
@idle bra ARRIVED;
{clock("begin")}
{loads}
{clock("middle")}
{wait("B", "smem", "parity")}
{clock("end")}
ARRIVED:
{CLUSTER_SYNC}
xor.b32 parity, parity, 1;
sub.u64 middle, middle, begin;
sub.u64 end, end, begin;
add.u64 issuing, issuing, middle;
add.u64 arriving, arriving, end;
add.u32 y, y, {rows * cluster};
add.u32 turn, turn, 1;
setp.lt.u32 more, turn, p0;
@more bra BURST;
@idle bra DONE;
{store(0, "issuing")}{store(1, "arriving")}
DONE:
"""
    full = SMS // cluster * cluster
    runs = (
        Run("l2", cluster, (TURNS,)),
        Run("dram", cluster, (TURNS,), flush=True),
        Run("l2_all", full, (TURNS,)),
    )
    kind = f"_multicast{cluster}" if cluster > 1 else ""
    name = f"tma_burst{kind}_rows{rows}_tiles{tiles}"
    return Micro(name, body, runs, 32, cluster, 1024 + tiles * tile, rows)

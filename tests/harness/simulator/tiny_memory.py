"""Tiny kernels of data on its way: TMA tiles, multicast, distributed shared memory, matrix moves."""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import BFloat16, Float16, Float32, Int16, Int32, Int64, Uint8, const_expr
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from tests.harness.simulator.tiny_dsl import compile_block, compile_launch
from tests.harness.simulator.tiny_params import TILE_ROWS, tile_columns

TYPES: dict[str, Any] = {"f32": Float32, "f16": Float16, "bf16": BFloat16, "u8": Uint8}
THREADS = 64
WARP = 32


def tile_layout(dtype: Any, swizzle: int) -> cute.ComposedLayout:
    """A tile of TILE_ROWS rows whose width is the swizzle's span (64 bytes without one)."""
    columns = tile_columns(dtype.width // 8, swizzle)
    bits = {0: 0, 32: 1, 64: 2, 128: 3}[swizzle]
    outer = cute.make_layout((TILE_ROWS, columns), stride=(columns, 1))
    # The address's 16-byte chunk, bits 4 and up, is XORed with its 128-byte row, bits 7 and up.
    return cute.make_composed_layout(cute.make_swizzle(bits, 4, 3), 0, outer)


def compile_tma_load(type_name: str, swizzle: int, cluster: int = 1) -> Any:
    """x [rows, columns] -> y Int32 [tiles, words]: each tile as TMA leaves it in shared memory.

    Tiles are counted along the rows first. CTAs of a cluster all get the tile of its first CTA, each loading
    and multicasting its share of the rows.
    """
    dtype = TYPES[type_name]
    columns = tile_columns(dtype.width // 8, swizzle)
    tile_bytes = TILE_ROWS * columns * dtype.width // 8
    words = tile_bytes // 4

    @cute.kernel
    def kernel(tma: cute.CopyAtom, source: cute.Tensor, layout: cute.ComposedLayout, y: cute.Tensor) -> None:
        m, n, _ = cute.arch.block_idx()
        m_tiles, _, _ = cute.arch.grid_dim()
        thread, _, _ = cute.arch.thread_idx()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        smem = SmemAllocator()
        tile = smem.allocate_tensor(dtype, layout.outer, 1024, layout.inner)
        barrier = smem.allocate_array(Int64, 1)
        if warp == 0:
            with cute.arch.elect_one():
                cute.arch.mbarrier_init(barrier, 1)
        cute.arch.mbarrier_init_fence()
        if const_expr(cluster > 1):
            cute.arch.cluster_arrive_relaxed()
            cute.arch.cluster_wait()
        else:
            cute.arch.sync_threads()
        if warp == 0:
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive_and_expect_tx(barrier, tile_bytes)
            mask = None
            if const_expr(cluster > 1):
                mask = Int16((1 << cluster) - 1)
            tiles = cute.local_tile(source, (TILE_ROWS, columns), (m // cluster * cluster, n))
            target, part = cpasync.tma_partition(
                tma,
                rank,
                cute.make_layout(cluster),
                cute.group_modes(tile, 0, 2),
                cute.group_modes(tiles, 0, 2),
            )
            cute.copy(tma, part, target, tma_bar_ptr=barrier, mcast_mask=mask)
        cute.arch.mbarrier_wait(barrier, 0)
        raw = cute.make_tensor(cute.recast_ptr(smem_address(tile), dtype=Int32), cute.make_layout(words))
        for word in cutlass.range(thread, words, THREADS, unroll=1):
            y[n * m_tiles + m, word] = raw[word]
        if const_expr(cluster > 1):
            cute.arch.cluster_arrive()
            cute.arch.cluster_wait()

    @cute.jit
    def launch(x: cute.Tensor, y: cute.Tensor, stream: Any) -> None:
        layout = tile_layout(dtype, swizzle)
        op = cpasync.CopyBulkTensorTileG2SMulticastOp() if cluster > 1 else cpasync.CopyBulkTensorTileG2SOp()
        tma, source = cpasync.make_tiled_tma_atom(op, x, layout, (TILE_ROWS, columns), num_multicast=cluster)
        grid = (
            cute.round_up(cute.ceil_div(x.shape[0], TILE_ROWS), cluster),
            cute.ceil_div(x.shape[1], columns),
            1,
        )
        kernel(tma, source, layout, y).launch(
            grid=grid, block=(THREADS, 1, 1), cluster=(cluster, 1, 1), stream=stream
        )

    shape = (cute.sym_int32(), cute.sym_int32(divisibility=128 // dtype.width))
    return compile_launch(launch, (dtype, shape), (Int32, (cute.sym_int32(), words)))


def smem_address(tile: cute.Tensor) -> cute.Pointer:
    """The tile's beginning, without its swizzle: bytes as they lie."""
    return cute.recast_ptr(tile.iterator, swizzle_=None)


def compile_tma_store(type_name: str, swizzle: int) -> Any:
    """x [rows, columns] -> y, the same: ordinary loads, and a TMA store that clips at the edges."""
    dtype = TYPES[type_name]
    columns = tile_columns(dtype.width // 8, swizzle)

    @cute.kernel
    def kernel(tma: cute.CopyAtom, target: cute.Tensor, layout: cute.ComposedLayout, x: cute.Tensor) -> None:
        m, n, _ = cute.arch.block_idx()
        thread, _, _ = cute.arch.thread_idx()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        tile = SmemAllocator().allocate_tensor(dtype, layout.outer, 1024, layout.inner)
        for element in cutlass.range(thread, TILE_ROWS * columns, THREADS, unroll=1):
            row, column = element // columns, element % columns
            value = dtype(0)
            if m * TILE_ROWS + row < x.shape[0] and n * columns + column < x.shape[1]:
                value = x[m * TILE_ROWS + row, n * columns + column]
            tile[row, column] = value
        cute.arch.fence_proxy("async.shared", space="cta")
        cute.arch.sync_threads()
        if warp == 0:
            tiles = cute.local_tile(target, (TILE_ROWS, columns), (m, n))
            part, to_global = cpasync.tma_partition(
                tma, 0, cute.make_layout(1), cute.group_modes(tile, 0, 2), cute.group_modes(tiles, 0, 2)
            )
            with cute.arch.elect_one():
                cute.copy(tma, part, to_global)
                cute.arch.cp_async_bulk_commit_group()
                cute.arch.cp_async_bulk_wait_group(0)

    @cute.jit
    def launch(x: cute.Tensor, y: cute.Tensor, stream: Any) -> None:
        layout = tile_layout(dtype, swizzle)
        tma, target = cpasync.make_tiled_tma_atom(
            cpasync.CopyBulkTensorTileS2GOp(), y, layout, (TILE_ROWS, columns)
        )
        grid = (cute.ceil_div(x.shape[0], TILE_ROWS), cute.ceil_div(x.shape[1], columns), 1)
        kernel(tma, target, layout, x).launch(grid=grid, block=(THREADS, 1, 1), stream=stream)

    shape = (cute.sym_int32(), cute.sym_int32(divisibility=128 // dtype.width))
    return compile_launch(launch, (dtype, shape), (dtype, shape))


def compile_distributed_shared_memory(cluster: int) -> Any:
    """Int32 [cluster, 32] -> [cluster, 2, 32]: what each read from the next, and what the last wrote."""

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        lane, _, _ = cute.arch.thread_idx()
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        after = (rank + 1) % cluster
        smem = SmemAllocator()
        row = cute.make_layout(WARP)
        own = smem.allocate_tensor(Int32, row, 16)
        received = smem.allocate_tensor(Int32, row, 16)
        own[lane] = x[rank, lane]
        cute.arch.cluster_arrive()
        cute.arch.cluster_wait()
        # The DSL's own loads and stores stop at shared::cta, hence the PTX.
        of_next = cute.arch.map_dsmem_ptr(own.iterator, after)
        to_next = cute.arch.map_dsmem_ptr(received.iterator, after)
        y[rank, 0, lane] = cute.arch.inline_ptx(
            "ld.shared::cluster.b32 {$w0}, [{$r0}];",
            write_only_types=[Int32],
            read_only_args=[of_next + (WARP - 1 - lane)],
        )
        cute.arch.inline_ptx(
            "st.shared::cluster.b32 [{$r0}], {$r1};", read_only_args=[to_next + lane, x[rank, lane] * 10]
        )
        cute.arch.cluster_arrive()
        cute.arch.cluster_wait()
        y[rank, 1, lane] = received[lane]

    return compile_block(
        kernel,
        (Int32, (cluster, WARP)),
        (Int32, (cluster, 2, WARP)),
        grid=(cluster, 1, 1),
        block=(WARP, 1, 1),
        cluster=(cluster, 1, 1),
    )


def compile_matrix_moves(transposed: bool) -> Any:
    """Int32 [4, 8, 4] -> [2, 128]: four 8x8 matrices of 16 bits through ldmatrix, then stmatrix, row by row.

    y[0] is what each lane holds after ldmatrix, its four registers one after the other; y[1] is shared memory
    after stmatrix of those.
    """
    trans = ".trans" if transposed else ""
    shape = f"sync.aligned.m8n8.x4{trans}.shared.b16"
    load = f"ldmatrix.{shape} {{ {{$w0}}, {{$w1}}, {{$w2}}, {{$w3}} }}, [{{$r0}}];"
    store = f"stmatrix.{shape} [{{$r0}}], {{ {{$r1}}, {{$r2}}, {{$r3}}, {{$r4}} }};"

    @cute.kernel
    def kernel(x: cute.Tensor, y: cute.Tensor) -> None:
        lane, _, _ = cute.arch.thread_idx()
        smem = SmemAllocator()
        rows = cute.make_layout((WARP, 4), stride=(4, 1))
        source = smem.allocate_tensor(Int32, rows, 16)
        target = smem.allocate_tensor(Int32, rows, 16)
        for word in cutlass.range_constexpr(4):
            source[lane, word] = x[lane // 8, lane % 8, word]
        cute.arch.sync_warp()
        held = cute.arch.inline_ptx(
            load, write_only_types=[Int32] * 4, read_only_args=[(source.iterator + lane * 4).toint()]
        )
        for register in cutlass.range_constexpr(4):
            y[0, 4 * lane + register] = held[register]
        cute.arch.inline_ptx(store, read_only_args=[(target.iterator + lane * 4).toint(), *held])
        cute.arch.sync_warp()
        for word in cutlass.range_constexpr(4):
            y[1, 4 * lane + word] = target[lane, word]

    return compile_block(
        kernel, (Int32, (4, 8, 4)), (Int32, (2, 4 * WARP)), grid=(1, 1, 1), block=(WARP, 1, 1)
    )

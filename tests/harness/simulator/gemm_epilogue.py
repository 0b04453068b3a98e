"""The epilogue of the Blackwell test GEMMs: from tensor memory to C."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, pipeline
from cutlass.cute.nvgpu import cpasync, tcgen05

from tests.harness.simulator.gemm_moves import Operand, fence_after_thread_sync, fence_before_thread_sync
from tests.harness.simulator.gemm_params import STORE_STAGES, SUBTILE_COLUMNS, SUBTILE_ROWS

EPILOGUE_THREADS = 128
EPILOGUE_BARRIER = 1


@cute.jit
def store_accumulator(
    accumulator: cute.Tensor,
    stages: cute.Tensor,
    store: Operand,
    m_block: Int32,
    n_tile: Int32,
    thread: Int32,
    warp: Int32,
    mma_n: cutlass.Constexpr,
) -> None:
    """The epilogue warps: tensor memory -> registers -> shared memory -> TMA store, 32 columns at a time.

    Each thread holds a whole row of a subtile, the row of its lane in tensor memory.
    """
    subtile = (SUBTILE_ROWS, SUBTILE_COLUMNS)
    columns = cute.flat_divide(accumulator[((None, None), 0, 0)], subtile)
    atom = cute.make_copy_atom(tcgen05.Ld32x32bOp(tcgen05.Repetition(SUBTILE_COLUMNS)), Float32)
    tmem_load = tcgen05.make_tmem_copy(atom, columns[(None, None, 0, 0)])
    this = tmem_load.get_slice(thread)
    source, target = this.partition_S(columns), this.partition_D(stages)
    values = cute.make_rmem_tensor(target[(None, None, None, 0)].shape, Float32)

    tile = cute.local_tile(store.coordinates, (SUBTILE_ROWS, mma_n), (m_block, n_tile))
    from_stage, to_global = cpasync.tma_partition(
        store.tma,
        0,
        cute.make_layout(1),
        cute.group_modes(stages, 0, 2),
        cute.group_modes(cute.flat_divide(tile, subtile), 0, 2),
    )
    warps = pipeline.NamedBarrier(barrier_id=EPILOGUE_BARRIER, num_threads=EPILOGUE_THREADS)
    stored = pipeline.PipelineTmaStore.create(
        num_stages=STORE_STAGES,
        producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, EPILOGUE_THREADS),
    )
    for step in cutlass.range(mma_n // SUBTILE_COLUMNS, unroll=1):
        stage = step % STORE_STAGES
        cute.copy(tmem_load, source[(None, None, None, 0, step)], values)
        cute.arch.fence_view_async_tmem_load()
        if warp == 0:
            stored.producer_acquire()
        warps.arrive_and_wait()
        cute.autovec_copy(values, target[(None, None, None, stage)])
        cute.arch.fence_proxy("async.shared", space="cta")
        warps.arrive_and_wait()
        if warp == 0:
            with cute.arch.elect_one():
                cute.copy(store.tma, from_stage[(None, stage)], to_global[(None, 0, step)])
                stored.producer_commit()
    fence_before_thread_sync()
    warps.arrive_and_wait()
    fence_after_thread_sync()
    if warp == 0:
        stored.producer_tail()

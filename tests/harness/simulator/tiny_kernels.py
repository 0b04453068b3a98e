"""The tiny kernels, each of one feature: how to compile it, its operands, and what it must compute.

Nothing here imports the compiler before `TinyKernel.compile` is called, and a process compiles for one target
only (`harness.compile.prepare_process`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.harness.simulator import tiny_references as references
from tests.harness.simulator.tiny_ops import FLOAT_OPS, INTEGER_OPS
from tests.harness.simulator.tiny_params import SWIZZLES, TILE_ROWS, ceil_div, round_up, tile_columns

HOPPER, BLACKWELL = "sm_90a", "sm_100a"
BOTH = (HOPPER, BLACKWELL)
ROWS = 256


@dataclass(frozen=True)
class TinyKernel:
    """One kernel, `launch(x, y)`.

    `make` gives x and y's initial contents for a seed, `reference` what y holds afterwards, from those two.
    Elements agree within `atol + rtol * |expected|` (arrays broadcast against y); NaN agrees with NaN.
    """

    name: str
    build: tuple[str, str, tuple[Any, ...]]
    make: Callable[[int], tuple[Tensor, Tensor]]
    reference: Callable[[Tensor, Tensor], Tensor]
    targets: tuple[str, ...] = BOTH
    rtol: Any = 0.0
    atol: Any = 0.0

    def compile(self) -> Any:
        """The compiled function, for the target this process compiles for."""
        module, function, arguments = self.build
        return getattr(import_module(f"tests.harness.simulator.{module}"), function)(*arguments)

    def mismatch(self, got: Tensor, expected: Tensor) -> str:
        """Where `got` differs from `expected` first; "" when it does not."""
        # int64 holds every integer here and float64 every float.
        wide = torch.float64 if expected.is_floating_point() else torch.int64
        x, y = got.to(wide).numpy(), expected.to(wide).numpy()
        if x.shape != y.shape:
            return f"{self.name}: shape {x.shape}, expected {y.shape}"
        with np.errstate(invalid="ignore"):
            near = np.abs(x - y) <= self.atol + self.rtol * np.abs(y)
        agree = near | (x == y) | ((x != x) & (y != y))
        if agree.all():
            return ""
        where = tuple(int(i) for i in np.argwhere(~agree)[0])
        return f"{self.name}: {int((~agree).sum())} differ, first at {where}: {x[where]}, expected {y[where]}"


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An output that no kernel leaves as it was: NaN, or a conspicuous integer."""
    if dtype.is_floating_point:
        return torch.full(shape, float("nan"), dtype=dtype)
    return torch.full(shape, 0x5A if dtype == torch.uint8 else 0x5A5A5A5A, dtype=dtype)


def integers(seed: int, *shape: int, low: int = -(2**31), high: int = 2**31) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=random).to(torch.int32)


def floats(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _arithmetic() -> list[TinyKernel]:
    ops = [
        TinyKernel(
            "integer_ops",
            ("tiny_alu", "compile_integer_ops", (ROWS,)),
            lambda seed: (
                references.integer_operands(seed, ROWS),
                poisoned(ROWS, len(INTEGER_OPS), dtype=torch.int32),
            ),
            references.integer_ops,
        ),
        TinyKernel(
            "float_ops",
            ("tiny_alu", "compile_float_ops", (ROWS,)),
            lambda seed: (references.float_operands(seed, ROWS), poisoned(ROWS, len(FLOAT_OPS))),
            references.float_ops,
            rtol=np.array([op.rtol for op in FLOAT_OPS.values()]),
            atol=np.array([op.atol for op in FLOAT_OPS.values()]),
        ),
        TinyKernel(
            "packed_float",
            ("tiny_alu", "compile_packed_float", (32,)),
            lambda seed: (floats(seed, 32, 6), poisoned(32, 6)),
            references.packed_float,
            targets=(BLACKWELL,),
        ),
    ]
    math = [
        TinyKernel(
            f"math_{'fast' if fast else 'exact'}",
            ("tiny_alu", "compile_math", (references.MATH, fast, ROWS)),
            lambda seed: (references.math_operands(seed, ROWS), poisoned(ROWS, len(references.MATH))),
            references.math,
            rtol=2.0 ** (-17 if fast else -21),
            atol=2.0 ** (-17 if fast else -24),
        )
        for fast in (False, True)
    ]
    return ops + math


def _conversions() -> list[TinyKernel]:
    kernels = []
    for name, bits in references.NARROW_BITS.items():
        targets = (BLACKWELL,) if name == "e2m1" else BOTH
        kernels += [
            TinyKernel(
                f"narrow_{name}",
                ("tiny_alu", "compile_narrow", (name, 64)),
                lambda seed, name=name, bits=bits: (
                    references.narrow_operands(name, seed),
                    poisoned(64, bits, dtype=torch.uint8),
                ),
                partial(references.narrow, name),
                targets=targets,
            ),
            TinyKernel(
                f"widen_{name}",
                ("tiny_alu", "compile_widen", (name, 64)),
                lambda seed, bits=bits: (references.all_bytes(seed, bits), poisoned(64, 8)),
                partial(references.widen, name),
                targets=targets,
            ),
        ]
    return kernels


def _threads() -> list[TinyKernel]:
    return [
        TinyKernel(
            "shuffles",
            ("tiny_warp", "compile_shuffles", ()),
            lambda seed: (integers(seed, 32, low=-1000, high=1000), poisoned(32, 9, dtype=torch.int32)),
            references.shuffles,
        ),
        TinyKernel(
            "divergence",
            ("tiny_warp", "compile_divergence", ()),
            lambda seed: (integers(seed, 32, low=1, high=1000), poisoned(32, 2, dtype=torch.int32)),
            references.collatz,
        ),
        TinyKernel(
            "named_barriers",
            ("tiny_warp", "compile_named_barriers", (5,)),
            lambda seed: (integers(seed, 5, 32, low=-1000, high=1000), poisoned(32, dtype=torch.int32)),
            references.weighted_rows,
        ),
        TinyKernel(
            "reversed_top_k",
            ("tiny_topk", "compile_reversed_top_k", (ROWS, 32, 4, 6)),
            lambda seed: (references.keys(seed, ROWS, 32), poisoned(ROWS, 2, 6)),
            partial(references.top_k, 6),
        ),
        TinyKernel(
            "register_split",
            ("tiny_warp", "compile_register_split", ()),
            lambda seed: (floats(seed, 256), poisoned(256)),
            lambda x, y: torch.cat([x[:128] + 1.0, x[128:] * 2.0]),
        ),
        TinyKernel(
            "atomics",
            ("tiny_warp", "compile_atomics", (2, 64)),
            lambda seed: (integers(seed, 128, low=0, high=2**15), references.atomics_start()),
            references.atomics,
        ),
        TinyKernel(
            "dependent_launch",
            ("tiny_warp", "compile_dependent_launch", (64,)),
            lambda seed: (floats(seed, 64), poisoned(64)),
            lambda x, y: (x + 1.0) * 3.0,
        ),
    ]


def _memory() -> list[TinyKernel]:
    kernels = [
        tma_load(type_name, swizzle, rows=37, extra=1)
        for type_name in references.TMA_TYPES
        for swizzle in SWIZZLES
    ]
    kernels += [tma_load("f16", 128, rows=37, extra=1, cluster=2), tma_load("f32", 64, rows=64, cluster=4)]
    kernels += [tma_store(*case) for case in (("f32", 128), ("f16", 64), ("bf16", 32), ("u8", 0))]
    kernels += [
        TinyKernel(
            f"distributed_shared_memory_{cluster}",
            ("tiny_memory", "compile_distributed_shared_memory", (cluster,)),
            lambda seed, cluster=cluster: (
                integers(seed, cluster, 32, low=-1000, high=1000),
                poisoned(cluster, 2, 32, dtype=torch.int32),
            ),
            references.distributed_shared_memory,
        )
        for cluster in (2, 4)
    ]
    kernels += [
        TinyKernel(
            f"matrix_moves{'_transposed' if transposed else ''}",
            ("tiny_memory", "compile_matrix_moves", (transposed,)),
            lambda seed: (integers(seed, 4, 8, 4), poisoned(2, 128, dtype=torch.int32)),
            partial(references.matrix_moves, transposed),
        )
        for transposed in (False, True)
    ]
    return kernels


def tma_load(type_name: str, swizzle: int, rows: int, extra: int = 0, cluster: int = 1) -> TinyKernel:
    """Three tiles of columns, the last of them cut; `extra` 16-byte pieces of it are there."""
    dtype = references.TMA_TYPES[type_name]
    size = dtype.itemsize
    width = tile_columns(size, swizzle)
    columns = 2 * width + extra * 16 // size
    tiles = round_up(ceil_div(rows, TILE_ROWS), cluster) * ceil_div(columns, width)
    words = TILE_ROWS * width * size // 4
    multicast = f"_multicast_{cluster}" if cluster > 1 else ""
    return TinyKernel(
        f"tma_load_{type_name}_{swizzle}{multicast}",
        ("tiny_memory", "compile_tma_load", (type_name, swizzle, cluster)),
        lambda seed: (
            references.matrix(dtype, seed, rows, columns),
            poisoned(tiles, words, dtype=torch.int32),
        ),
        partial(references.tma_tiles, swizzle, cluster),
    )


def tma_store(type_name: str, swizzle: int) -> TinyKernel:
    dtype = references.TMA_TYPES[type_name]
    rows, columns = 37, 2 * tile_columns(dtype.itemsize, swizzle) + 16 // dtype.itemsize
    return TinyKernel(
        f"tma_store_{type_name}_{swizzle}",
        ("tiny_memory", "compile_tma_store", (type_name, swizzle)),
        lambda seed: (
            references.matrix(dtype, seed, rows, columns),
            poisoned(rows, columns, dtype=dtype),
        ),
        lambda x, y: x,
    )


TINY_KERNELS: dict[str, TinyKernel] = {
    kernel.name: kernel for kernel in _arithmetic() + _conversions() + _threads() + _memory()
}

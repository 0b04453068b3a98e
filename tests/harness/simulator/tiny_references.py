"""Operands of the tiny kernels and what each must compute, on the CPU and with nothing of a GPU in it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kernels.nvfp4 import decode_e2m1, encode_e2m1, pack_e2m1, unpack_e2m1
from tests.harness.simulator import tiny_ops
from tests.harness.simulator.tiny_params import TILE_ROWS, ceil_div, round_up, tile_columns

TMA_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "u8": torch.uint8}
NARROW_TYPES = {
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
NARROW_BITS = {"bf16": 16, "f16": 16, "e4m3": 8, "e5m2": 8, "e2m1": 4}
MATH = ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "sin", "cos", "tanh", "erf")


def keys(seed: int, rows: int, columns: int) -> Tensor:
    """fp32 of few values, so that most are tied: zeros of both signs, neighbours, the ends, no numbers."""
    one, tiny, most = np.float32(1), np.float32(1e-45), np.finfo(np.float32).max
    few = [0.0, -0.0, tiny, -tiny, one, np.nextafter(one, np.float32(2)), -one, most, -most, np.inf, -np.inf]
    values = torch.tensor([*map(float, few), float("nan")])
    random = torch.Generator().manual_seed(seed)
    weights = torch.rand((rows, len(values)), generator=random) ** 4 + 1e-3
    return values[torch.multinomial(weights, columns, replacement=True, generator=random)]


def top_k(k: int, x: Tensor, y: Tensor) -> Tensor:
    """[rows, 2, k]: columns by descending key, ties by ascending column, and their keys."""
    lowest = torch.finfo(torch.float32).min
    clamped = torch.nan_to_num(x, nan=lowest, posinf=float("inf"), neginf=lowest)
    columns = torch.argsort(clamped, dim=1, descending=True, stable=True)[:, :k]
    return torch.stack([columns.float(), clamped.gather(1, columns)], dim=1)


def integer_operands(seed: int, rows: int) -> Tensor:
    return torch.from_numpy(tiny_ops.integer_operands(seed, rows).view(np.int32))


def integer_ops(x: Tensor, y: Tensor) -> Tensor:
    return torch.from_numpy(tiny_ops.apply(tiny_ops.INTEGER_OPS, x.numpy().view(np.uint32)).view(np.int32))


def float_operands(seed: int, rows: int) -> Tensor:
    return torch.from_numpy(tiny_ops.float_operands(seed, rows))


def float_ops(x: Tensor, y: Tensor) -> Tensor:
    return torch.from_numpy(tiny_ops.apply(tiny_ops.FLOAT_OPS, x.numpy()))


def packed_float(x: Tensor, y: Tensor) -> Tensor:
    """Pairs fma(a, b, c), a * b, a + b; float64 holds the exact product of two fp32."""
    a, b, c = (x[:, i : i + 2].double() for i in (0, 2, 4))
    fused = torch.from_numpy(tiny_ops.exact_fma(a.float().numpy(), b.float().numpy(), c.float().numpy()))
    return torch.cat([fused, (a * b).float(), (a + b).float()], dim=1)


def math_operands(seed: int, rows: int) -> Tensor:
    """fp32 [rows] in (0, 8): where every function is defined and none overflows."""
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed)) * 8 + 2.0**-10


def math(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([getattr(torch, name)(x.double()) for name in MATH], dim=1)


def narrow_operands(name: str, seed: int) -> Tensor:
    """fp32 [64, 8]: halfway between neighbours, small and huge, none that overflows f16 or bf16."""
    random = torch.Generator().manual_seed(seed)
    values = torch.randn((64, 8), generator=random) * torch.exp2(
        torch.randint(-12, 13, (64, 8), generator=random)
    )
    if name in ("e4m3", "e5m2", "e2m1"):
        # The DSL saturates these at their largest value (cvt.rn.satfinite).
        values[0] = torch.tensor([1e30, -1e30, 500.0, 6.5, 5.0, 2.5, -0.75, -0.0])
    values[1] = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 1.0 + 2.0**-8])
    tiny = [2.0**-10, 2.0**-24, 3e-8, 0.0, -0.0]
    values[2] = torch.tensor([1.0 + 2.0**-4, 1.0 + 3 * 2.0**-4, 1.0 + 2.0**-11, *tiny])
    return values


def narrow(name: str, x: Tensor, y: Tensor) -> Tensor:
    """The nearest codes, ties to even, saturated for the formats of 8 bits or fewer."""
    if name == "e2m1":
        return pack_e2m1(encode_e2m1(x))
    dtype = NARROW_TYPES[name]
    if NARROW_BITS[name] == 8:
        largest = torch.finfo(dtype).max
        x = x.clamp(-largest, largest)
    return x.to(dtype).view(torch.uint8)


def all_bytes(seed: int, bits: int) -> Tensor:
    """Random bytes, uint8 [64, bits]: 8 numbers of `bits` bits in a row, NaN and infinity among them."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (64, bits), generator=random, dtype=torch.uint8)


def widen(name: str, x: Tensor, y: Tensor) -> Tensor:
    return decode_e2m1(unpack_e2m1(x)) if name == "e2m1" else x.view(NARROW_TYPES[name]).float()


def shuffles(x: Tensor, y: Tensor) -> Tensor:
    lane = torch.arange(32)
    odd = x % 2 != 0
    ballot = int(sum(1 << i for i in range(32) if odd[i]))
    ballot -= (ballot >> 31) << 32
    columns = [
        x[(lane * 7 + 3) % 32],
        torch.where(lane >= 3, x.roll(3), x),
        torch.where(lane < 27, x.roll(-5), x),
        x[lane ^ 16],
        *(torch.full((32,), v) for v in (ballot, int(odd.any()), int(odd.all()), int(x.sum()), int(x.max()))),
    ]
    return torch.stack([column.to(torch.int32) for column in columns], dim=1)


def collatz(x: Tensor, y: Tensor) -> Tensor:
    rows = []
    for start in x.tolist():
        sequence = [start]
        while sequence[-1] > 1:
            value = sequence[-1]
            sequence.append(value // 2 if value % 2 == 0 else 3 * value + 1)
        rows.append([len(sequence) - 1, max(sequence)])
    return torch.tensor(rows, dtype=torch.int32)


def weighted_rows(x: Tensor, y: Tensor) -> Tensor:
    weights = torch.arange(1, x.shape[0] + 1, dtype=torch.int32)
    return (x * weights[:, None]).sum(dim=0, dtype=torch.int32).roll(-1)


def atomics_start() -> Tensor:
    """Zeros, but for the neutral elements of max, min and and, and the product's 1."""
    start = torch.zeros(16, dtype=torch.int32)
    start[9], start[10], start[11], start[14] = -(2**31), 2**31 - 1, -1, 1
    return start


def atomics(x: Tensor, y: Tensor) -> Tensor:
    values = [int(v) for v in x]
    together = {"and": -1, "or": 0, "xor": 0, "product": 1}
    for v in values:
        together["and"] &= v
        together["or"] |= v
        together["xor"] ^= v
        together["product"] = together["product"] * (2 * v + 1) % 2**32
    halves = torch.tensor([sum(values) * 0.5], dtype=torch.float32).view(torch.int32)
    product = together["product"] - (together["product"] >> 31 << 32)
    tail = [sum(values), max(values), min(values), together["and"], together["or"], together["xor"], product]
    counts = torch.bincount(x % 8, minlength=8).to(torch.int32)
    return torch.cat([counts, torch.tensor(tail, dtype=torch.int32), halves])


def matrix(dtype: torch.dtype, seed: int, rows: int, columns: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, columns), generator=random).to(dtype)


def tma_tiles(swizzle: int, cluster: int, x: Tensor, y: Tensor) -> Tensor:
    """Each tile's bytes, zeros past the edges, 16-byte chunks exchanged (CUtensorMapSwizzle).

    In a span of 32, 64 or 128 bytes a chunk's index is XORed with as many bits of the address from bit 7 on.
    """
    size = x.element_size()
    width = tile_columns(size, swizzle)
    row_tiles = round_up(ceil_div(x.shape[0], TILE_ROWS), cluster)
    column_tiles = ceil_div(x.shape[1], width)
    padded = torch.zeros(row_tiles * TILE_ROWS, column_tiles * width, dtype=x.dtype)
    padded[: x.shape[0], : x.shape[1]] = x
    address = torch.arange(TILE_ROWS * width * size)
    mask = max(swizzle // 16 - 1, 0)
    physical = address ^ (((address >> 7) & mask) << 4)
    tiles = []
    for n in range(column_tiles):
        for m in range(row_tiles):
            first = m // cluster * cluster * TILE_ROWS
            tile = padded[first : first + TILE_ROWS, n * width : (n + 1) * width].contiguous()
            swizzled = torch.empty(len(address), dtype=torch.uint8)
            swizzled[physical] = tile.view(torch.uint8).flatten()
            tiles.append(swizzled.view(torch.int32))
    return torch.stack(tiles)


def distributed_shared_memory(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x.roll(-1, 0).flip(1), x.roll(1, 0) * 10], dim=1)


def matrix_moves(transposed: bool, x: Tensor, y: Tensor) -> Tensor:
    """Lane l's register m holds row l // 4, elements 2 (l % 4) and the next, of matrix m or its transpose."""
    halves = x.contiguous().view(torch.int16).view(4, 8, 8)
    held = halves.transpose(1, 2) if transposed else halves
    by_lane = held.contiguous().view(torch.int32).view(4, 32).T
    return torch.stack([by_lane.flatten(), x.flatten()])

"""The simulator's instructions against a GPU's, bit for bit, each alone in a kernel of its own."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import pytest

from harness.simulator.instruction_set import lookup
from tests.harness.simulator.spellings import SPELLINGS, operand

pytestmark = pytest.mark.gpu

WARPS, LANES, BLOCK = 512, 32, 128
# What sm_100 introduced (PTX ISA, "Target ISA Notes").
NOT_ON_SM90 = {
    "max.NaN.f32",  # with three operands
    "fma.rn.f32x2",
    "fma.rn.f32.bf16",
    "cvt.rn.satfinite.e2m1x2.f16x2",
    "cvt.rn.f16x2.e2m1x2",
}
# The ISA's error bounds in ulp of f32, rounded up because the simulator's result is rounded too.
APPROXIMATE = {
    "div.approx.f32": 3,
    "div.full.f32": 3,
    "rcp.approx.ftz.f32": 2,
    "sqrt.approx.f32": 2,
    "rsqrt.approx.f32": 3,
    "ex2.approx.ftz.f32": 3,
    "tanh.approx.f32": 2**13,
}
# lg2 has an absolute bound around 1, where its result is near 0.
LG2_BOUND = 2.0**-21

MORE = {
    (32, 32): """
        add.rp.f32 add.rm.f32 sub.rz.f32 mul.rm.f32 mul.ftz.f32 add.ftz.f32 div.rn.f32 div.rz.f32
        div.full.f32 min.f32 max.xorsign.abs.f32 set.ltu.f32.f32 setp.equ.ftz.f32 setp.ne.f32 setp.geu.f32
        setp.hi.u32 setp.ge.s32 shr.s32 mul.hi.u32 cvt.rz.f16x2.f32 cvt.rn.relu.f16x2.f32
        cvt.rn.satfinite.e5m2x2.f32
    """,
    (32, 32, 32): """
        fma.rz.f32 fma.rp.f32 fma.rm.f32 fma.rn.ftz.f32 fma.rn.relu.bf16x2 shf.r.wrap.b32 bfe.u32
    """,
    (32,): """
        cvt.rni.s32.f32 cvt.rpi.u32.f32 cvt.rzi.s64.f32 cvt.rzi.u64.f32 cvt.rmi.f32.f32 cvt.rni.ftz.f32.f32
        cvt.rn.f32.u32 cvt.rm.f32.s32 cvt.rn.f16.f32 cvt.rz.f16.f32 cvt.rn.bf16.f32 cvt.rz.bf16.f32
        cvt.rn.tf32.f32 cvt.rzi.s8.f32 cvt.rzi.u16.f32 cvt.s32.s8 cvt.sat.u8.s32 sqrt.rn.f32 sqrt.rm.f32
        rcp.rn.f32 abs.f32 testp.subnormal.f32 rsqrt.approx.f32 sqrt.approx.f32 tanh.approx.f32 neg.f16x2
        bfind.s32 bfind.u32 neg.f32 abs.ftz.f32 abs.f16x2 neg.bf16x2 abs.bf16x2 cvt.rna.satfinite.tf32.f32
        cvt.f32.f32 cvt.f64.f32
    """,
    (64,): """
        cvt.rp.f32.s64 cvt.rz.f32.u64 cvt.rn.f32.f64 cvt.rm.f32.f64 cvt.rzi.s32.f64 cvt.rni.u64.f64
        cvt.u32.u64 neg.f64 abs.f64 testp.normal.f64 cvt.rp.ftz.f32.f64 cvt.rn.f16.f64
    """,
    (64, 32, 32): "bfe.u64 bfe.s64",
    (32, 32, 32, 32): "bfi.b32",
    (16, 16): "add.f16 mul.bf16 min.f16 max.NaN.bf16 setp.lt.f16 setp.neu.bf16 min.s16",
    (16, 16, 16): "fma.rn.f16 fma.rn.ftz.f16 fma.rn.sat.f16",
    (16,): """
        cvt.f32.f16 cvt.f32.bf16 cvt.rn.f16x2.e4m3x2 cvt.rn.f16x2.e5m2x2 cvt.rzi.s32.f16 cvt.s64.s16
        neg.ftz.f16 abs.bf16
    """,
}
CVTA = "cvta.shared.u64"  # has a test of its own
CASES = {name: widths for name, widths in SPELLINGS.items() if name not in {*NOT_ON_SM90, CVTA}}
CASES |= {name: widths for widths, names in MORE.items() for name in names.split()}

# Across all lanes of a warp, with what follows the first operand.
ACROSS = {
    "shfl.sync.bfly.b32": (5, 31),
    "shfl.sync.up.b32": (3, 0),
    "shfl.sync.down.b32": (9, 31),
    "shfl.sync.idx.b32": (6, 0x181F),
    "redux.sync.add.s32": (),
    "redux.sync.min.s32": (),
    "redux.sync.max.u32": (),
    "redux.sync.xor.b32": (),
    "match.any.sync.b32": (),
}
TRUTH_TABLE = 0xE8


@functools.cache
def driver() -> Any:
    """The CUDA driver's library, with a current context."""
    import torch

    torch.zeros(1, device="cuda")
    return ctypes.CDLL("libcuda.so.1")


def check(status: int, log: Any = None) -> None:
    assert status == 0, f"CUDA error {status} {log.value.decode() if log else ''}"


def launch(ptx: str, arrays: list[np.ndarray], result: np.ndarray) -> np.ndarray:
    """What the kernel `run` of `ptx` writes to its last parameter; the others point to `arrays`."""
    import torch

    module, function, log = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.create_string_buffer(4096)
    options = (ctypes.c_int * 2)(5, 6)  # CU_JIT_ERROR_LOG_BUFFER and its size
    values = (ctypes.c_void_p * 2)(ctypes.addressof(log), 4096)
    check(driver().cuModuleLoadDataEx(ctypes.byref(module), ptx.encode(), 2, options, values), log)
    check(driver().cuModuleGetFunction(ctypes.byref(function), module, b"run"))
    tensors = [torch.from_numpy(x.view(np.uint8).copy()).cuda() for x in (*arrays, result)]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    parameters = (ctypes.c_void_p * len(pointers))(*(ctypes.addressof(x) for x in pointers))
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    grid = WARPS * LANES // BLOCK
    check(driver().cuLaunchKernel(function, grid, 1, 1, BLOCK, 1, 1, 0, stream, parameters, None))
    torch.cuda.synchronize()
    check(driver().cuModuleUnload(module))
    written: np.ndarray = tensors[-1].cpu().numpy()
    return written.view(result.dtype).reshape(result.shape)


def load(index: int, width: int) -> str:
    """PTX that loads this thread's element of an array into %a<index>, or %c<index> for a predicate."""
    bits = max(width, 8)
    lines = [
        f".reg .b{max(bits, 16)} %a{index}; .reg .b64 %q{index}; .reg .pred %c{index};",
        f"ld.param.b64 %q{index}, [p{index}]; mad.wide.u32 %q{index}, %i, {bits // 8}, %q{index};",
        f"ld.global.{'u8' if bits == 8 else f'b{bits}'} %a{index}, [%q{index}];",
        f"setp.ne.b16 %c{index}, %a{index}, 0;" if width == 1 else "",
    ]
    return "\n".join(lines)


def kernel(spelling: str, widths: tuple[int, ...], result_bits: int, constants: list[str]) -> str:
    """PTX that applies the instruction to one element of each array; a predicate is stored as a byte."""
    count, predicate = len(widths), result_bits == 1
    parameters = ", ".join(f".param .b64 p{index}" for index in range(count + 1))
    sources = [f"%{'c' if width == 1 else 'a'}{index}" for index, width in enumerate(widths)]
    lines = [
        f".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry run({parameters})\n{{",
        ".reg .b32 %i, %j, %k; mov.u32 %i, %tid.x; mov.u32 %j, %ctaid.x; mov.u32 %k, %ntid.x;",
        "mad.lo.u32 %i, %j, %k, %i;",
        *(load(index, width) for index, width in enumerate(widths)),
        f".reg .b{max(result_bits, 16)} %d; .reg .pred %e; .reg .b64 %r;",
        f"{spelling} {'%e' if predicate else '%d'}, {', '.join([*sources, *constants])};",
        "selp.b16 %d, 1, 0, %e;" if predicate else "",
        f"ld.param.b64 %r, [p{count}]; mad.wide.u32 %r, %i, {max(result_bits, 8) // 8}, %r;",
        f"st.global.{'u8' if predicate else f'b{result_bits}'} [%r], %d;",
        "ret;\n}",
    ]
    return "\n".join(lines)


def operands_of(spelling: str, widths: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(len(spelling))
    arrays = [operand(width, (WARPS, LANES), rng) for width in widths]
    if spelling.startswith(("div.s", "div.u", "rem.")):  # the quotient by zero is unspecified
        arrays[1] = np.where(arrays[1] == 0, 1, arrays[1]).astype(arrays[1].dtype)
    return arrays


def compare(spelling: str, arrays: list[np.ndarray], got: np.ndarray, want: np.ndarray) -> None:
    wrong = got != want
    if spelling in APPROXIMATE or spelling.startswith("lg2"):
        x, y = (bits.view(np.float32).astype(float) for bits in (got, want))
        ulp = np.spacing(np.maximum(np.abs(want.view(np.float32)), np.float32(2.0**-126))).astype(float)
        bound = APPROXIMATE[spelling] * ulp if spelling in APPROXIMATE else LG2_BOUND * (1 + np.abs(y))
        wrong &= ~(np.abs(x - y) <= bound)
    examples = [
        ", ".join(f"{int(x[tuple(index)]):#x}" for x in (*arrays, got, want))
        for index in np.argwhere(wrong)[:5]
    ]
    assert not wrong.any(), f"{spelling}: {int(wrong.sum())} differ (operands, GPU, simulator): {examples}"


@pytest.mark.parametrize("spelling", CASES)
def test_within_a_lane(spelling: str) -> None:
    constants = [TRUTH_TABLE] if 0 in CASES[spelling] else []
    widths = tuple(width for width in CASES[spelling] if width)
    arrays = operands_of(spelling, widths)
    want = lookup(tuple(spelling.split(".")))(*arrays, *map(np.uint32, constants))
    bits = 1 if want.dtype == bool else 8 * want.dtype.itemsize
    result = np.zeros((WARPS, LANES), np.uint8 if bits == 1 else want.dtype)
    got = launch(kernel(spelling, widths, bits, [str(x) for x in constants]), arrays, result)
    compare(spelling, arrays, got, want)


def test_cvta_of_shared_memory_adds_a_window() -> None:
    """The driver chooses the window's upper 32 bits; the simulator's window begins at 0."""
    addresses = np.random.default_rng(5).integers(0, 227 << 10, (WARPS, LANES), dtype=np.uint64)
    got = launch(kernel(CVTA, (64,), 64, []), [addresses], np.zeros_like(addresses))
    simulated = lookup(tuple(CVTA.split(".")))(addresses)
    window = got[0, 0] - simulated[0, 0]
    assert window % (1 << 32) == 0
    np.testing.assert_array_equal(got, simulated + window)


@pytest.mark.parametrize("spelling", ACROSS)
def test_across_lanes(spelling: str) -> None:
    values = operand(32, (WARPS, LANES), np.random.default_rng(8))
    constants = ACROSS[spelling]
    want = lookup(tuple(spelling.split(".")))(values, *map(np.uint32, constants), np.uint32(0xFFFFFFFF), None)
    code = kernel(spelling, (32,), 32, [*(str(x) for x in constants), "-1"])
    compare(
        spelling, [values], launch(code, [values], np.zeros_like(values)), np.broadcast_to(want, values.shape)
    )

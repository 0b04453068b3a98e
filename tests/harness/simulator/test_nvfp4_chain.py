"""An NVFP4 product as the router computes it: swizzled scales through tcgen05.cp, then mma, then ld."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness.simulator.tcgen05_copy import copy_to_tensor_memory
from harness.simulator.tcgen05_instruction import decode_mma
from harness.simulator.tcgen05_mma import Scales, TensorCore
from harness.simulator.tcgen05_transfer import Transfer
from harness.simulator.tensor_memory import TensorMemory
from kernels.nvfp4 import Nvfp4Tensor, quantize_to_nvfp4
from kernels.reference import nvfp4_gemm_reference
from tests.harness.simulator.operand_writer import Layout
from tests.harness.simulator.tcgen05_operands import instruction_descriptor

K, K_TILE, STEPS = 512, 256, 4
A_START, B_START, SFA_START, SFB_START = 0, 32 * 1024, 96 * 1024, 112 * 1024
ATOM = 512  # bytes of scales: 128 rows x 4
D_COLUMN, SFA_COLUMN, SFB_COLUMN = 0, 256, 320


def quantized(rows: int, seed: int) -> Nvfp4Tensor:
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.exp(torch.randn(rows, K, generator=generator) * 2)
    return quantize_to_nvfp4(torch.randn(rows, K, generator=generator) * magnitude)


def scale_atoms(t: Nvfp4Tensor) -> NDArray[np.uint8]:
    """The scales as stored: uint8 [blocks of 128 rows, atoms along K, 512]."""
    rows = t.scale.shape[0] // 128
    return t.scale.view(torch.uint8).numpy().reshape(rows, -1, ATOM)


@pytest.mark.parametrize(
    ("cta_group", "m", "n"), [(1, 128, 128), (1, 128, 192), (1, 128, 256), (2, 256, 256)]
)
def test_product(cta_group: int, m: int, n: int) -> None:
    """Two K tiles of 256; each has one 128-byte swizzle row, four instructions and four atoms of scales."""
    a, b = quantized(m, 1), quantized(n, 2)
    core = TensorCore(np.zeros((2, 160 * 1024), np.uint8), TensorMemory.empty(2))
    mma = decode_mma(
        instruction_descriptor("mxf4nvf4", m, n, "e2m1", "e2m1", scale="ue4m3"),
        "mxf4nvf4",
        cta_group,
        "block16",
    )
    ctas = np.arange(cta_group)
    n_blocks = -(-n // 128)
    a_layout, b_layout = (Layout("128B", False, start, 0, 1024) for start in (A_START, B_START))
    descriptors = [
        np.array([[layout.tcgen05_descriptor(32 * step) for step in range(STEPS)]], np.uint64)
        for layout in (a_layout, b_layout)
    ]
    scales = Scales(
        np.array([[SFA_COLUMN + 4 * step for step in range(STEPS)]]),
        np.array([[SFB_COLUMN + 4 * n_blocks * step for step in range(STEPS)]]),
    )
    for tile in range(K // K_TILE):
        bytes_of_tile = slice(tile * K_TILE // 2, (tile + 1) * K_TILE // 2)
        for cta in ctas:
            m_rows, n_rows = (slice(cta * r // cta_group, (cta + 1) * r // cta_group) for r in (m, n))
            a_layout.write(core.shared[cta], a.packed.numpy()[m_rows, bytes_of_tile])
            b_layout.write(core.shared[cta], b.packed.numpy()[n_rows, bytes_of_tile])
            atoms_of_tile = slice(STEPS * tile, STEPS * (tile + 1))
            own = scale_atoms(a)[cta, atoms_of_tile]
            core.shared[cta, SFA_START : SFA_START + own.size] = own.reshape(-1)
            every = scale_atoms(b)[:, atoms_of_tile]
            core.shared[cta, SFB_START : SFB_START + every.size] = every.reshape(-1)
        for step in range(STEPS):
            copies = [(SFA_START + ATOM * step, int(scales.a[0, step]))]
            copies += [
                (SFB_START + ATOM * (STEPS * block + step), int(scales.b[0, step]) + 4 * block)
                for block in range(n_blocks)
            ]
            for start, column in copies:
                descriptor = Layout("none", False, start, 0, 128).tcgen05_descriptor()
                copy_to_tensor_memory(
                    "32x128b.warpx4",
                    core.shared,
                    core.memory,
                    ctas,
                    np.full((cta_group, 1), column),
                    np.full((cta_group, 1), descriptor, np.uint64),
                )
        core.multiply(
            mma,
            ctas[None],
            np.array([D_COLUMN]),
            *descriptors,
            accumulate=np.array([tile > 0]),
            scales=scales,
        )
    quadrant = np.arange(4)
    rows = [
        Transfer("32x32b", 32).load(core.memory, np.full(4, cta), quadrant, quadrant * 32 << 16 | column)
        for cta in ctas
        for column in range(0, n, 32)
    ]
    tiles = (
        np.stack(rows).view(np.float32).reshape(cta_group, n // 32, 4, 32, 32)
    )  # [CTA, column, warp, r, t]
    got = tiles.transpose(0, 2, 4, 1, 3).reshape(m, n)
    alpha = 1 / (a.global_scale.double() * b.global_scale.double())
    expected = nvfp4_gemm_reference(a, b).double().numpy()
    bound = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(got * float(alpha), expected, rtol=1e-5, atol=bound)

"""Compiled Blackwell GEMMs, run by the simulator from their PTX, give the product.

Operands make every sum exact in fp32 (`gemm_reference.make_operands`), so the comparison is of equality.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.simulator.run import Program
from tests.harness.simulator.gemm_params import GEMMS, SUBTILE_ROWS, GemmParams
from tests.harness.simulator.gemm_reference import make_operands, reference

pytestmark = pytest.mark.compiles

# Output columns are stored by TMA, 16 bytes at least.
COLUMNS = 4


def sizes_with_tails(params: GemmParams) -> tuple[int, int, int]:
    """More than one tile each way, the last ones cut off, and more stages of K than the ring holds."""
    return 2 * SUBTILE_ROWS + 44, params.mma_n + 36, (params.stages + 1) * params.stage_k + params.k_alignment


def sizes_below_a_tile(params: GemmParams) -> tuple[int, int, int]:
    return 1, COLUMNS, params.k_alignment


@pytest.mark.parametrize("sizes", [sizes_with_tails, sizes_below_a_tile])
@pytest.mark.parametrize("name", GEMMS)
def test_product(
    blackwell_gemms: Path, name: str, sizes: Callable[[GemmParams], tuple[int, int, int]]
) -> None:
    params = GEMMS[name]
    m, n, k = sizes(params)
    operands = make_operands(params, m, n, k, seed=m + n)
    out = torch.full((m, n), float("nan"))
    Program.of_folder(blackwell_gemms / name)(*operands, out)
    assert torch.equal(out.double(), reference(params, *operands))

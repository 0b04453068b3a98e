"""The simulator's test kernels compile, and hold the instructions that they are there for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.compile import PTX
from tests.harness.simulator.corpus import names_of
from tests.harness.simulator.gemm_params import GEMMS, STAGE_K_BYTES, SUBTILE_COLUMNS
from tests.harness.simulator.tiny_kernels import BLACKWELL, HOPPER, TINY_KERNELS, TinyKernel
from tests.harness.simulator.tiny_ops import FLOAT_OPS, INTEGER_OPS

MMA_KIND = {
    "f16": "f16",
    "bf16": "f16",
    "tf32": "tf32",
    "f8": "f8f6f4",
    "nvf4": "mxf4nvf4.block_scale.block16",
    "mxf4": "mxf4nvf4.block_scale.block32",
    "mxf8": "mxf8f6f4.block_scale.block32",
}
# What each tiny kernel is there for, on both targets.
FEATURES = {
    "shuffles": (
        "shfl.sync.idx",
        "shfl.sync.up",
        "shfl.sync.down",
        "shfl.sync.bfly",
        "vote.sync",
        "redux.sync",
    ),
    "named_barriers": ("bar.sync", "bar.arrive"),
    "register_split": ("setmaxnreg.inc.sync.aligned.u32", "setmaxnreg.dec.sync.aligned.u32"),
    "atomics": ("atom", "cas"),
    "dependent_launch": ("griddepcontrol.launch_dependents", "griddepcontrol.wait"),
    "matrix_moves": ("ldmatrix.sync.aligned", "stmatrix.sync.aligned"),
    "distributed_shared_memory_2": ("mapa", "ld.shared::cluster", "st.shared::cluster", "barrier.cluster"),
    "tma_load_f32_64_multicast_4": ("cp.async.bulk.tensor.2d", ".multicast::cluster"),
    "tma_store_f16_64": ("cp.async.bulk.tensor.2d.global.shared::cta", "cp.async.bulk.wait_group"),
}


@pytest.mark.compiles
@pytest.mark.parametrize("target", [HOPPER, BLACKWELL])
def test_everything_compiles_for_its_target(compiled: dict[str, Path], target: str) -> None:
    for name in names_of(target):
        assert f".target {target}" in (compiled[target] / name / PTX).read_text()


@pytest.mark.compiles
@pytest.mark.parametrize("target", [HOPPER, BLACKWELL])
def test_features_are_in_the_code(compiled: dict[str, Path], target: str) -> None:
    for name, features in FEATURES.items():
        ptx = (compiled[target] / name / PTX).read_text()
        assert [feature for feature in features if feature not in ptx] == []
    for name, ops in (("integer_ops", INTEGER_OPS), ("float_ops", FLOAT_OPS)):
        ptx = (compiled[target] / name / PTX).read_text()
        for op in ops.values():
            assert all(part.split()[0] in ptx for part in op.ptx.strip("{}").split(";") if part.strip())


@pytest.mark.compiles
@pytest.mark.parametrize("name", GEMMS)
def test_gemms_are_what_their_params_say(compiled: dict[str, Path], name: str) -> None:
    params = GEMMS[name]
    ptx = (compiled[BLACKWELL] / name / PTX).read_text()
    group = f"cta_group::{2 if params.two_cta else 1}"
    mma = rf"tcgen05\.mma\.{group}\.kind::{re.escape(MMA_KIND[params.format])}\."
    assert len(re.findall(mma, ptx)) == len(re.findall(r"tcgen05\.mma\.", ptx)) == STAGE_K_BYTES // 32
    assert (".multicast::cluster" in ptx) == (params.cluster != (1, 1))
    assert f"tcgen05.ld.sync.aligned.32x32b.x{SUBTILE_COLUMNS}.b32" in ptx
    transaction = params.stage_bytes * (2 if params.two_cta else 1)
    assert re.search(rf"mov\.b32\s+%r\d+, {transaction};\s+mbarrier\.arrive\.expect_tx", ptx)
    columns = re.search(r"mov\.b32\s+%r\d+, (\d+);\s+tcgen05\.alloc", ptx)
    assert columns is not None
    assert int(columns[1]) == params.tmem_columns


@pytest.mark.parametrize("kernel", TINY_KERNELS.values(), ids=TINY_KERNELS)
def test_an_untouched_output_is_a_mismatch(kernel: TinyKernel) -> None:
    x, y = kernel.make(1)
    expected = kernel.reference(x, y)
    assert kernel.mismatch(expected, expected) == ""
    assert kernel.name in kernel.mismatch(y, expected)
    changed = expected.clone()
    last = changed.view(-1)[-1:]
    last.copy_(7 if last.is_floating_point() else last ^ 1)
    assert "1 differ" in kernel.mismatch(changed, expected)

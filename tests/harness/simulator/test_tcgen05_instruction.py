"""Instruction descriptors of tcgen05.mma: the tables of the ISA, a compiled kernel's, and refusals."""

from __future__ import annotations

import pytest

from harness.simulator.errors import SimulationError
from harness.simulator.tcgen05_instruction import decode_mma
from tests.harness.simulator.tcgen05_operands import instruction_descriptor


def test_descriptor_of_a_compiled_kernel() -> None:
    """The constant that the CuTe DSL 4.8.1 emits for 128 x 128 x 64 NVFP4, with B negated."""
    mma = decode_mma(136316032 | 16384, "mxf4nvf4", 1, "block16")
    assert (mma.m, mma.n, mma.k, mma.a_format.name) == (128, 128, 64, "e2m1")
    assert (mma.negate_a, mma.negate_b, mma.transpose_a, mma.transpose_b) == (False, True, False, False)
    assert mma.scale is not None
    assert (mma.scale.number_format.name, mma.scale.along_k) == ("ue4m3", 4)


@pytest.mark.parametrize(
    ("kind", "descriptor", "cta_group", "vector", "message"),
    [
        ("i8", 0, 1, "", r"\.kind::i8 is not simulated"),
        ("f16", instruction_descriptor("f16", 128, 64, "f16", "f16") | 4, 1, "", "sparse"),
        ("f16", instruction_descriptor("f16", 128, 64, "f16", "f16") | 64, 1, "", "bit 3 or 6"),
        ("f16", instruction_descriptor("f16", 128, 64, "f16", "f16") | 1 << 30, 1, "", "bits 23 or 29 to 31"),
        ("f16", instruction_descriptor("f16", 128, 64, "f16", "tf32"), 1, "", "unknown type"),
        (
            "f16",
            instruction_descriptor("f16", 128, 24, "f16", "f16"),
            1,
            "",
            "N = 24 is not a multiple of 16",
        ),
        ("f16", instruction_descriptor("f16", 256, 64, "f16", "f16"), 1, "", "M = 256 of cta_group::1"),
        ("f16", instruction_descriptor("f16", 64, 64, "f16", "f16"), 2, "", "M = 64 of cta_group::2"),
        (
            "f16",
            instruction_descriptor("f16", 128, 64, "bf16", "bf16", d="f16"),
            1,
            "",
            "bf16 product has no f16",
        ),
        (
            "f8f6f4",
            instruction_descriptor("f8f6f4", 128, 64, "e2m1", "e4m3", transpose=(1, 0)),
            1,
            "",
            "transposed",
        ),
        ("mxf4", instruction_descriptor("mxf4", 64, 64, "e2m1", "e2m1", scale="ue8m0"), 1, "", "M = 64"),
        (
            "mxf4",
            instruction_descriptor("mxf4", 128, 64, "e2m1", "e2m1", scale="ue4m3"),
            1,
            "",
            "no ue4m3 scales",
        ),
        (
            "mxf4nvf4",
            instruction_descriptor("mxf4", 128, 64, "e2m1", "e2m1", scale="ue4m3"),
            1,
            "",
            "no scale vector",
        ),
        (
            "mxf4nvf4",
            instruction_descriptor("mxf4", 128, 64, "e2m1", "e2m1", scale="ue4m3", scale_ids=(1, 0)),
            1,
            "block16",
            "scale factor id 1",
        ),
        ("mxf4", 1 << 31 | 1 << 10 | 1 << 7, 1, "", "K = 96 is not simulated"),
    ],
)
def test_instructions_that_do_not_exist(
    kind: str, descriptor: int, cta_group: int, vector: str, message: str
) -> None:
    with pytest.raises(SimulationError, match=message):
        decode_mma(descriptor, kind, cta_group, vector)

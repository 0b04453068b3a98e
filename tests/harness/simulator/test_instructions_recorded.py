"""Results that an H100 gave where the ISA leaves them open: NaNs, and fields outside of the operand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.simulator.instruction_set import lookup

# By spelling, rows of operands and the result; the width of each column in bits.
RECORDED: dict[str, tuple[tuple[int, ...], list[tuple[int, ...]]]] = {
    "neg.ftz.f32": ((32, 32), [(0x7FC00000, 0x7FFFFFFF), (0xFF800001, 0x7FFFFFFF)]),
    "abs.f32": ((32, 32), [(0x7FC00000, 0x7FFFFFFF), (0xFF800001, 0x7FFFFFFF)]),
    "neg.f16x2": (
        (32, 32),
        [
            (0x3FD0FCDA, 0xBFD07FFF),
            (0xFF800001, 0x7FFF8001),
            (0xFF7FFFFF, 0x7FFF7FFF),
            (0xFF800000, 0x7FFF8000),
            (0xFC7A212B, 0x7FFFA12B),
        ],
    ),
    "testp.normal.f32": ((32, 1), [(0x00000000, 1), (0x80000000, 1)]),
    "cvt.rna.tf32.f32": ((32, 32), [(0xFF800001, 0xFF800000), (0x7FC00000, 0x7FC00000)]),
    "cvt.f32.bf16": (
        (16, 32),
        [
            (0x7FBE, 0x7FBE0000),
            (0x7F88, 0x7F880000),
            (0x7FA3, 0x7FA30000),
            (0xFFF5, 0xFFF50000),
            (0xFFE2, 0xFFE20000),
        ],
    ),
    "bfi.b64": (
        (64, 64, 32, 32, 64),
        [
            (0xDFA132D748FA2734, 0x1FD3F76D1D6E7285, 0x3F956324, 0x3E748A73, 0x1FD3F76D1D6E7285),
            (0xD23C068F7FF206DD, 0x2DAB32332C2E8394, 0xC06EDB22, 0xC03CF80B, 0x2DAB32332C2E8394),
            (0xCC0CBDF921A6195E, 0xB0EBF6E9BC0FBBA4, 0x3FB76E29, 0xBD5789EE, 0xB0EBF6E9BC0FBBA4),
            (0x77CA95C71E7C3921, 0x13F08E30692E0E82, 0x33800000, 0xC089582D, 0x13F08E30692E0E82),
            (0x812A131F7A67F71E, 0xA629B836F64C2E58, 0xFF800001, 0xFF7FFFFF, 0xA629B836F64C2E58),
        ],
    ),
}
NANS_OF_F64 = [
    (0xFFF8110890A844B5, 0xFFC08844),
    (0x7FF81FBA6D7D6EA1, 0x7FC0FDD3),
    (0xFFFFCE7ED7D1E2E1, 0xFFFE73F6),
    (0x7FF3C940919D6D67, 0x7FDE4A04),
    (0x7FFBBAF49DF23120, 0x7FDDD7A4),
]
RECORDED |= dict.fromkeys(("cvt.rn.f32.f64", "cvt.rm.f32.f64"), ((64, 32), NANS_OF_F64))


@pytest.mark.parametrize("spelling", RECORDED)
def test_the_simulator_gives_what_an_h100_gave(spelling: str) -> None:
    widths, rows = RECORDED[spelling]
    *operands, want = (
        np.array(column, bool if width == 1 else f"u{width // 8}")
        for width, column in zip(widths, zip(*rows, strict=True), strict=True)
    )
    assert lookup(tuple(spelling.split(".")))(*operands).tolist() == want.tolist()
    scalars = [lookup(tuple(spelling.split(".")))(*each) for each in zip(*operands, strict=True)]
    assert [x.item() for x in scalars] == want.tolist()

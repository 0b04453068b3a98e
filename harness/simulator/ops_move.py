"""Moves and address conversions (PTX ISA 9.7.9 "Data Movement and Conversion Instructions").

`mov` of vectors is `packed.pack` and `packed.unpack`; of special registers, the machine's business.
Generic addresses equal shared, parameter and global ones in the simulator, so `cvta` changes nothing.
On hardware the generic address of shared memory is in a window whose upper 32 bits the driver chooses.
"""

from __future__ import annotations

from harness.simulator.registry import Bits, Execute, Form, instruction


def _same(a: Bits) -> Bits:
    return a


@instruction("mov", "pred b16 b32 b64 u16 u32 u64 s16 s32 s64 f16 bf16 f32 f64")
def mov(form: Form) -> Execute:
    """The operand as it is."""
    return _same


@instruction("cvta", "u32 u64", "to const global local shared shared::cta shared::cluster param param::entry")
def cvta(form: Form) -> Execute:
    """A generic address from one in a state space, or back."""
    return _same

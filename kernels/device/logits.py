"""Stores of the two-kernel path's logits."""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Float32, Int32


def store_logits(logits: list[Float32], token: Int32, expert: Int32, out: cute.Tensor) -> None:
    """Store a token's logits of neighbouring experts, `expert` the first, at once.

    `out` is fp32 [M, E], row-major. How many there are, a power of two, divides E and `expert`, and as many
    floats are what `out` is aligned to.
    """
    count = len(logits)
    vector = cute.make_rmem_tensor((count,), Float32)
    for element, logit in enumerate(logits):
        vector[element] = logit
    offset = cute.assume(token * out.shape[1] + expert, divby=count)
    cute.autovec_copy(vector, cute.make_tensor(out.iterator + offset, cute.make_layout(count)))

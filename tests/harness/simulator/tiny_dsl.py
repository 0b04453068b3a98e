"""What the tiny kernels share: compiling a kernel of input x and output y behind `launch(x, y)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cutlass.cute as cute
from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream

ALIGNMENT = 16


def compile_launch(launch: Any, *tensors: tuple[Any, Sequence[Any]]) -> Any:
    """Compile a `cute.jit` launch of row-major tensors, each given as (dtype, shape), and a stream."""
    fakes = [
        make_fake_compact_tensor(
            dtype, tuple(shape), stride_order=tuple(reversed(range(len(shape)))), assumed_align=ALIGNMENT
        )
        for dtype, shape in tensors
    ]
    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    return cute.compile(launch, *fakes, stream, options="--enable-tvm-ffi")


def compile_block(
    kernel: Any, x: tuple[Any, Sequence[Any]], y: tuple[Any, Sequence[Any]], **launch_with: Any
) -> Any:
    """One kernel of (x, y), launched with `grid`, `block` and what else is given."""

    @cute.jit
    def launch(x: cute.Tensor, y: cute.Tensor, stream: Any) -> None:
        kernel(x, y).launch(stream=stream, **launch_with)

    return compile_launch(launch, x, y)

"""Reading the shared memory of another CTA of the cluster."""

from __future__ import annotations

from typing import Any

import cutlass.cute as cute
from cutlass import Float32


def load_peer(address: cute.Pointer, tensor: cute.Tensor, coordinate: tuple[Any, ...]) -> Any:
    """Element `coordinate` of `tensor` where it begins at `address`, in another CTA of the cluster.

    The DSL's own loads stop at shared::cta (4.8.1), hence the PTX.
    """
    kind = "f32" if tensor.element_type is Float32 else "b32"
    return cute.arch.inline_ptx(
        f"ld.shared::cluster.{kind} {{$w0}}, [{{$r0}}];",
        write_only_types=[tensor.element_type],
        read_only_args=[address + cute.crd2idx(coordinate, tensor.layout)],
    )

"""The weights of traced layers: from a seeded generator, or from a local safetensors file.

A file holds the tensors of layer i under `layers.<i>.` and the names of `kernels.moe_layer.MoeLayer`'s state
dict, in any floating-point type (bf16 is kept, others are rounded to it; the selection bias is fp32). It may
hold the tokens to trace as `input`, [M, H]. Other tensors are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kernels.moe_layer import MoeLayer
from kernels.moe_shape import LayerShape

INPUT = "input"
LOGIT_STD = 2.0  # of the generated router's logits: spreads the scores over the bend of every score function
BIAS_STD = 0.2
NORM_STD = 0.1


class TraceError(ValueError):
    """A weight, input or layer that cannot be traced; the message is one line for a person."""


@lru_cache(maxsize=8)
def weight_shapes(shape: LayerShape) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each of a layer's tensors by name, in order."""
    state = MoeLayer(shape, device="meta").state_dict()
    return MappingProxyType({name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()})


def generate_weights(shape: LayerShape, seed: int, layer: int) -> dict[str, Tensor]:
    """Normal weights of the standard deviation 1 / sqrt(inputs), norms about 1; the same for a seed."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + layer)
    weights = {}
    for name, (size, dtype) in weight_shapes(shape).items():
        normal = torch.randn(size, generator=generator)
        if name == "selection_bias":
            normal *= BIAS_STD
        elif len(size) == 1:
            normal = 1 + NORM_STD * normal
        else:
            normal *= (LOGIT_STD if name == "router.weight" else 1.0) / math.sqrt(size[1])
        weights[name] = normal.to(dtype)
    return weights


def generate_input(shape: LayerShape, seed: int, tokens: int) -> Tensor:
    """Normal tokens [M, H] bf16."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, shape.hidden, generator=generator).bfloat16()


def load_weights(path: Path, shape: LayerShape, layers: int) -> list[dict[str, Tensor]]:
    """The weights of layers 0 to `layers` - 1 from a file; raises `TraceError` with one line."""
    return [_load(path, f"layers.{index}.", weight_shapes(shape)) for index in range(layers)]


def load_input(path: Path, shape: LayerShape) -> Tensor | None:
    """The file's tokens [M, H] bf16, None where it has none."""
    with _opened(path) as file:
        if INPUT not in set(file.keys()):
            return None
        x: Tensor = file.get_tensor(INPUT)
    if x.ndim != 2 or x.shape[1] != shape.hidden or not x.is_floating_point():
        raise TraceError(
            f"{path}: {INPUT} is {_described(x)}: want floating-point numbers of shape [M, {shape.hidden}]"
        )
    return x.bfloat16()


def build_layer(
    shape: LayerShape, weights: Mapping[str, Tensor], device: torch.device | str = "cpu"
) -> MoeLayer:
    """A finalized layer with these weights; raises `TraceError` when they are not the shape's."""
    check_weights(shape, weights)
    layer = MoeLayer(shape, device="meta").to_empty(device=device)
    layer.load_state_dict(dict(weights))
    return layer.finalize_weights()


def check_weights(shape: LayerShape, weights: Mapping[str, Tensor], where: str = "weights") -> None:
    """Raise `TraceError` unless every tensor of the layer is there, of its shape, and finite."""
    for name, (size, _) in weight_shapes(shape).items():
        if name not in weights:
            raise TraceError(f"{where}: the tensor {name} is missing: it must be of shape {list(size)}")
        tensor = weights[name]
        if tuple(tensor.shape) != size or not tensor.is_floating_point():
            raise TraceError(
                f"{where}: {name} is {_described(tensor)}: want floating-point numbers of shape {list(size)}"
            )
        require_finite(tensor, f"{where}: {name}")


def require_finite(tensor: Tensor, name: str) -> None:
    """Raise `TraceError` when there is a NaN or an infinity."""
    bad = ~tensor.isfinite()
    if bool(bad.any()):
        first = bad.nonzero()[0].tolist()
        raise TraceError(
            f"{name} has {int(bad.sum())} NaN or infinite of {tensor.numel()} values, the first at {first}: "
            "mend them first"
        )


def _load(
    path: Path, prefix: str, wanted: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
) -> dict[str, Tensor]:
    with _opened(path) as file:
        names = set(file.keys())
        if missing := [prefix + name for name in wanted if prefix + name not in names]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            first = list(wanted[missing[0].removeprefix(prefix)][0])
            raise TraceError(f"{path}: the tensor {missing[0]} is missing (want shape {first}){more}")
        weights = {}
        for name, (size, dtype) in wanted.items():
            found = list(file.get_slice(prefix + name).get_shape())
            if found != list(size):
                raise TraceError(f"{path}: {prefix}{name} has the shape {found}: want {list(size)}")
            tensor: Tensor = file.get_tensor(prefix + name)
            if not tensor.is_floating_point():
                raise TraceError(f"{path}: {prefix}{name} is {tensor.dtype}: want a floating-point type")
            require_finite(tensor, f"{path}: {prefix}{name}")
            weights[name] = tensor.to(dtype)
    return weights


def _opened(path: Path) -> safe_open:
    if not path.is_file():
        raise TraceError(f"{path}: no such file")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise TraceError(f"{path}: not a readable safetensors file: {error}") from None


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {list(tensor.shape)}"

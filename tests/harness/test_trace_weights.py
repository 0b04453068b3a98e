"""Weights of a trace: generated ones are a seed's, a file's are checked in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.trace_weights import TraceError, build_layer, generate_weights, load_input, load_weights
from kernels.moe_shape import layer_shape
from kernels.problem import PRESETS

SHAPE = layer_shape(PRESETS["deepseek-v4-flash"], 32)  # H = 128, 12 experts


def contents(layers: int = 2) -> dict[str, Tensor]:
    return {
        f"layers.{index}.{name}": tensor
        for index in range(layers)
        for name, tensor in generate_weights(SHAPE, 3, index).items()
    }


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path / "model.safetensors")
    return path / "model.safetensors"


def test_a_seed_and_layer_give_the_same_weights_and_others_give_others() -> None:
    first, again = generate_weights(SHAPE, 1, 0), generate_weights(SHAPE, 1, 0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in (generate_weights(SHAPE, 1, 1), generate_weights(SHAPE, 2, 0)):
        assert not torch.equal(first["router.weight"], other["router.weight"])
    assert float(first["experts.0.down.weight"].float().std()) == pytest.approx(
        SHAPE.expert_hidden**-0.5, rel=0.05
    )


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = written(tmp_path, contents() | {"lm_head.weight": torch.ones(3)})
    loaded = load_weights(path, SHAPE, 2)
    for index, weights in enumerate(loaded):
        for name, tensor in generate_weights(SHAPE, 3, index).items():
            assert weights[name].dtype == tensor.dtype
            assert torch.equal(weights[name], tensor)
    assert torch.equal(build_layer(SHAPE, loaded[1]).router.weight, loaded[1]["router.weight"])


def test_other_floating_point_types_are_rounded_to_bf16(tmp_path: Path) -> None:
    x = torch.randn(4, SHAPE.hidden, generator=torch.Generator().manual_seed(0))
    path = written(tmp_path, {name: tensor.float() for name, tensor in contents().items()} | {"input": x})
    assert torch.equal(load_weights(path, SHAPE, 1)[0]["router.weight"], contents()["layers.0.router.weight"])
    loaded = load_input(path, SHAPE)
    assert loaded is not None
    assert torch.equal(loaded, x.bfloat16())
    assert load_input(written(tmp_path, contents(1)), SHAPE) is None


def spoiled(name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    tensors = contents()
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    return tensors


WITH_NAN = generate_weights(SHAPE, 3, 1)["router.weight"]
WITH_NAN[3, 4] = torch.nan


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "layers.1.router.weight",
            None,
            r"the tensor layers.1.router.weight is missing \(want shape \[12, 128\]\)",
        ),
        (
            "layers.0.experts.7.up.weight",
            torch.ones(9, 9).bfloat16(),
            r"has the shape \[9, 9\]: want \[48, 128\]",
        ),
        (
            "layers.0.ffn_norm",
            torch.ones(128, dtype=torch.int32),
            "is torch.int32: want a floating-point type",
        ),
        ("layers.1.router.weight", WITH_NAN, r"1 NaN or infinite of 1536 values, the first at \[3, 4\]"),
    ],
    ids=["missing", "misshapen", "integers", "NaN"],
)
def test_a_tensor_that_will_not_do_is_one_line(
    tmp_path: Path, name: str, tensor: Tensor | None, message: str
) -> None:
    path = written(tmp_path, spoiled(name, tensor))
    with pytest.raises(TraceError, match=message) as caught:
        load_weights(path, SHAPE, 2)
    assert name in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        load_weights(tmp_path / "nosuch", SHAPE, 1)
    (tmp_path / "text").write_text("no tensors here")
    with pytest.raises(TraceError, match="text: not a readable safetensors file"):
        load_weights(tmp_path / "text", SHAPE, 1)


def test_an_input_of_another_width_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, {"input": torch.ones(4, 7)})
    with pytest.raises(TraceError, match=r"input is torch.float32 of shape \[4, 7\]: want .* \[M, 128\]"):
        load_input(path, SHAPE)

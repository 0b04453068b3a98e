"""The quantized operands of a traced layer: the weights as it holds them, and which blocks are saturated."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.trace_compare import Views, compare_step
from harness.trace_noise import saturated_blocks
from harness.trace_record import StepTrace
from harness.trace_reference import ReferenceWeights, Step
from kernels.linear import Nvfp4Linear
from kernels.moe_layer import MoeLayer
from kernels.nvfp4 import dequantize_nvfp4, quantize_activation_nvfp4

# The step whose result each quantized product reads.
PRODUCT_INPUTS = {
    "router.logits": "ffn.norm",
    "experts.gate": "ffn.norm",
    "experts.up": "ffn.norm",
    "experts.down": "experts.act",
    "shared.gate": "ffn.norm",
    "shared.up": "ffn.norm",
    "shared.down": "shared.act",
}


def operand_step(index: int, name: str, layer: MoeLayer, weights: ReferenceWeights) -> StepTrace:
    """Compare what the layer's quantized weight represents with the quantization of the present weight.

    `name` is `router`, `shared.<projection>`, or `experts.<projection>` for all experts' together.
    """
    modules = dict(_modules(name, layer))
    references = [weights.step(f"{key}.weight") for key in modules]
    exact = _stacked(references)
    unquantized = [weights[f"{key}.weight"].double() for key in modules]
    plain = torch.cat(unquantized)
    held = torch.cat([dequantize_nvfp4(module.quantized(), torch.float64) for module in modules.values()])
    rows = len(held) // len(modules)

    def where(row: int) -> str:
        return f"expert {row // rows}, row {row % rows}" if len(modules) > 1 else f"row {row}"

    counts = [saturated_blocks(w, m.quantized()) for w, m in zip(unquantized, modules.values(), strict=True)]
    share = sum(saturated for saturated, _ in counts) / sum(blocks for _, blocks in counts)
    return compare_step(
        index,
        f"{name}.operand",
        Views(held, exact, held, exact, Step(plain, plain, exact.allowed, exact.variance)),
        where,
        share,
    )


def _modules(name: str, layer: MoeLayer) -> Iterator[tuple[str, Nvfp4Linear]]:
    if not name.startswith("experts."):
        module = layer.get_submodule(name)
        assert isinstance(module, Nvfp4Linear)
        yield name, module
        return
    projection = name.removeprefix("experts.")
    for expert, module in enumerate(layer.projections(projection)):
        yield f"experts.{expert}.{projection}", module


def _stacked(steps: list[Step]) -> Step:
    fields = ("value", "stored", "allowed", "variance")
    return Step(*(torch.cat([getattr(step, field) for step in steps]) for field in fields))


def saturated_share(name: str, path: dict[str, Tensor], ids: Tensor) -> float | None:
    """The saturated share of the blocks that the product `name` makes of its input; None for other steps."""
    if name not in PRODUCT_INPUTS:
        return None
    x = path[PRODUCT_INPUTS[name]]
    if not name.startswith("experts."):
        saturated, blocks = saturated_blocks(x, quantize_activation_nvfp4(x))
        return saturated / blocks
    rows = x if len(x) == ids.numel() else x.repeat_interleave(ids.shape[1], dim=0)
    groups = [rows[ids.flatten() == expert] for expert in set(ids.flatten().tolist())]
    counts = [saturated_blocks(group, quantize_activation_nvfp4(group)) for group in groups]
    return sum(saturated for saturated, _ in counts) / sum(blocks for _, blocks in counts)

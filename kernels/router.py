"""The public wrapper: torch tensors in, ids and weights out, on whatever kernel suits the device and M.

    weights, ids = run_nvfp4_fused_router(activations, linear, "deepseek-v4-pro", bias=bias)

What is computed follows from the operands. With an `Nvfp4Linear`, the product is the block-scaled NVFP4
one: raw activations are quantized first (unless told otherwise), by kernels of their own
(`kernels.quantize`), and alpha undoes both global scales. With a plain bf16 weight it is the bf16 product.
A GPU without FP4 tensor cores gets NVFP4 operands dequantized without their global scale, which is exact in
bf16, so the result differs from FP4 hardware's only by accumulation order; the weight's dequantization is
cached in the layer, the activations' happens in every call. A GPU with them multiplies NVFP4 as it is, and
nothing else: a bf16 weight is refused there.

The kernel is compiled on first use of a config and kept; one compiled kernel serves every M. The config is
the caller's, or the best known for the problem, target and M (`kernels.best`), or a fair default.

Calls may come from several threads, on several streams, and from a CUDA-graph capture. Make one call before
the capture: it compiles, and it leaves the layer's dequantization behind, which the capture would otherwise
put into the graph, for each replay to repeat.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from kernels.best import config_to_launch
from kernels.families import family
from kernels.family import OperandFormat
from kernels.launchers import compiled
from kernels.linear import Nvfp4Linear
from kernels.nvfp4 import Nvfp4Tensor
from kernels.problem import RouterProblem, preset
from kernels.router_operands import (
    bf16_operands,
    bias_operand,
    nvfp4_operands,
    require,
    require_activation_scale,
)
from kernels.streams import is_capturing

# Which kernels run on a device of each compute capability, by the path that the caller asks for.
TARGETS = {(9, 0): "sm_90a", (10, 0): "sm_100a", (10, 3): "sm_103a"}
PATHS = ("fused", "two_kernel")
FAMILIES = {
    ("sm_90a", "fused"): "fused_sm90",
    ("sm_90a", "two_kernel"): "two_kernel_sm90",
    ("sm_100a", "fused"): "fused_sm100",
    ("sm_100a", "two_kernel"): "two_kernel_sm100",
    ("sm_103a", "fused"): "fused_sm100",
    ("sm_103a", "two_kernel"): "two_kernel_sm100",
}


def run_nvfp4_fused_router(
    activations: torch.Tensor | Nvfp4Tensor,
    weight: torch.Tensor | Nvfp4Linear,
    problem: RouterProblem | str,
    *,
    bias: torch.Tensor | None = None,
    path: str = "fused",
    quantize_activations: bool = True,
    activation_scale: torch.Tensor | None = None,
    config: Any = None,
    out: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Route every token: (weights [M, k] fp32, ids [M, k] int32), by descending biased score.

    Args:
        activations: [M, K] bf16, contiguous and 16-byte aligned, or already quantized.
        weight: the router weight: a layer after `finalize_weights()`, or [E, K] bf16.
        problem: what to compute, or a preset's name.
        bias: the selection bias [E] fp32; required exactly when the problem has one.
        path: "fused", or "two_kernel" for the GEMM and gate kernel it replaces.
        quantize_activations: whether raw activations are quantized to NVFP4 when the weight is NVFP4. That is
            outside of the router's kernel, and of every published time that does not say so.
        activation_scale: the global scale to quantize them with, one fp32, calibrated. None takes it from
            their largest magnitude, for which another kernel reads them all.
        config: a config of the chosen kernel family; None chooses the best known one.
        out: where to write (weights, ids); None allocates.

    The launch is asynchronous on the current stream; a first call compiles, and waits for what it keeps.
    Raises `ValueError` for a wrong shape, dtype, device, alignment or config, with the value and what to do.
    """
    problem = preset(problem) if isinstance(problem, str) else problem
    if path not in PATHS:
        raise ValueError(f"path = {path!r}: must be {' or '.join(map(repr, PATHS))}")
    device = weight.weight.device if isinstance(weight, Nvfp4Linear) else weight.device
    if device.type == "cuda":
        _target(device)  # or refuse it, before anything is compiled for it
    require_activation_scale(activation_scale, activations, weight, quantize_activations)
    take = nvfp4_operands if operand_format(device) is OperandFormat.NVFP4 else bf16_operands
    operands, alpha = take(activations, weight, problem, quantize_activations, activation_scale)
    bias = bias_operand(bias, problem, device)
    m = operands[0].shape[0]
    weights, ids = out if out is not None else _allocate(m, problem, device)
    require(weights, "out weights", (m, problem.top_k), torch.float32, device)
    require(ids, "out ids", (m, problem.top_k), torch.int32, device)
    target = _target(device)
    if m == 0:
        return weights, ids
    kernels = family(FAMILIES[target, path])
    if config is None:
        config = config_to_launch(kernels, problem, target, m)
    elif type(config) is not kernels.config_type:
        wanted = kernels.config_type.__name__
        raise ValueError(f"config is a {type(config).__name__}: {kernels.name} takes a {wanted}")
    launch = _compiled(kernels.name, problem, config, target)
    workspace = _workspace(kernels.name, kernels.workspace_elements(problem, config, m), device)
    with torch.cuda.device(device):
        launch(*operands, bias, alpha, workspace, weights, ids)
    return weights, ids


# Workspaces by family, device and stream, each for the launches of its stream that are not captured.
_workspaces: dict[tuple[str, torch.device, int], torch.Tensor] = {}


def _workspace(name: str, elements: int, device: torch.device) -> torch.Tensor:
    """The family's workspace on the current stream, zeroed when it was made; it doubles when too small.

    In a capture, one of its own, which every replay zeroes before it launches: a graph may be replayed beside
    another, or beside launches of the stream it was captured on, and each must count arrivals by itself.
    """
    if is_capturing(device):
        return torch.zeros(elements, dtype=torch.float32, device=device)
    key = name, device, torch.cuda.current_stream(device).cuda_stream
    owned = _workspaces.get(key)
    if owned is None or owned.numel() < elements:
        size = elements if owned is None else max(elements, 2 * owned.numel())
        owned = _workspaces[key] = torch.zeros(size, dtype=torch.float32, device=device)
    return owned


def _compiled(name: str, problem: RouterProblem, config: Any, target: str) -> Any:
    """The compiled launcher of one config, kept; raises `ValueError` for an illegal one."""
    return compiled((name, problem, config, target), partial(_compile, name, problem, config, target))


def _compile(name: str, problem: RouterProblem, config: Any, target: str) -> Any:
    kernels = family(name)
    reason = kernels.illegal_reason(problem, config, target)
    if reason is not None:
        raise ValueError(f"illegal config for {problem.name} on {target}: {reason}")
    return kernels.compile(problem, config, target)


def _target(device: torch.device) -> str:
    if device.type != "cuda":
        raise ValueError(f"the weight is on {device}: move it and the activations to a CUDA device")
    capability = torch.cuda.get_device_capability(device)
    if capability not in TARGETS:
        known = ", ".join(f"{major}.{minor}" for major, minor in TARGETS)
        raise ValueError(
            f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}: "
            f"there are kernels for {known}"
        )
    return TARGETS[capability]


def operand_format(device: torch.device) -> OperandFormat:
    """What the device's kernels multiply; bf16 where there are none."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    target = TARGETS.get(capability) if capability else None
    return family(FAMILIES[target, "fused"]).operands if target else OperandFormat.BF16


def _allocate(m: int, problem: RouterProblem, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (m, problem.top_k)
    return (
        torch.empty(shape, dtype=torch.float32, device=device),
        torch.empty(shape, dtype=torch.int32, device=device),
    )

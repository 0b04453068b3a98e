"""One trace from the command line: weights and tokens from a seed or a file, the layers, the record."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from harness.provenance import provenance
from harness.trace import trace_layers
from harness.trace_record import TraceRecord
from harness.trace_weights import build_layer, generate_input, generate_weights, load_input, load_weights
from kernels.moe_shape import LayerShape
from sweeps.errors import DeviceError, SpecError
from sweeps.limits import MAX_TRACED_TOKENS


def run_trace(
    shape: LayerShape,
    layers: int,
    tokens: int,
    seed: int,
    path: Path | None,
    device: str,
    options: dict[str, int],
) -> TraceRecord:
    """Trace `layers` layers of `shape`; `path` names a weights file, which may bring its own tokens."""
    on = _device(device)
    x = None if path is None else load_input(path, shape)
    if x is not None and len(x) > MAX_TRACED_TOKENS:
        raise SpecError(f"{path}: an input of {len(x)} tokens is too many: at most {MAX_TRACED_TOKENS}")
    if x is None:
        x = generate_input(shape, seed, tokens)
    if path is None:
        weights = [generate_weights(shape, seed, index) for index in range(layers)]
    else:
        weights = load_weights(path, shape, layers)
    placed = [{name: tensor.to(on) for name, tensor in each.items()} for each in weights]
    built = [build_layer(shape, each, on) for each in placed]
    traced = trace_layers(x.to(on), built, placed)
    problem = shape.problem
    return TraceRecord(
        problem=asdict(problem),
        layer_sizes={
            "hidden": shape.hidden,
            "experts": problem.experts,
            "top-k": problem.top_k,
            "expert width": shape.expert_hidden,
            "heads": shape.heads,
            "kv heads": shape.kv_heads,
            "head width": shape.head_dim,
        },
        tokens=len(x),
        weights=f"generated from seed {seed}" if path is None else f"weights of {path.name}",
        device=torch.cuda.get_device_name(on) if on.type == "cuda" else "cpu",
        verdict=traced.verdict,
        steps=traced.steps,
        routers=traced.routers,
        provenance=provenance(),
        options=options,
    )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"--device {name}: not usable here: {error}") from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"--device {name}: must be cpu or cuda")
    return device

"""What a pack's routers answer on a GPU: ids and weights on inputs that any machine can draw again.

The inputs come from numpy's generator, which draws the same numbers on every machine (torch's normal numbers
depend on the processor's vector width); their digest is saved beside the outputs.
`sweeps.agreement` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from harness.artifact import load_artifact
from harness.launcher import load_launcher
from harness.operands import BIAS_SCALE, Inputs, Outputs, as_inputs
from harness.pack import artifact_folder, read_pack
from harness.runner import Candidate

INPUT_SEED = 20261124


@dataclass(frozen=True)
class Answer:
    """weights fp32 [M, k] and ids int32 [M, k] of one artifact."""

    weights: torch.Tensor
    ids: torch.Tensor


def inputs_at(candidate: Candidate, m: int) -> Inputs:
    """Normal inputs at `m` tokens, scaled as in `harness.operands.random_inputs`, on the CPU."""
    problem, rng = candidate.problem, np.random.default_rng(INPUT_SEED + m)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape, np.float32)) * scale

    a = normal(m, problem.hidden).bfloat16()
    b = normal(problem.experts, problem.hidden, scale=problem.hidden**-0.5).bfloat16()
    bias = normal(problem.experts, scale=BIAS_SCALE if problem.bias else 0.0)
    return as_inputs(a, b, bias, candidate.operand_format)


def digest(inputs: Inputs) -> str:
    """sha256 of the operands' bytes."""
    whole = sha256()
    for tensor in inputs.operands:
        whole.update(tensor.view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def answer(candidate: Candidate, inputs: Inputs, m: int, device: str) -> Answer:
    """Launch once at `m` tokens on `device`, outputs poisoned first."""
    outputs = Outputs.poisoned(candidate.problem, m, candidate.workspace_elements(m), device)
    operands = (tensor.to(device) for tensor in (*inputs.operands, inputs.bias, inputs.alpha))
    candidate.launch(*operands, outputs.workspace, outputs.weights, outputs.ids)
    return Answer(outputs.weights.cpu(), outputs.ids.cpu())


def write_outputs(
    folder: Path, out: Path, m_values: Sequence[int], report: Callable[[str], None] = lambda line: None
) -> int:
    """Run every artifact of the pack in `folder` on this host's GPU; how many answers were written to `out`.

    `out` is an npz: `<key>/<m>/weights`, `<key>/<m>/ids`, and `inputs/<m>`, the digest's bytes.
    """
    answers: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    for entry in read_pack(folder).entries:
        artifact = load_artifact(artifact_folder(folder, entry.key))
        candidate = Candidate.of_manifest(artifact.manifest, load_launcher(artifact))
        for m in m_values:
            inputs = inputs_at(candidate, m)
            found = answer(candidate, inputs, m, "cuda")
            answers[f"{entry.key}/{m}/weights"] = found.weights.numpy()
            answers[f"{entry.key}/{m}/ids"] = found.ids.numpy()
            answers[f"inputs/{m}"] = np.frombuffer(bytes.fromhex(digest(inputs)), np.uint8)
        report(entry.key)
    with out.open("wb") as file:
        np.savez_compressed(file, **answers)  # type: ignore[arg-type]
    return len(answers)

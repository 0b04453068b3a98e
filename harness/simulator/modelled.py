"""A candidate's modelled time at any M.

The clusters of a persistent kernel go from round to round, each as long as the ones before it once operands
and code have come and the pipeline is full. A launch of many rounds is not simulated whole: its time is that
of a launch with `SIMULATED_ROUNDS`, the last one as full as in the whole, and for every round left out the
time by which rounds make that launch longer than one of `PERIOD` rounds fewer.
"""

from __future__ import annotations

import torch

from harness.operands import Outputs, unread_inputs
from harness.runner import Candidate
from harness.simulator.model import Model

# Early release walks every other tile in reverse, and accumulators take turns: what repeats is two rounds.
PERIOD = 2
SIMULATED_ROUNDS = 4


def unread_arguments(candidate: Candidate, m: int) -> tuple[torch.Tensor, ...]:
    """A launch's arguments at `m` tokens for the model, which looks at operands' addresses only."""
    inputs = unread_inputs(candidate.problem, m, candidate.operand_format)
    outputs = Outputs.poisoned(candidate.problem, m, candidate.workspace_elements(m), "cpu")
    return (
        *inputs.operands,
        inputs.bias,
        inputs.alpha,
        outputs.workspace,
        outputs.weights,
        outputs.ids,
    )


def modelled_us(model: Model, candidate: Candidate, m: int, warm: bool = False) -> float:
    """The time of one launch of `candidate`, which is `model`'s, at `m` tokens; `warm` as in `Model`."""
    arguments = unread_arguments(candidate, m)
    if candidate.round_tokens is None:
        return model.microseconds(arguments, warm)
    tokens = model.columns(arguments) * candidate.round_tokens
    left_out = -(-m // tokens) - SIMULATED_ROUNDS
    if left_out <= PERIOD:  # as many are simulated to leave them out
        return model.microseconds(arguments, warm)
    fits = model.fits(arguments)
    longer, shorter = (
        model.microseconds(unread_arguments(candidate, m - rounds * tokens), warm, fits)
        for rounds in (left_out, left_out + PERIOD)
    )
    return longer + left_out * (longer - shorter) / PERIOD

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


class ModelledTimes:
    """The modelled times of `candidate`, which is `model`'s.

    A launch that several times need is simulated once: inputs that do not fit into the L2 come from memory
    in a cold and in a warm launch alike, and numbers of tokens that differ by whole rounds, as powers of two
    mostly do, leave rounds out down to the same two launches.
    """

    def __init__(self, model: Model, candidate: Candidate) -> None:
        self.model, self.candidate = model, candidate
        self._simulated_us: dict[tuple[int, bool, bool], float] = {}

    def us(self, m: int, warm: bool = False) -> float:
        """The time of one launch at `m` tokens; `warm` as in `Model`."""
        arguments = unread_arguments(self.candidate, m)
        fits = self.model.fits(arguments)
        if self.candidate.round_tokens is None:
            return self._launch_us(m, warm, fits)
        tokens = self.model.columns(arguments) * self.candidate.round_tokens
        left_out = -(-m // tokens) - SIMULATED_ROUNDS
        if left_out < PERIOD:  # fewer than are simulated to leave them out
            return self._launch_us(m, warm, fits)
        longer, shorter = (
            self._launch_us(m - rounds * tokens, warm, fits) for rounds in (left_out, left_out + PERIOD)
        )
        return longer + left_out * (longer - shorter) / PERIOD

    def _launch_us(self, m: int, warm: bool, fits: bool) -> float:
        """The time of a launch at `m` tokens, simulated whole; `fits` as in `Model`."""
        launch = (m, warm and fits, fits)
        if launch not in self._simulated_us:
            arguments = unread_arguments(self.candidate, m)
            self._simulated_us[launch] = self.model.microseconds(arguments, warm, fits)
        return self._simulated_us[launch]

"""One launch of a candidate that looks for races in shared memory.

It has little to do with the numbers, and costs more than others: so a full tile and a tail, or, where the
kernel is persistent, two rounds of one column of clusters. A race is an error, whatever came of it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.operands import random_inputs
from harness.pack_outputs import answer
from harness.runner import Candidate
from harness.simulator.run import Program


def search_races(program: Program, candidate: Candidate, seed: int) -> None:
    """Launch `program`, which is the candidate's; raises `SimulationError` naming the accesses of a race."""
    tokens = (candidate.round_tokens or candidate.tile_m) + 1
    generator = torch.Generator().manual_seed(seed)
    inputs = random_inputs(candidate.problem, tokens, "cpu", generator, candidate.operand_format)
    launch = replace(program, races=True, columns=1 if candidate.round_tokens else None)
    answer(replace(candidate, launch=launch), inputs, tokens, "cpu")

"""One launch of a candidate that looks for races in shared memory.

It has little to do with the numbers, and costs more than others: so one column of clusters, a full tile and a
tail, walked one after the other where the kernel is persistent. A race is an error, whatever came of it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.operands import random_inputs
from harness.pack_outputs import answer
from harness.runner import Candidate
from harness.simulator.run import Program

TILES = 2  # full ones, of a persistent kernel: its rounds meet the next one's start and the last one's end


def search_races(program: Program, candidate: Candidate, persistent: bool, seed: int) -> None:
    """Launch `program`, which is the candidate's; raises `SimulationError` naming the accesses of a race."""
    tokens = (TILES if persistent else 1) * candidate.tile_m + 1
    generator = torch.Generator().manual_seed(seed)
    inputs = random_inputs(candidate.problem, tokens, "cpu", generator, candidate.operand_format)
    launch = replace(program, races=True, columns=1 if persistent else None)
    answer(replace(candidate, launch=launch), inputs, tokens, "cpu")

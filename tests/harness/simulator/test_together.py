"""Several launches in one machine: each as it is alone, and none in another's memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.simulator.errors import SimulationError
from harness.simulator.grids import Grids
from harness.simulator.launch import Launch
from harness.simulator.loaded import load
from harness.simulator.run import Program, execute, memory_of
from tests.harness.simulator.raw_ptx import kernel_text
from tests.harness.simulator.routers import ROUTERS, Operands

THREADS = 64


@pytest.mark.compiles
@pytest.mark.parametrize("name", ROUTERS)
def test_routers_of_several_sizes_give_the_bits_of_each_alone(compiled: dict[str, Path], name: str) -> None:
    program = Program.of_folder(compiled["sm_90a"] / name)
    sizes = [(1, 0), (65, 1), (130, 2), (65, 3)]
    alone = [Operands(name, tokens, seed) for tokens, seed in sizes]
    at_once = [Operands(name, tokens, seed) for tokens, seed in sizes]
    for operands in alone:
        operands.launch(program)
    for _ in range(2):  # the second time with the workspaces as the first has left them
        program.together([operands.arguments() for operands in at_once])
        for one, other in zip(alone, at_once, strict=True):
            assert other.mismatch() == ""
            assert torch.equal(one.ids, other.ids)
            assert torch.equal(one.weights.view(torch.int32), other.weights.view(torch.int32))
            other.ids.fill_(-1)


def grids(body: str, calls: list[tuple[Tensor, Tensor]], ctas: list[int]) -> Grids:
    """A launch of `ctas` CTAs on each pair of operands; the memory of each is its own pair."""
    kernel = load(kernel_text(body))["kernel"]
    launches = [
        Launch(
            "kernel",
            (count, 1, 1),
            (THREADS, 1, 1),
            (1, 1, 1),
            0,
            tuple(np.uint64(tensor.data_ptr()).tobytes() for tensor in call),
        )
        for call, count in zip(calls, ctas, strict=True)
    ]
    return Grids(kernel, launches, [memory_of(call) for call in calls])


def run(body: str, calls: list[tuple[Tensor, Tensor]], ctas: list[int]) -> None:
    execute(load(kernel_text(body))["kernel"], grids(body, calls, ctas))


def test_each_launch_knows_its_own_grid_and_parameters() -> None:
    """y = x + CTAs of the grid + 100 * the CTA's number."""
    ctas = [1, 3, 2]
    calls = [
        (torch.arange(count * THREADS, dtype=torch.int32), torch.zeros(count * THREADS, dtype=torch.int32))
        for count in ctas
    ]
    body = """
    ld.global.b32 %r5, [%rd2];
    mov.u32 %r6, %nctaid.x;
    add.s32 %r5, %r5, %r6;
    mad.lo.s32 %r5, %r1, 100, %r5;
    st.global.b32 [%rd3], %r5;
    """
    run(body, calls, ctas)
    for (x, y), count in zip(calls, ctas, strict=True):
        assert torch.equal(y, x + count + 100 * (torch.arange(len(x)) // THREADS).int())


def test_a_launch_that_reaches_into_anothers_memory_is_named() -> None:
    """The second launch reads what lies behind its tensor, where the first one's begins."""
    whole = torch.zeros(2 * THREADS, dtype=torch.int32)
    outs = [torch.zeros(THREADS, dtype=torch.int32) for _ in range(2)]
    calls = [(whole[THREADS:], outs[0]), (whole[:THREADS], outs[1])]
    body = """
    setp.eq.u32 %p1, %r0, 63;
    @%p1 add.s64 %rd2, %rd2, 4;
    ld.global.b32 %r5, [%rd2];
    st.global.b32 [%rd3], %r5;
    """
    with pytest.raises(SimulationError) as caught:
        run(body, calls, [1, 1])
    assert "lane 31 of warp 1 of CTA (0, 0, 0) of launch" in str(caught.value)
    assert "outside every tensor, the nearest is 'argument 0', 1 bytes away" in str(caught.value)


def test_launches_that_one_machine_cannot_hold_are_refused() -> None:
    x = torch.zeros(THREADS, dtype=torch.int32)
    one = grids("ret;", [(x, x)], [1])
    wider = Launch("kernel", (1, 1, 1), (2 * THREADS, 1, 1), (1, 1, 1), 0, one.launches[0].params)
    with pytest.raises(ValueError, match="launches that differ in kernel, block, cluster or shared memory"):
        Grids(load(kernel_text("ret;"))["kernel"], [one.launches[0], wider], one.memories * 2)

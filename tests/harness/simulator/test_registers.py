"""`setmaxnreg`: the pool of a CTA's registers, who waits for it, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.artifact import Artifact
from harness.compile_pool import CompilePool
from harness.runner import Candidate
from harness.simulator.errors import Deadlock, SimulationError
from harness.simulator.grids import Grids
from harness.simulator.launch import Launch
from harness.simulator.loaded import load
from harness.simulator.machine import Machine
from harness.simulator.modelled import unread_arguments
from harness.simulator.run import Program, memory_of
from harness.simulator.timing import Units
from kernels.problem import RouterProblem
from kernels.sm90.config import Sm90Config
from kernels.sm90.families import FusedSm90
from tests.harness.simulator.raw_ptx import kernel_text, run_ptx
from tests.harness.simulator.test_planted_faults import PLACE

PROBLEM = RouterProblem("pooled", hidden=256, experts=64, top_k=4)
CONFIG = Sm90Config(tile_m=128, tile_n=64, tile_k=64, stages=3, warpgroups=2)
DEC, INC = "setmaxnreg.dec.sync.aligned.u32", "setmaxnreg.inc.sync.aligned.u32"


def run(body: str, registers: int | None = 128, threads: int = 256, apart: int | None = None) -> Machine:
    """Run `body` in a CTA launched with so many registers a thread."""
    counts = None if registers is None else {"kernel": registers}
    kernel = load(kernel_text(body), counts)["kernel"]
    x = torch.zeros(threads, dtype=torch.int32)
    params = (np.uint64(x.data_ptr()).tobytes(),) * 2
    launch = Launch("kernel", (2, 1, 1), (threads, 1, 1), (1, 1, 1), 0, params)
    grids = Grids.of_launch(kernel, launch, memory_of([x]))
    machine = Machine(kernel, grids, np.arange(2), Units(kernel.target), apart=apart)
    machine.run()
    return machine


# Warps 0 to 3 give registers away, after a long way or a short one; warps 4 to 7 want them.
SPLIT = f"""
    setp.ge.u32 %p0, %r0, 128;
    @%p0 bra CONSUMER;
    mov.b32 %r4, 0;
LATER:
    add.s32 %r4, %r4, 1;
    setp.lt.s32 %p1, %r4, {{turns}};
    @%p1 bra LATER;
    {DEC} {{kept}};
    bra DONE;
CONSUMER:
    {INC} {{wanted}};
DONE:
"""


@pytest.mark.parametrize("apart", [None, 1, 2])
def test_a_warpgroup_gets_what_another_gives(apart: int | None) -> None:
    machine = run(SPLIT.format(turns=1, kept=40, wanted=216), apart=apart)
    assert machine.registers_per_thread.reshape(2, 2, 4).tolist() == [[[40] * 4, [216] * 4]] * 2


@pytest.mark.parametrize("apart", [None, 1])
def test_it_waits_until_they_are_free(apart: int | None) -> None:
    soon, late = (run(SPLIT.format(turns=n, kept=40, wanted=216), apart=apart) for n in (1, 1000))
    assert late._finished[4:8].min() > 1000 > soon._finished.max()
    assert (late._finished[4:8] >= late._finished[:4].max()).all()


@pytest.mark.parametrize("apart", [None, 1])
def test_more_than_the_pool_has_is_a_deadlock(apart: int | None) -> None:
    """What a warp of 32 lanes lacks: 96 registers each. The others have released 80 each, of 128."""
    message = (
        rf"warp \d of CTA \([01], 0, 0\).* at PTX line \d+: `{INC} 224` waits for 3072 registers of its "
        r"CTA's pool, launched with 32768, of which 1024 are free"
    )
    with pytest.raises(Deadlock, match=message):
        run(SPLIT.format(turns=1, kept=48, wanted=224), apart=apart)


def test_a_launch_has_multiples_of_eight_registers() -> None:
    run(SPLIT.format(turns=1, kept=40, wanted=216), registers=121)
    with pytest.raises(Deadlock, match="launched with 30720"):
        run(SPLIT.format(turns=1, kept=40, wanted=216), registers=120)


ALONE = f"setp.lt.u32 %p0, %r0, 32; @!%p0 bra DONE; {DEC} 40; DONE:"
TWICE = f"setp.lt.u32 %p0, %r0, 32; {DEC} 64; @!%p0 bra DONE; {DEC} 40; {DEC} 32; DONE:"
APART = f"setp.lt.u32 %p0, %r0, 32; @%p0 bra FIRST;\n{DEC} 40; bra DONE;\nFIRST: {DEC} 40; DONE:"


@pytest.mark.parametrize(
    ("body", "threads", "message"),
    [
        (f"{INC} 120;", 256, "setmaxnreg to 120 by a warp that has 128 registers"),
        (f"{DEC} 136;", 256, "setmaxnreg to 136 by a warp that has 128 registers"),
        (f"{DEC} 16;", 256, "setmaxnreg 16: a multiple of 8 from 24 to 256"),
        (f"{INC} 260;", 256, "setmaxnreg 260: a multiple of 8 from 24 to 256"),
        (f"{DEC} 40;", 192, "setmaxnreg by a warpgroup of 2 warps: want 4"),
        (ALONE, 256, "warp 1 of its warpgroup exits without executing it"),
        (TWICE, 256, "setmaxnreg again, before all warps of the warpgroup have executed the last one"),
        (APART, 256, r"setmaxnreg by a warp whose warpgroup executes that of PTX line \d+"),
    ],
)
@pytest.mark.parametrize("apart", [None, 1])
def test_what_is_refused(body: str, threads: int, message: str, apart: int | None) -> None:
    with pytest.raises(SimulationError, match=f"{PLACE}: {message}"):
        run(body, threads=threads, apart=apart)


@pytest.mark.parametrize(("threads", "count", "fails"), [(384, 168, False), (384, 176, True)])
def test_registers_of_an_sm(threads: int, count: int, fails: bool) -> None:
    """Nobody says with how many the kernel is launched."""
    x = y = torch.zeros(threads, dtype=torch.int32)
    body = f"{INC} {count};"
    if not fails:
        run_ptx(body, x, y, threads=threads)
        return
    with pytest.raises(SimulationError, match=f"{PLACE}: .*ask for 67584 registers, an SM has 65536"):
        run_ptx(body, x, y, threads=threads)


@pytest.fixture(scope="module")
def router(compile_pool: CompilePool) -> Artifact:
    assert FusedSm90().illegal_reason(PROBLEM, CONFIG, "sm_90a") is None
    found = compile_pool.submit(FusedSm90(), PROBLEM, CONFIG, "sm_90a").result().artifact
    assert found is not None
    return found


def launch_edited(router: Artifact, folder: Path, pattern: str, replacement: str) -> None:
    """Run the router with the first match of `pattern` in its PTX replaced."""
    shutil.copytree(router.folder, folder)
    ptx = folder / "kernel.ptx"
    text, count = re.subn(pattern, replacement, ptx.read_text(), count=1)
    assert count == 1
    ptx.write_text(text)
    program = Program.of_folder(folder)
    program(*unread_arguments(Candidate.of_manifest(router.manifest, program), 256))


@pytest.mark.compiles
def test_a_router_whose_producer_keeps_its_registers(router: Artifact, tmp_path: Path) -> None:
    """Two warpgroups of 240 and one of 168 registers a thread are more than the CTA's 64512."""
    message = (
        rf"warp \d+ of CTA \(\d+, \d+, \d+\).* at PTX line \d+: `{re.escape(INC)} 240` waits for "
        r"2304 registers of its CTA's pool, launched with 64512, of which 0 are free"
    )
    launch_edited(router, tmp_path / "whole", rf"{DEC}\s+24;", r"\g<0>")
    with pytest.raises(Deadlock, match=message):
        launch_edited(router, tmp_path / "kept", rf"{DEC}\s+24;", "")


@pytest.mark.compiles
def test_a_router_whose_producer_takes_registers(router: Artifact, tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=f"{PLACE}: setmaxnreg to 176 by a warp that has 168 registers"):
        launch_edited(router, tmp_path / "more", rf"({DEC})\s+24;", r"\1 176;")

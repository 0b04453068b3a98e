"""Every defect planted in a compiled kernel is an error that names it, with the instruction, warp and CTA."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from harness.simulator.errors import Deadlock, SimulationError
from harness.simulator.grids import Grids
from harness.simulator.run import Program, execute, memory_of
from tests.harness.simulator.planting import Edit, planted
from tests.harness.simulator.routers import Operands
from tests.harness.simulator.tiny_kernels import TINY_KERNELS

pytestmark = pytest.mark.compiles
TOKENS = 130
# A warp, its CTA and the PTX line with the instruction.
PLACE = r"warp \d+ of CTA \(\d+, \d+, \d+\).* at PTX line \d+: `[^`]+`"


@dataclass(frozen=True)
class Fault:
    """`edits` of the kernel `name`, and the words (a regular expression) that the error must have."""

    name: str
    edits: tuple[Edit, ...]
    says: str
    kind: type[SimulationError] = SimulationError
    first_only: bool = True


NO_INIT = rf"{PLACE}: nothing orders the mbarrier\.init of the mbarrier at 0x[0-9a-f]+ of CTA .* before this"
WAIT_GROUP_1 = (r"wgmma\.wait_group\.sync\.aligned\s+1;", "")
FAULTS = {
    "missing arrive": Fault(
        "router_plain",
        ((r"^\s*mbarrier\.arrive\.shared\.b64.*$", ""),),
        r"waits for parity \d of the mbarrier at 0x[0-9a-f]+ of CTA .* 1 of 1 arrivals",
        Deadlock,
        first_only=False,
    ),
    "parity flipped": Fault(
        "router_plain",
        ((r"(try_wait\.parity\.shared\.b64 P1, \[%r\d+\]), 0,", r"\1, 1,"),),
        "asynchronous read of shared memory at 0x[0-9a-f]+, into which a tile load is still under way",
    ),
    "store one past the tensor": Fault(
        "router_plain",
        ((r"(st\.global\.b32\s+\[%rd\d+)\+20\]", r"\1+24]"),),
        "outside every tensor",
        first_only=False,
    ),
    "load far outside": Fault(
        "router_plain",
        ((r"(ld\.global\.b32\s+%r\d+, \[%rd\d+)\]", r"\1+1073741824]"),),
        "outside every tensor",
    ),
    "store outside shared memory": Fault(
        "router_plain",
        ((r"(st\.shared\.b32\s+\[%r\d+)\+308\]", r"\1+300000]"),),
        "outside the CTA's own bytes",
    ),
    "store into the system's shared memory": Fault(
        "router_plain", ((r"(st\.shared\.b32\s+\[%r\d+)\+-460\]", r"\1+-100000]"),), "shared address"
    ),
    "misaligned shared store": Fault(
        "router_plain",
        ((r"(st\.shared\.b32\s+\[%r\d+)\+308\]", r"\1+309]"),),
        "is not aligned to the 4 bytes",
    ),
    "misaligned global store": Fault(
        "router_plain", ((r"(st\.global\.b32\s+\[%rd\d+)\+20\]", r"\1+18]"),), "is not aligned to the 4 bytes"
    ),
    "a store left out": Fault(
        "router_plain", ((r"^\s*st\.shared\.b32\s+\[%r\d+\+308\].*$", ""),), "which nobody wrote"
    ),
    "transaction count too small": Fault(
        "router_plain",
        ((r"(mov\.b32\s+%r\d+), 16384;", r"\1, 16256;"),),
        "128 bytes arrived that were not expected",
        Deadlock,
    ),
    "transaction count too large": Fault(
        "router_plain", ((r"(mov\.b32\s+%r\d+), 16384;", r"\1, 16512;"),), "128 transaction bytes", Deadlock
    ),
    "two arrivals for one": Fault(
        "router_plain",
        ((r"(mbarrier\.arrive\.shared\.b64 %rd\d+, \[%r\d+\+\d+\]), %r\d+;", r"\1, 2;"),),
        "more arrivals on the mbarrier at 0x[0-9a-f]+ of CTA .* than the 4",
    ),
    "mbarrier not initialized": Fault(
        "router_plain",
        ((r"^\s*mbarrier\.init\.shared\.b64\s+\[%r\d+\+8\].*$", ""),),
        "no mbarrier was initialized at shared address 0x",
    ),
    "mbarrier initialized twice": Fault(
        "router_plain",
        ((r"^(\s*mbarrier\.init\.shared\.b64\s+\[%r\d+\+8\].*)$", r"\1 \1"),),
        "is initialized again without an mbarrier.inval",
    ),
    "store over an mbarrier": Fault(
        "router_plain",
        ((r"^(\s*fence\.mbarrier_init.*)$", r"\1 st.shared.b32 [%r1+8], 0;"),),
        "store over the mbarrier at 0x",
    ),
    "unknown opcode": Fault("router_plain", ((r"elect\.sync", "elected.sync"),), "elected"),
    "unknown modifier of a register operation": Fault(
        "router_plain", ((r"setp\.(\w+)\.s32", r"setp.\1.twice.s32"),), r"unknown modifier \.twice"
    ),
    "unknown modifier of a store": Fault(
        "router_plain", ((r"st\.shared\.b32", "st.shared.twice.b32"),), r"unknown modifier \.twice"
    ),
    "accumulator read in flight": Fault(
        "router_plain", ((r"wgmma\.wait_group\.sync\.aligned\s+0;", ""),), "an accumulator in flight"
    ),
    "stage released too early": Fault(
        "router_plain",
        (WAIT_GROUP_1,),
        "a tile load of 8192 bytes .* which a wgmma of warpgroup 1 still reads",
    ),
    "named barrier for fewer": Fault(
        "router_plain",
        ((r"bar\.sync\s+1, 128;", "bar.sync 1, 96;"),),
        "128 threads arrive at named barrier 1",
    ),
    "no such named barrier": Fault(
        "router_plain", ((r"bar\.sync\s+1, 128;", "bar.sync 16, 128;"),), "named barrier 16: from 0 to 15"
    ),
    "registers beyond the instruction's range": Fault(
        "router_plain", ((r"(setmaxnreg\.inc\S+)\s+240;", r"\1 264;"),), "setmaxnreg 264"
    ),
    "no cluster barrier before the exit": Fault(
        "router_cluster",
        (
            (
                r"barrier\.cluster\.arrive\.relaxed;\s*barrier\.cluster\.wait;(?=\s*(?://.*\s*)*(?:ret;|\$L))",
                "",
            ),
        ),
        rf"CTA \(\d+, \d+, \d+\): it exits, and nothing orders before that an access by {PLACE} in its",
        first_only=False,
    ),
    "no cluster barrier behind the mbarriers' initialization": Fault(
        "router_cluster",
        ((r"barrier\.cluster\.arrive\.relaxed;\s*barrier\.cluster\.wait;", ""),),
        NO_INIT,
    ),
    "mbarriers initialized without a fence": Fault(
        "router_cluster", ((r"fence\.mbarrier_init\.release\.cluster;", ""),), NO_INIT, first_only=False
    ),
    "rank outside the cluster": Fault(
        "router_cluster",
        ((r"(mapa\.shared::cluster\.u32\s+%r\d+, %r\d+), %r\d+;", r"\1, 9;"),),
        "rank 9 of a cluster of 2",
    ),
}


def error_of(program: Program, operands: Operands) -> SimulationError:
    with pytest.raises(SimulationError) as caught:
        operands.launch(program)
    return caught.value


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_faults_are_named(compiled: dict[str, Path], fault: Fault) -> None:
    program = planted(compiled["sm_90a"] / fault.name, *fault.edits, count=int(fault.first_only))
    error = error_of(program, Operands(fault.name, TOKENS))
    assert isinstance(error, fault.kind)
    assert "\n" not in str(error)
    assert re.search(fault.says, str(error)), str(error)
    assert re.search(PLACE, str(error)), str(error)


def test_a_missing_proxy_fence_is_named(compiled: dict[str, Path]) -> None:
    kernel = TINY_KERNELS["tma_store_f32_128"]
    program = planted(compiled["sm_90a"] / kernel.name, (r"^\s*fence\.proxy\.async.*$", ""))
    with pytest.raises(SimulationError, match=f"{PLACE}.*without a fence.proxy.async behind it"):
        program(*kernel.make(0))


def test_a_fence_before_the_stores_does_not_count(compiled: dict[str, Path]) -> None:
    kernel = TINY_KERNELS["tma_store_f32_128"]
    program = planted(
        compiled["sm_90a"] / kernel.name,
        (r"^\s*fence\.proxy\.async.*$", ""),
        (r"^(\s*mov\.[bu]32\s+%r\d+, %tid\.x;)", r"\1 fence.proxy.async.shared::cta;"),
    )
    with pytest.raises(SimulationError, match=r"without a fence\.proxy\.async behind it"):
        program(*kernel.make(0))


def test_a_read_before_the_load_arrives_is_named(compiled: dict[str, Path]) -> None:
    kernel = TINY_KERNELS["tma_load_f32_128"]
    edit = (r"(try_wait\.parity\.shared\.b64 P1, \[%r\d+\]), 0,", r"\1, 1,")
    program = planted(compiled["sm_90a"] / kernel.name, edit)
    with pytest.raises(
        SimulationError, match=f"{PLACE}: read of shared memory at 0x.*tile load is still under way"
    ):
        program(*kernel.make(0))


@pytest.mark.parametrize("name", ["tma_store_f32_128", "tma_load_f32_128"])
def test_a_tensor_map_beyond_the_tensor_is_named(compiled: dict[str, Path], name: str) -> None:
    """The descriptor says how many rows there are; the memory behind it ends a row earlier."""
    kernel = TINY_KERNELS[name]
    program = Program.of_folder(compiled["sm_90a"] / name)
    x, y = kernel.make(0)
    memory = memory_of([x[:-1], y] if "load" in name else [x, y[:-1]])
    (launch,) = program.recorder.record([x, y])
    kernel_of_launch = program.kernels[launch.kernel]
    with pytest.raises(
        SimulationError, match=f"{PLACE}: global address 0x[0-9a-f]+, .* outside every tensor"
    ):
        execute(kernel_of_launch, Grids.of_launch(kernel_of_launch, launch, memory))


def test_what_is_not_planted_runs(compiled: dict[str, Path]) -> None:
    for name in {fault.name for fault in FAULTS.values()}:
        operands = Operands(name, TOKENS)
        operands.launch(planted(compiled["sm_90a"] / name, (r"ret;", "ret;")))
        assert operands.mismatch() == ""
        assert torch.isfinite(operands.weights).all()

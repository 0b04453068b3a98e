"""The micro-benchmarks: table entries follow from the published results, and the simulator repeats them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import ChainMap
from pathlib import Path

import pytest

from harness.provenance import PROJECT_ROOT
from harness.simulator.errors import SimulationError
from harness.simulator.microbench import patterns
from harness.simulator.microbench.apply import rewrite
from harness.simulator.microbench.catalogue import catalogue
from harness.simulator.microbench.entries import ENTRIES, Direct, Shifted
from harness.simulator.microbench.results import Results
from harness.simulator.target import TABLES, target_named

PUBLISHED = [
    PROJECT_ROOT / f"results/published/{folder}/microbench.json"
    for folder in (
        "2026-11-24-h100-microbench",
        "2026-11-25-h100-microbench-clusters",
        "2026-11-28-h200-microbench",
        "2026-11-29-h200-microbench-patterns",
        "2026-11-29-h200-microbench-gaps",
    )
]
MICROS = {micro.name: micro for micro in catalogue()}

# Nothing was fitted to these: what the model makes of the entries that others gave.
PREDICTED = [
    ("bar_sync_384", "bar", 0, 0.05),
    ("cluster_release_2", "cluster", 0, 0.05),
    ("chase_cluster", "cluster", 0, 0.05),
    ("wgmma_n16_steps4_left1_groups1", "wgmma", 0, 0.08),
    ("wgmma_n64_steps16_left0_groups1", "wgmma", 0, 0.08),
    ("wgmma_n192_steps4_left1_groups2", "wgmma", 0, 0.05),
    ("cluster_rows_8", "one", 0, 0.05),
    ("cluster_lists_4", "one", 0, 0.05),
    ("tma_tile_rows128_stages1", "l2", 0, 0.05),
    ("tma_tile_rows128_stages1", "dram", 0, 0.05),
    ("tma_burst_rows16_tiles12", "l2", 1, 0.05),
    ("tma_burst_multicast8_rows16_tiles12", "l2", 1, 0.05),
    ("latency_div_rn", "div_rn", 0, 0.05),
    ("issue_setp_3_selp", "setp_3_selp", 0, 0.05),
    ("pattern_st_rows1_bytes4", "one_16", 0, 0.05),
    ("pattern_st_rows16_bytes16", "one_16", 0, 0.15),
    ("pattern_st_rows32_bytes16", "one_16", 0, 0.05),
    ("pattern_st_rows1_bytes4_every24", "one_16", 0, 0.05),
    ("pattern_st_rows1_bytes16_every32", "one_16", 0, 0.05),
    ("pattern_ld_cg_rows8_bytes16", "one_16", 0, 0.15),
    ("pattern_ld_cg_rows32_bytes4", "one_16", 0, 0.25),
]
STORED = [patterns.Pattern(1, 4), patterns.Pattern(16, 16), patterns.Pattern(32, 16)]
LOADED = [patterns.Pattern(1, 1), patterns.Pattern(8, 8), patterns.Pattern(32, 4)]


@pytest.fixture(scope="module")
def simulated() -> dict[tuple[str, str, int], float]:
    """Cycles by micro, run and column. The DSL compiles for one target a process: a child of ours does it."""
    wanted = [(e.micro, e.run, e.column) for e in ENTRIES if isinstance(e, Shifted)]
    wanted += [(name, run, column) for name, run, column, _ in PREDICTED]
    wanted += [(pattern.micro("st"), "one_16", column) for pattern in STORED for column in (0, 1)]
    wanted += [(pattern.micro("ld_cg"), "one_1", 0) for pattern in LOADED]
    child = [sys.executable, "-m", "tests.harness.simulator.microbench_cycles"]
    done = subprocess.run(child, input=json.dumps(wanted), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(wanted, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.fixture(scope="module")
def results() -> Results:
    """Of all days; what several measured, as on the first."""
    found = [Results.read(path).raw for path in PUBLISHED]
    return Results(found[0] | {"results": dict(ChainMap(*(one["results"] for one in found)))})


@pytest.fixture(scope="module")
def devices() -> dict[str, str]:
    """By micro, the GPU that `results` has it of."""
    found = [Results.read(path).raw for path in reversed(PUBLISHED)]
    return {name: raw["device"].removeprefix("NVIDIA ") for raw in found for name in raw["results"]}


def test_names_are_unique_and_all_were_measured(results: Results) -> None:
    assert len(MICROS) == len(catalogue())
    assert set(results.raw["results"]) == set(MICROS)
    for name, runs in results.raw["results"].items():
        assert set(runs) == {run.name for run in MICROS[name].runs}


@pytest.mark.parametrize("entry", [e for e in ENTRIES if isinstance(e, Direct)], ids=lambda e: e.entry)
def test_the_table_holds_what_was_measured(entry: Direct, results: Results, devices: dict[str, str]) -> None:
    table = target_named("sm_90a")
    section, _, name = entry.entry.partition(".")
    assert getattr(table, section)[name] == pytest.approx(entry.value(results), rel=1e-3)
    # Some entries name their micros by what these have in common; all of those are of the first day.
    first, *_ = entry.micro.split(", ")
    device = devices.get(first, devices["clock"])
    assert table.sources[entry.entry].startswith(f"measured: {device}, ")


@pytest.mark.parametrize("entry", [e for e in ENTRIES if isinstance(e, Shifted)], ids=lambda e: e.entry)
def test_the_simulator_takes_as_long_as_the_device(
    entry: Shifted, results: Results, simulated: dict[tuple[str, str, int], float]
) -> None:
    cycles = simulated[entry.micro, entry.run, entry.column]
    assert cycles == pytest.approx(results.cycles(entry.micro, entry.run, entry.column), rel=0.06)


@pytest.mark.parametrize(("name", "run", "column", "within"), PREDICTED)
def test_the_model_predicts_other_micros(
    name: str,
    run: str,
    column: int,
    within: float,
    results: Results,
    simulated: dict[tuple[str, str, int], float],
) -> None:
    cycles = simulated[name, run, column]
    assert cycles == pytest.approx(results.cycles(name, run, column), rel=within)


@pytest.mark.parametrize("pattern", STORED, ids=lambda pattern: pattern.name)
def test_a_fence_waits_behind_the_stores(
    pattern: patterns.Pattern, simulated: dict[tuple[str, str, int], float]
) -> None:
    issued, performed = (simulated[pattern.micro("st"), "one_16", column] for column in (0, 1))
    fence = target_named("sm_90a").stall_of("fence.acq_rel.gpu")
    assert performed - issued == pytest.approx(fence, rel=0.25)


@pytest.mark.parametrize("pattern", LOADED, ids=lambda pattern: pattern.name)
def test_loads_of_a_turn_wait_together(
    pattern: patterns.Pattern, simulated: dict[tuple[str, str, int], float]
) -> None:
    """Of one warp: a turn takes the latency of one load, and what the others need to issue."""
    latency = target_named("sm_90a").latency_of("ld.global")
    turn = simulated[pattern.micro("ld_cg"), "one_1", 0] / patterns.WARP_TURNS
    assert latency < turn < 1.3 * latency


def test_rewriting_replaces_and_adds_entries(tmp_path: Path) -> None:
    path = tmp_path / "table.toml"
    shutil.copy(TABLES / "sm_90a.toml", path)
    before = path.read_text().splitlines()
    rewrite(path, {"chip.sm_bytes": 99.0, "latency.redux": 45.0}, "a device,")
    after = path.read_text().splitlines()
    changed = sorted(set(after) - set(before))
    assert [line.partition(",")[0] for line in changed] == [
        '"redux" = { value = 45',
        "sm_bytes = { value = 99",
    ]
    assert len(after) == len(before)


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"schema": "other/1"})])
def test_another_file_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(SimulationError, match=r"other\.json") as caught:
        Results.read(path)
    assert "\n" not in str(caught.value)


def test_no_micro_has_an_escape_left_in_its_ptx() -> None:
    assert not [micro.name for micro in catalogue() if "\\" in micro.body]

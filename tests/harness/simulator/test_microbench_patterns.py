"""The micro-benchmarks of access patterns: which lines, sectors and bytes their instructions touch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.simulator import effects_memory
from harness.simulator.cohort import Cohort
from harness.simulator.microbench import patterns
from harness.simulator.microbench.micro import (
    OUT_COLUMNS,
    PARAMETERS,
    SOURCE_COLUMNS,
    SOURCE_ROWS,
    Micro,
    Run,
)
from harness.simulator.microbench.patterns import GAPS, INSTRUCTIONS, PATTERNS, WARPS, Pattern
from tests.harness.simulator.raw_ptx import run_ptx

MICROS = {micro.name: micro for micro in patterns.micros()}
ALL = (*PATTERNS, *GAPS)
CASES = [
    pytest.param(op, one, id=f"{op}_{one.name}")
    for op in INSTRUCTIONS
    for one in (ALL if op == "st" else PATTERNS)
]
TURNS = 2  # and the one before them, which is not timed
CTAS = 2  # of runs of many
# What the widest pattern reaches where its places move on before each turn.
SOURCE = torch.zeros((TURNS + 2) * WARPS * max(one.warp_bytes for one in ALL), dtype=torch.uint8)
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Seen:
    """Byte addresses, relative to the source's, by CTA, warp of it and instruction: [accesses][bytes]."""

    first: int
    end: int
    accesses: dict[tuple[int, int], list[Array]] = field(default_factory=lambda: defaultdict(list))

    def note(self, c: Cohort, active: Any, address: Any, size: int) -> None:
        places = c.lanes(np.asarray(address, np.uint64)).astype(np.int64)
        chosen = c.active(active)
        for warp, row, mine, lanes in zip(c.warps, c.rows, places, chosen, strict=True):
            inside = mine[lanes & (mine >= self.first) & (mine < self.end)] - self.first
            if len(inside):
                touched = (inside[:, None] + np.arange(size)).reshape(-1)
                self.accesses[int(row), int(warp) % WARPS].append(touched)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What loads and stores touch of the `SOURCE` tensor."""
    seen = Seen(SOURCE.data_ptr(), SOURCE.data_ptr() + SOURCE.numel())
    load, store = effects_memory.load_global, effects_memory.store_global

    def noted_load(c: Cohort, m: Any, address: Any, size: int, count: int) -> Any:
        seen.note(c, m, address, size * count)
        return load(c, m, address, size, count)

    def noted_store(c: Cohort, active: Any, address: Any, items: tuple[Any, ...], size: int) -> None:
        seen.note(c, active, address, size * len(items))
        store(c, active, address, items, size)

    monkeypatch.setattr(effects_memory, "load_global", noted_load)
    monkeypatch.setattr(effects_memory, "store_global", noted_store)
    return seen


def execute(micro: Micro, run: Run) -> None:
    """The micro's PTX as `kernel.execute` frames it, for a few turns and CTAs of a run."""
    values = [TURNS, *run.parameters[1:]]
    values += [0] * (PARAMETERS - len(values))
    body = f"""{{
.reg .b64 out, src;
.reg .b32 tid, {", ".join(f"p{number}" for number in range(PARAMETERS))};
mad.wide.u32 out, %r1, {8 * OUT_COLUMNS}, %rd0;
mov.b64 src, %rd1;
mov.u32 tid, %r0;
{"".join(f"mov.b32 p{number}, {value};" for number, value in enumerate(values))}
{micro.body}
}}"""
    run = replace(run, ctas=min(run.ctas, CTAS))
    out = torch.zeros(run.ctas, OUT_COLUMNS, dtype=torch.int64)
    run_ptx(body, out, SOURCE, threads=micro.threads, ctas=run.ctas)
    assert (out[:, 0] > 0).all()


def distinct(places: Array, unit: int) -> set[int]:
    return set((places // unit).tolist())


@pytest.mark.parametrize(("op", "pattern"), CASES)
def test_an_access_touches_the_lines_and_sectors_of_its_pattern(
    op: str, pattern: Pattern, seen: Seen
) -> None:
    micro = MICROS[pattern.micro(op)]
    execute(micro, next(run for run in micro.runs if run.name == "one_16"))
    assert len(seen.accesses) == WARPS
    for accesses in seen.accesses.values():
        assert len(accesses) == (TURNS + 1) * pattern.accesses
        for touched in accesses:
            assert len(set(touched.tolist())) == 32 * pattern.lane_bytes
            assert len(distinct(touched, 128)) == pattern.lines
            assert len(distinct(touched, 32)) == pattern.sectors


@pytest.mark.parametrize(("op", "pattern"), CASES)
def test_runs_touch_what_their_names_say(op: str, pattern: Pattern, seen: Seen) -> None:
    for run in MICROS[pattern.micro(op)].runs:
        seen.accesses.clear()
        execute(MICROS[pattern.micro(op)], run)
        kind, _, count = run.name.rpartition("_")
        warps = int(count) if run.ctas == 1 else WARPS
        ctas = min(run.ctas, CTAS)
        assert set(seen.accesses) == {(cta, warp) for cta in range(ctas) for warp in range(warps)}
        # By CTA and turn: no two accesses of it share a sector.
        sectors = [
            [
                [
                    sector
                    for warp in range(warps)
                    for touched in seen.accesses[cta, warp][turn * pattern.accesses :][: pattern.accesses]
                    for sector in distinct(touched, 32)
                ]
                for turn in range(TURNS + 1)
            ]
            for cta in range(ctas)
        ]
        each = warps * pattern.accesses * pattern.sectors
        assert all(len(turn) == len(set(turn)) == each for turns in sectors for turn in turns)
        assert each * 32 <= WARPS * patterns.TURN_BYTES
        of_ctas = [set().union(*turns) for turns in sectors]
        assert len(of_ctas[0]) == each * (TURNS + 1 if kind.startswith("new") else 1)
        if kind == "own":
            assert not of_ctas[0] & of_ctas[1]
        elif run.ctas > 1:
            assert of_ctas[0] == of_ctas[1]


@pytest.mark.parametrize("micro", MICROS.values(), ids=lambda micro: micro.name)
def test_all_places_of_a_run_lie_in_the_source(micro: Micro) -> None:
    pattern = next(one for one in ALL if micro.name.endswith(f"_{one.name}"))
    for run in micro.runs:
        turns, between, _, moved = run.parameters
        reached = (run.ctas - 1) * between + (turns + 1) * moved + WARPS * pattern.warp_bytes
        assert reached <= 2 * SOURCE_ROWS * SOURCE_COLUMNS


def test_patterns_differ_in_what_they_touch_and_have_all_numbers_of_lines() -> None:
    assert {one.lines for one in PATTERNS} == {1, 2, 4, 8, 16, 32}
    assert len({(one.lines, one.sectors, one.lane_bytes) for one in PATTERNS}) == len(PATTERNS)
    # As many lines with few sectors and with many: what each costs.
    assert {(1, 1), (1, 4), (32, 32), (4, 16), (8, 8), (8, 16)} <= {
        (one.lines, one.sectors) for one in PATTERNS
    }

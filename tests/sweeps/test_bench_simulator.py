"""The benchmark of the simulator in a cache that holds nothing: it compiles for two targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kernels.problem import preset
from sweeps import bench_simulator


@pytest.mark.compiles
def test_both_targets_are_timed_from_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTERTUNE_CACHE", str(tmp_path))
    small = replace(preset("deepseek-v4-pro"), hidden=512)
    monkeypatch.setattr(bench_simulator, "preset", lambda name: small)
    for name in bench_simulator.FAMILIES:
        cost = bench_simulator.simulator_cost(name)
        assert min(cost.launch_s, cost.check_s, cost.times_s) > 0

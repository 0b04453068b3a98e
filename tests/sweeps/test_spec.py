"""A sweep's description: what it says, and one line for whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernels.families import family
from kernels.problem import PRESETS, RouterProblem
from sweeps.errors import SpecError
from sweeps.space import Space
from sweeps.spec import load_spec, preset_names

MINIMAL = 'problem = "kimi-k2"\nfamily = "fused_sm90"\n'


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_defaults_fill_what_is_not_said(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, MINIMAL))
    assert spec.name == "mine"
    assert spec.problem == PRESETS["kimi-k2"]
    assert spec.objective_m_values == spec.m_values
    assert spec.baseline.enabled


def test_everything_can_be_said(tmp_path: Path) -> None:
    text = """
        name = "all"
        problem = { hidden = 64, experts = 16, top_k = 2, score = "sigmoid" }
        family = "fused_sm90"
        m_values = [1, 8]
        [parameters]
        tile = [8, 16]
        mode = ["split"]
        [search]
        sampler = "tpe"
        trials = 3
        minutes = 0.5
        [objective]
        metric = "warm"
        m_values = [8]
        [baseline]
        enabled = false
        [confirm]
        rounds = 0
    """
    spec = load_spec(write(tmp_path, text))
    assert spec.problem == RouterProblem("custom", 64, 16, 2, score="sigmoid")  # type: ignore[arg-type]
    assert spec.parameters == {"tile": (8, 16), "mode": ("split",)}
    assert (spec.search.sampler, spec.search.trials, spec.search.minutes) == ("tpe", 3, 0.5)
    assert (spec.objective.metric, spec.objective_m_values) == ("warm", (8,))


def test_overrides_are_checked_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert load_spec(path, {"search.trials": 5, "problem": "qwen3-moe"}).problem == PRESETS["qwen3-moe"]
    with pytest.raises(SpecError, match="trials = 0: must be at least 1"):
        load_spec(path, {"search.trials": 0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("problem = \n", r"malformed TOML: Invalid value \(at line 1, column 11\)"),
        (MINIMAL + "[search]\ntrials = 1\ntrials = 2\n", r"malformed TOML: .*line 5"),
        ('problem = "gpt"\nfamily = "fused_sm90"\n', "unknown preset 'gpt': known are deepseek-v4-pro, "),
        ('family = "fused_sm90"\n', "missing required field `problem`"),
        (MINIMAL.replace("sm90", "sm91"), "unknown kernel family 'fused_sm91': known are fused_sm90, "),
        (MINIMAL + '[baseline]\nfamily = "two"\n', "unknown kernel family 'two': known are fused_sm90, "),
        (MINIMAL + "[baseline]\nconfig = {foo = 7}\n", "two_kernel_sm90 has no parameter 'foo': it has "),
        (MINIMAL + "search = 3\n", "Expected `object`, got `int` - at `search`"),
        (MINIMAL + "[search]\nseed = -1\n", "seed = -1: must be from 0 to 4294967295"),
        (MINIMAL + "[search]\nminutes = inf\n", "minutes = inf: must be positive"),
        (MINIMAL + "[search]\nexhaustive_limit = -5\n", "exhaustive_limit = -5: must not be negative"),
        (MINIMAL + "trails = 1\n", "unknown key 'trails': known are problem, family, name, "),
        (MINIMAL + "[search]\ntrails = 1\n", "unknown key 'search.trails': known are sampler, "),
        (
            'family = "fused_sm90"\nproblem = { hiden = 64 }\n',
            "unknown key 'problem.hiden': known are name, hidden",
        ),
        (MINIMAL + '[search]\ntrials = "many"\n', r"Expected `int \| null`, got `str` - at `search.trials`"),
        (MINIMAL + '[search]\nsampler = "grid"\n', "Invalid enum value 'grid' - at `search.sampler`"),
        (MINIMAL + "m_values = [16, 1]\n", r"m_values = \[16, 1\]: must be positive and strictly ascending"),
        (MINIMAL + "m_values = []\n", r"m_values = \[\]: must be positive"),
        (MINIMAL + "[objective]\nm_values = [3]\n", "objective.m_values: 3 is not in m_values"),
        (MINIMAL + 'name = "../x"\n', r"name = '\.\./x': only letters"),
        (MINIMAL + "[confirm]\nrounds = -1\n", "rounds = -1: must not be negative"),
        (
            'family = "fused_sm90"\nproblem = { hidden = 65, experts = 16, top_k = 2 }\n',
            "hidden = 65: must be a positive multiple of 16",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_not_utf8_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match=r"mine\.toml: "):
        load_spec(str(path))


def test_an_unknown_name_is_refused_with_the_committed_ones() -> None:
    with pytest.raises(SpecError, match="no sweep 'defualt': neither a file nor one of default, "):
        load_spec("defualt")


@pytest.mark.parametrize("name", preset_names())
def test_committed_sweeps_are_valid_and_their_spaces_not_empty(name: str) -> None:
    spec = load_spec(name)
    space = Space(family(spec.family), spec.problem, spec.target, spec.parameters)
    assert spec.target in family(spec.baseline.family).targets
    assert len(space) >= 60


def test_the_main_job_is_what_make_sweep_promises() -> None:
    spec = load_spec("default")
    assert spec.problem == PRESETS["deepseek-v4-pro"]
    assert spec.m_values == (1, 16, 64, 512, 1024, 4096, 16384)
    assert spec.search.trials is not None
    assert spec.search.trials >= 60


def test_every_router_preset_has_a_sweep() -> None:
    swept: set[Any] = {load_spec(name).problem for name in preset_names()}
    assert swept == set(PRESETS.values())


def test_the_simulator_has_limits_of_its_own_and_confirms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(
        'problem = "kimi-k2"\nfamily = "fused_sm90"\n[search]\ntrials = 90\nminutes = 50\n'
        "[simulator]\nminutes = 3\n"
    )
    spec = load_spec(str(path))
    assert (spec.search.trials, spec.search.minutes, spec.confirm.rounds) == (90, 50, 3)
    simulated = spec.for_simulator()
    assert (simulated.search.trials, simulated.search.minutes, simulated.confirm.rounds) == (90, 3, 0)
    with pytest.raises(SpecError, match=r"minutes = 0\.0: must be positive - at `simulator`"):
        load_spec(str(path), {"simulator.minutes": 0})

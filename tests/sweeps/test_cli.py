"""Every mistake is one line and has its own exit status; the chain from a store to an export works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kernels.dispatch_table import load_table, save_table
from sweeps.cli import main
from tests.sweeps.toy_driver import Sweep
from tests.sweeps.toys import M_VALUES, ToyExecutor, toy_record

ROOT = Path(__file__).parents[2]
# A few configs, so that whatever enumerates the space takes milliseconds.
SMALL = """
problem = "deepseek-v4-pro"
family = "fused_sm90"
m_values = [1, 64]
[parameters]
tile_m = [64]
tile_k = [64]
stages = [4]
cluster_m = [1]
split_k = [1]
warpgroups = [1]
[search]
trials = 2
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands write below the current folder, and here `auto` finds no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("ROUTERTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ROUTERTUNE_BEST", str(tmp_path / "installed"))
    (tmp_path / "installed").mkdir()
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "search.toml").write_text("search = 3\n" + SMALL.partition("[search]")[0])
    (tmp_path / "many-tokens.toml").write_text(SMALL.replace("64]", "65537]", 1))
    (tmp_path / "hidden-16.toml").write_text(
        'family = "fused_sm100"\ntarget = "sm_100a"\nproblem = { hidden = 16, experts = 1, top_k = 1 }\n'
    )
    (tmp_path / "empty").write_text("")
    (tmp_path / "broken.toml").write_text("problem = \n")
    (tmp_path / "no-such-choice.toml").write_text(SMALL.replace("tile_k = [64]", "tile_k = [65]"))
    (tmp_path / "no-such-family.toml").write_text(SMALL.replace("fused_sm90", "fused_sm91"))
    (tmp_path / "file").write_text("not a folder, not a database")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("swep", 2, "No such command 'swep'"),
        ("sweep --trials many", 2, "'many' is not a valid integer"),
        ("sweep --spec nosuch", 3, "no sweep 'nosuch': neither a file nor one of default, "),
        ("sweep --spec broken.toml", 3, "broken.toml: malformed TOML: Invalid value (at line 1, column 11)"),
        ("sweep --spec no-such-choice.toml", 3, "tile_k cannot be 65: its choices are"),
        ("sweep --spec small.toml --problem gpt", 3, "error: --problem: unknown preset 'gpt': known are "),
        ("sweep --spec small.toml --target sm_1", 3, "fused_sm90 has no target 'sm_1': it has sm_90a"),
        (
            "sweep --spec no-such-family.toml",
            3,
            "no-such-family.toml: unknown kernel family 'fused_sm91': known",
        ),
        ("verify --hidden 7 --out v.jsonl", 3, "error: --hidden: hidden = 7: must be a positive multiple of"),
        ("verify --hidden 40000 --out v.jsonl", 2, "'--hidden': 40000 is not in the range 1<=x<=32768"),
        ("verify --on-gpu --out v.jsonl", 5, "--on-gpu: no NVIDIA GPU of compute capability 10.0 is visible"),
        (
            "verify --on-gpu --check full --out v.jsonl",
            2,
            "--on-gpu and --check exclude each other: leave one",
        ),
        ("verify --shard ²/3 --out v.jsonl", 2, "'²/3' is not I/N with I below N"),
        ("verify --minutes nan --out v.jsonl", 2, "'--minutes': 'nan' is not a number of minutes"),
        ("verify --configs 0 --out v.jsonl", 2, "'--configs': 0 is not in the range x>=1"),
        ("verify --jobs 5000 --out v.jsonl", 2, "'--jobs': 5000 is not in the range 1<=x<=1024"),
        ("verify --problem gpt --out v.jsonl", 3, "unknown preset 'gpt': known are deepseek-v4-pro, "),
        ("verify --family fused --out v.jsonl", 3, "unknown kernel family 'fused': known are fused_sm90, "),
        ("ablate --problem gpt --out a.jsonl", 3, "unknown preset 'gpt': known are deepseek-v4-pro, "),
        ("ablate --m 1,x --out a.jsonl", 2, "'1,x' is not numbers of tokens with commas, such as 1,16,"),
        ("ablate --m 0 --out a.jsonl", 2, "'0' is not numbers of tokens"),
        ("ablate --m 1,100000 --out a.jsonl", 2, "'--m': 100000 is not in the range 1<=x<=65536"),
        ("ablate --seed -1 --out a.jsonl", 2, "'--seed': -1 is not in the range x>=0"),
        ("simulate --m 1000000", 2, "'--m': 1000000 is not in the range 1<=x<=65536"),
        ("simulate --family gpt", 3, "error: --family: unknown kernel family 'gpt': known are fused_sm90, "),
        ("simulate --spec hidden-16.toml", 3, "custom: no default config is legal (hidden = 16: "),
        ("check-config --spec hidden-16.toml", 3, "custom: no default config is legal (hidden = 16: "),
        (
            "sweep --spec many-tokens.toml",
            3,
            "many-tokens.toml: m_values: 65537 tokens are too many: at most 65536",
        ),
        ("sweep --spec search.toml --trials 3", 3, "search.toml: Expected `object`, got `int` - at `search`"),
        ("sweep --spec small.toml --trials 0", 2, "'--trials': 0 is not in the range x>=1"),
        ("sweep --spec small.toml --minutes nan", 2, "'--minutes': 'nan' is not a number of minutes"),
        ("collect empty --spec small.toml", 7, "empty: holds no records"),
        ("sweep --spec small.toml --storage file/x.db", 4, "file/x.db: cannot be written"),
        ("sweep --spec small.toml --storage file", 4, "file: not a usable storage"),
        ("sweep --spec small.toml --storage nosuch://x", 4, "nosuch://x: not a usable storage"),
        (
            "sweep --spec small.toml --executor simulator --quantize",
            3,
            "quantize = true: only a GPU can time",
        ),
        ("sweep --spec small.toml --storage sqlite://", 4, "sqlite://: kept in memory, all would be lost"),
        ("sweep --spec small.toml --storage :memory:", 4, ":memory:: kept in memory, all would be lost"),
        ("sweep --spec small.toml --storage x\udcff.db", 4, "'x\\udcff.db': not UTF-8, and the database"),
        ("sweep --spec small.toml --study ../x", 4, "--study '../x': only letters, digits, '.', '_' and '-'"),
        ("sweep --spec small.toml --executor cuda", 5, "no NVIDIA GPU is visible"),
        ("sweep --spec small.toml --cache file", 6, "cannot write the artifact cache"),
        ("status", 4, "runs/ holds no sweep: run `routertune sweep` first"),
        ("plot --study nosuch", 4, "runs/nosuch.db: no such store: run a sweep first"),
        ("export --storage file", 4, "file: not a usable storage"),
        ("check-config --spec small.toml tile=1", 3, "fused_sm90 has no parameter 'tile': it has tile_m"),
        ("check-config --spec small.toml tile_m=1", 3, "tile_m cannot be '1': its choices are "),
    ],
)
def test_a_mistake_is_one_line_with_its_own_exit_status(command: str, status: int, message: str) -> None:
    result = run(*command.split())
    assert result.exit_code == status, result.output
    line = result.stderr.splitlines()[-1]
    assert message in line
    assert "Traceback" not in result.stderr
    if status != 2:  # click's own usage errors come with the usage
        assert line.startswith("error: ")
        assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not Path("runs").exists(), "a later command would take what is there for the last sweep"


@pytest.mark.parametrize(
    "mistake",
    [
        *(f"--storage {storage}" for storage in ("file", "file/x.db", "sqlite://", "nosuch://x")),
        "--study ../x",
        "--cache file",
    ],
)
def test_no_executor_is_started_for_a_mistake_that_shows_without(
    mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("sweeps.run.make_executor")
    result = run("sweep", "--spec", "small.toml", *mistake.split())
    assert result.exit_code in {4, 6}, result.output


def test_debug_shows_the_traceback() -> None:
    result = run("--debug", "sweep", "--spec", "nosuch")
    assert type(result.exception).__name__ == "SpecError"


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.spec.load_spec", lambda *_: 1 / 0)
    assert isinstance(run("space").exception, ZeroDivisionError)


@pytest.mark.parametrize("command", list(main.commands))
def test_every_command_has_help_with_examples(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"  routertune {command}" in result.output.split("Examples:")[1]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sweeps.cli import main\n"
        "try: main(['sweep', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'optuna', 'cutlass', 'pandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_mistake_in_a_real_process_leaves_one_line_and_the_status() -> None:
    command = [sys.executable, "-m", "sweeps.cli", "sweep", "--spec", "nosuch"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("error: no sweep 'nosuch'")
    assert done.stderr.count("\n") == 1


def test_space_and_check_config() -> None:
    shown = run("space", "--spec", "small.toml")
    assert shown.exit_code == 0
    assert "legal of" in shown.output
    assert run("check-config", "--spec", "small.toml").output.endswith("legal\n")
    illegal = run("check-config", "--spec", "small.toml", "tile_n=384", "warpgroups=1")
    assert "illegal: " in illegal.output


def test_the_chain_from_a_store_to_an_installed_table() -> None:
    Path("runs").mkdir()
    Sweep(Path("runs/toy.db"), executor=ToyExecutor()).run()

    status = run("status")
    assert status.exit_code == 0, status.output
    assert "configs: " in status.output
    assert "ms per trial" in status.output

    assert (plot := run("plot")).exit_code == 0, plot.output
    assert all(Path(line).is_file() for line in plot.stdout.splitlines())
    assert (report := run("report")).exit_code == 0, report.output
    assert Path(report.stdout.strip()).is_file()

    export = run("export", "--install", "--storage", "runs/toy.db", "--study", "toy")
    assert export.exit_code == 0, export.output
    (installed,) = Path("installed").iterdir()
    assert re.fullmatch(r"toy-[0-9a-f]{8}-toy-sm_90a\.json", installed.name)
    table = load_table(installed)
    assert table == load_table(Path("runs/best") / installed.name)
    assert [entry.m for entry in table.entries] == list(M_VALUES)
    assert table.entries[0].config == {"tile": 32, "stages": 2, "mode": "split", "early": True}


def test_a_table_of_another_use_in_the_named_file_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs").mkdir()
    Sweep(Path("runs/toy.db"), executor=ToyExecutor()).run()
    assert run("export").exit_code == 0
    (exported,) = Path("runs/best").iterdir()
    two_kernel = replace(load_table(exported), family="toy_baseline")
    save_table(two_kernel, Path("mine.json"))
    monkeypatch.setenv("ROUTERTUNE_BEST", "mine.json")
    refused = run("export", "--install")
    assert refused.exit_code == 7
    assert "error: mine.json: is of toy_baseline for toy on sm_90a, measured: name another" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert load_table(Path("mine.json")) == two_kernel


def test_results_that_must_not_be_mixed_are_refused() -> None:
    from harness.record import DeviceFacts
    from sweeps import store

    Path("runs").mkdir()
    sweep = Sweep(Path("runs/toy.db"), executor=ToyExecutor())
    sweep.run()
    other = replace(
        toy_record({"tile": 8, "stages": 1, "mode": "plain", "early": False}), device=DeviceFacts("Other")
    )
    store.add(sweep.study, other)
    result = run("export")
    assert result.exit_code == 7
    assert "do not compare" in result.stderr


@pytest.mark.compiles
def test_a_sweep_may_compile_only_and_says_that_nothing_was_run() -> None:
    command = ("sweep", "--spec", "small.toml", "--workers", "1", "--executor", "none")
    first = run(*command)
    assert first.exit_code == 0, first.output
    assert "2 configs: 2 compiled" in first.output
    assert "Nothing was run, as asked" in first.output
    assert "make sweep" in first.output
    assert "routertune pack" in first.output
    again = run(*command)
    assert "2 configs: 2 compiled" in again.output
    assert "2 configs" in run("status", "--spec", "small.toml").output


SIMULATED = """
family = "fused_sm90"
m_values = [1, 64]
[problem]
hidden = 256
experts = 64
top_k = 4
[parameters]
tile_m = [64]
tile_n = [64]
tile_k = [64]
cluster_m = [1]
split_k = [1]
grid_split = [1]
[search]
trials = 2
[baseline]
enabled = false
"""


@pytest.mark.compiles
def test_without_a_gpu_a_sweep_runs_on_the_simulator_and_its_times_stay_apart(here: Path) -> None:
    (here / "simulated.toml").write_text(SIMULATED)
    command = ("sweep", "--spec", "simulated.toml", "--workers", "1")
    first = run(*command)
    assert first.exit_code == 0, first.output
    assert "2 configs: 2 ok" in first.output
    assert "MODELLED, not measured" in first.output
    assert "modelled best so far" in first.stderr
    exported = load_table(here / "runs/simulated-sm_90a-modelled/best.json")
    assert (exported.source, [entry.m for entry in exported.entries]) == ("modelled", [1, 64])
    assert run("export", "--install", "--spec", "simulated.toml").exit_code == 0
    (installed,) = (here / "installed").iterdir()
    assert installed.name.endswith("-fused_sm90-sm_90a-modelled.json"), "no measured table is replaced"
    assert "custom on sm_90a, modelled" in run("status", "--spec", "simulated.toml").output
    # What a GPU measured is in a study of its own, and cannot be added to this one.
    measured = ("--study", "simulated-sm_90a-modelled", "--executor", "none")
    refused = run(*command, *measured)
    assert refused.exit_code == 4
    assert "has executor simulator, not none" in refused.output


@pytest.mark.compiles
def test_one_launch_is_accounted_for(here: Path) -> None:
    (here / "simulated.toml").write_text(SIMULATED)
    result = run("simulate", "--spec", "simulated.toml", "--m", "300", "tile_m=64", "--output", "out")
    assert result.exit_code == 0, result.output
    assert "modelled time: " in result.output
    assert "mbarrier.wait" in result.output
    assert "PTX lines" in result.output
    assert (here / "out/timeline.png").stat().st_size > 10_000
    wrong = run("simulate", "--spec", "simulated.toml", "--m", "300", "stages=99")
    assert wrong.exit_code == 3, wrong.output

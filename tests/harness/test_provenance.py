"""Provenance of a copy without git, and commands without anybody's folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.provenance import command_line, git_commit


def test_a_copy_without_git_takes_the_commit_that_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROUTERTUNE_COMMIT", raising=False)
    assert git_commit(tmp_path) == ""
    monkeypatch.setenv("ROUTERTUNE_COMMIT", "abc123")
    assert git_commit(tmp_path) == "abc123"


@pytest.mark.parametrize("program", ["/somewhere/.venv/bin/routertune", "/somewhere/sweeps/cli.py"])
def test_a_command_names_the_program_not_its_folder(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [program, "sweep", "--spec", "quick"])
    assert command_line() == "routertune sweep --spec quick"


def test_a_command_that_is_not_utf_8_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["routertune", "sweep", "--spec", "\udcff.toml"])
    assert command_line() == r"routertune sweep --spec '\udcff.toml'"

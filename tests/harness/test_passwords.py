"""A storage's password stays out of records and messages."""

from __future__ import annotations

import sys

import pytest

from harness.passwords import without_passwords
from harness.provenance import command_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://tuner:s3cret@db/sweeps", "postgresql://tuner:***@db/sweeps"),
        (
            "postgresql+psycopg://tuner:a:b%40c@db:5432/s: no host",
            "postgresql+psycopg://tuner:***@db:5432/s: no host",
        ),
        ("mysql://:pw@host", "mysql://:***@host"),
        ("a 'postgresql://t:one@db' b mysql://u:two@h c", "a 'postgresql://t:***@db' b mysql://u:***@h c"),
        ("postgresql://tuner@db:5432/sweeps", "postgresql://tuner@db:5432/sweeps"),
        ("runs/default.db", "runs/default.db"),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
    ],
)
def test_of_a_url_only_the_password_is_hidden(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_a_recorded_command_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/cli.py", "sweep", "--storage", "postgresql://tuner:s3cret@db/s"])
    assert command_line() == "routertune sweep --storage postgresql://tuner:***@db/s"

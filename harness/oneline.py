"""Reasons are one line: what a person reads in a table, and what a record keeps."""

from __future__ import annotations

MAX_CHARACTERS = 400


def one_line(text: str) -> str:
    """`text` with its lines joined and runs of blanks collapsed, cut at `MAX_CHARACTERS`."""
    joined = " ".join(text.split())
    return joined if len(joined) <= MAX_CHARACTERS else f"{joined[: MAX_CHARACTERS - 1]}…"

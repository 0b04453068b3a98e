"""The Markdown that reports are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A pipe table; a cell's pipes and line breaks are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def number(value: float | None) -> str:
    """Three significant digits, never in powers of ten; a missing value is a dash."""
    if value is None or math.isnan(value):
        return "–"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(digits, 0)}f}" if not float(value).is_integer() else f"{value:.0f}"


def images(folder: Path, *patterns: str) -> list[str]:
    """Links, relative to `folder`, to the figures in it whose names match."""
    found = [path for pattern in patterns for path in sorted(folder.glob(f"{pattern}.png"))]
    return [f"![{path.stem}]({path.name})" for path in found]

"""Replacements that any defect may be planted with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Without:
    """A function that does nothing at its `skipped`-th call, counted from 1."""

    def __init__(self, function: Callable[..., Any], skipped: int) -> None:
        self.function, self.skipped, self.calls = function, skipped, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        return None if self.calls == self.skipped else self.function(*arguments, **named)


def nothing(*arguments: Any, **named: Any) -> None:
    return None

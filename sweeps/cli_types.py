"""Types and callbacks of options whose values are judged before a command runs: an error names the option."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from kernels.problem import preset
from sweeps.errors import SpecError
from sweeps.limits import MAX_M

# More processes than any host has cores for are a slip of the hand.
PROCESSES = click.IntRange(1, 1024)
TOKENS = click.IntRange(1, MAX_M)


class _Minutes(click.FloatRange):
    """A time budget. Every comparison with NaN is false, so that a range alone lets it pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        minutes = super().convert(value, param, ctx)
        if not math.isfinite(minutes):
            self.fail(f"{value!r} is not a number of minutes.", param, ctx)
        return minutes


MINUTES = _Minutes(min=0, min_open=True)


def known_preset(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A callback that refuses a name of no router problem's preset."""
    return _known(preset, parameter, value)


def known_family(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A callback that refuses a name of no kernel family."""
    from kernels.families import family

    return _known(family, parameter, value)


def _known(find: Callable[[str], object], parameter: click.Parameter, value: str | None) -> str | None:
    try:
        if value is not None:
            find(value)
    except ValueError as error:
        raise SpecError(f"{parameter.opts[0]}: {error}") from None
    return value

"""The best known config: from an exported dispatch table where one fits, else the family's default.

Tables are looked for in three places, the first fitting one wins:

    $ROUTERTUNE_BEST                  a file or a folder of *.json
    ~/.config/routertune/best/*.json  where `routertune export --install` puts them
    kernels/best/*.json               what the project ships
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from kernels.dispatch_table import DispatchTable, DispatchTableError, load_table
from kernels.family import KernelFamily
from kernels.problem import RouterProblem

BEST_VARIABLE = "ROUTERTUNE_BEST"
USER_TABLES = Path("~/.config/routertune/best")
SHIPPED_TABLES = Path(__file__).parent / "tables"


def best_known_config(kernels: KernelFamily, problem: RouterProblem, target: str, m: int) -> Any:
    """The config to use at `m` tokens. Raises `DispatchTableError` when $ROUTERTUNE_BEST cannot be read."""
    for table in (*_named_tables(os.environ.get(BEST_VARIABLE)), *_found_tables()):
        if table.family == kernels.name and table.matches(problem, target):
            config = kernels.config(table.best_for(m).config)
            if kernels.illegal_reason(problem, config, target) is None:
                return config
    return kernels.default_config(problem, m)


@lru_cache(maxsize=8)
def _named_tables(place: str | None) -> tuple[DispatchTable, ...]:
    """The tables that the environment names: what the user asked for must be readable."""
    if place is None:
        return ()
    path = Path(place).expanduser()
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return tuple(load_table(file) for file in files)


@lru_cache(maxsize=1)
def _found_tables() -> tuple[DispatchTable, ...]:
    """The user's and the shipped tables. One that cannot be read costs a warning, not the router."""
    tables = []
    for folder in (USER_TABLES.expanduser(), SHIPPED_TABLES):
        for file in sorted(folder.glob("*.json")):
            try:
                tables.append(load_table(file))
            except DispatchTableError as error:
                warnings.warn(f"ignored: {error}", stacklevel=3)
    return tuple(tables)

"""The best known config: from an exported dispatch table where one fits, else the family's default.

Tables are looked for in three places, the first fitting one wins:

    $ROUTERTUNE_BEST                  a file or a folder of *.json
    ~/.config/routertune/best/*.json  where `routertune export --install` puts them
    kernels/tables/*.json             what the project ships

Measured tables come before those that the simulator modelled, among those that the environment names and
among all others; to launch a choice from a modelled one costs a warning. A table fits where it is of the
problem, the family and the target, M is not far from what it was tuned at (`DispatchTable.serves`), and its
config there is legal and can serve that M. Files are read once in a process, and what was chosen is kept: the
wrapper asks before every launch.
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
    config, _ = _chosen(kernels, problem, target, m, os.environ.get(BEST_VARIABLE))
    return config


def config_to_launch(kernels: KernelFamily, problem: RouterProblem, target: str, m: int) -> Any:
    """`best_known_config`, with a warning, once for each M, where no GPU has measured it."""
    config, modelled = _chosen(kernels, problem, target, m, os.environ.get(BEST_VARIABLE))
    if modelled:
        _warn_of_modelled(kernels.name, problem.name, target, m)
    return config


@lru_cache(maxsize=4096)
def _warn_of_modelled(family: str, problem: str, target: str, m: int) -> None:
    warnings.warn(
        f"{family} for {problem} on {target} at M = {m}: the config was chosen by modelled times, no GPU has "
        "measured it; sweep on a GPU and export to replace it",
        stacklevel=4,
    )


@lru_cache(maxsize=4096)  # judging one config anew takes 0.1 ms, ten times a small launch
def _chosen(
    kernels: KernelFamily, problem: RouterProblem, target: str, m: int, place: str | None
) -> tuple[Any, bool]:
    """The config, and whether it comes from modelled times."""
    for table in (*_measured_first(_named_tables(place)), *_measured_first(_found_tables())):
        if table.family == kernels.name and table.matches(problem, target) and table.serves(m):
            config = _usable_config(table, kernels, problem, m)
            if config is not None:
                return config, table.source == "modelled"
    return kernels.default_config(problem, m), False


def _measured_first(tables: tuple[DispatchTable, ...]) -> list[DispatchTable]:
    return sorted(tables, key=lambda table: table.source != "measured")


def _usable_config(table: DispatchTable, kernels: KernelFamily, problem: RouterProblem, m: int) -> Any:
    """The table's config at `m`; None when it is not legal, of a version with other parameters, or cannot
    serve so many tokens."""
    try:
        config = kernels.config(table.best_for(m).config)
        if kernels.illegal_reason(problem, config, table.target) is not None:
            return None
        kernels.workspace_elements(problem, config, m)
    except ValueError:
        return None
    return config


@lru_cache(maxsize=8)
def _named_tables(place: str | None) -> tuple[DispatchTable, ...]:
    """The tables that the environment names: what the user asked for must be readable."""
    if not place:
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
                warnings.warn(f"ignored: {error}", stacklevel=4)
    return tuple(tables)

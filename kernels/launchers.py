"""Compiled launchers, each compiled at its first use and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

# None is dropped: a captured graph may still replay it.
_launchers: dict[Hashable, Any] = {}
_compiling = threading.Lock()  # the DSL compiles one kernel at a time and aborts the process otherwise


def compiled(key: Hashable, compile_it: Callable[[], Any]) -> Any:
    """The launcher of `key`, made by `compile_it` when there is none yet; raises what that raises."""
    launch = _launchers.get(key)
    if launch is None:
        with _compiling:
            launch = _launchers.get(key)  # another thread may have compiled it while this one waited
            if launch is None:
                launch = _launchers[key] = compile_it()
    return launch

"""What a register holds that holds nothing: any use of it is an error, and says why.

Numpy hands an operation on such a value to it (`__array_ufunc__`, `__array_function__`, `__array__`), so the
generated code needs no checks of its own.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from harness.simulator.errors import SimulationError


class Absent:
    """A register without a value, for the reason `why`."""

    # A scalar, as far as splitting and joining cohorts is concerned.
    ndim = 0

    def __init__(self, why: str) -> None:
        self.why = why

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise SimulationError(f"a register is read that {self.why}")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return 0 if function is np.ndim else self._refuse()

    __array_ufunc__ = __array__ = _refuse
    __bool__ = __int__ = __index__ = __iter__ = __len__ = _refuse
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __lshift__ = __rshift__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = _refuse

    @property
    def dtype(self) -> Any:
        """No type either: whoever asks is about to read."""
        return self._refuse()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._refuse()


UNWRITTEN = Absent("nothing has written")
IN_FLIGHT = Absent(
    "belongs to an accumulator in flight: wgmma.commit_group and wgmma.wait_group have to come first"
)

"""numpy arrays as the simulator's C loops take them: by address."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

_Memory = ctypes.c_char * 0


def indices(array: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The same numbers as C has them; to be kept for as long as its address is used."""
    return np.ascontiguousarray(array, np.int64)


def address(array: npt.NDArray[Any]) -> int:
    """Where an array, which has to be contiguous, begins; numpy itself takes 3 us to say so, not 0.6."""
    if array.flags.writeable:
        buffer: Any = array
        return ctypes.addressof(_Memory.from_buffer(buffer))
    assert array.flags.c_contiguous
    found: int = array.__array_interface__["data"][0]
    return found

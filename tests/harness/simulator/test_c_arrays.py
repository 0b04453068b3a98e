"""Addresses of arrays: those that numpy gives, of contiguous arrays only."""

from __future__ import annotations

import numpy as np
import pytest

from harness.simulator.c_arrays import address, indices


@pytest.mark.parametrize(
    "array", [np.arange(6), np.zeros((2, 3), np.uint8), np.zeros(1, np.bool_), np.zeros(0)]
)
def test_addresses_are_numpys(array: np.ndarray) -> None:
    read_only = array.view()
    read_only.flags.writeable = False
    assert address(array) == address(read_only) == array.ctypes.data


def test_what_is_not_contiguous_has_none() -> None:
    array = np.arange(6).reshape(2, 3).T
    read_only = array.view()
    read_only.flags.writeable = False
    for wrong in (array, read_only):
        with pytest.raises((AssertionError, TypeError, ValueError)):
            address(wrong)


def test_indices_are_contiguous_numbers_of_64_bits() -> None:
    numbers = indices(np.arange(6, dtype=np.int32).reshape(2, 3).T)
    assert numbers.dtype == np.int64
    assert numbers.flags.c_contiguous
    assert numbers.tolist() == [[0, 3], [1, 4], [2, 5]]

"""Whether memory that one stream filled may be kept for all: asked of the operands' device."""

from __future__ import annotations

import pytest
import torch

from kernels.streams import is_capturing, settle
from tests.kernels.fake_cuda import FIRST, SECOND, FakeCuda

CPU = torch.device("cpu")


def test_a_capture_is_looked_for_on_the_device_in_question(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    cuda.capturing = {SECOND}
    assert [is_capturing(device) for device in (CPU, FIRST, SECOND)] == [False, False, True]
    assert cuda.current == FIRST


def test_a_stream_is_waited_for_before_what_it_filled_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    assert settle(SECOND)
    assert cuda.waited == [SECOND]
    assert settle(CPU)
    cuda.capturing = {SECOND}
    assert not settle(SECOND)
    assert cuda.waited == [SECOND], "a capture cannot be waited for"

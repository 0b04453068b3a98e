"""A torch.cuda of two devices where there is none: what the wrapper asks about streams and captures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


@dataclass(frozen=True)
class FakeStream:
    cuda_stream: int
    synchronize: Callable[[], None]


class FakeCuda:
    """What stands in for torch.cuda; tensors for its devices are made on the host.

    Attributes:
        current: the current device, the first at the beginning.
        streams: the handle of each device's current stream.
        capturing: the devices whose current stream is being captured.
        waited: the devices whose current stream was waited for, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current = FIRST
        self.streams = {FIRST: 10, SECOND: 20}
        self.capturing: set[torch.device] = set()
        self.waited: list[torch.device] = []
        for name in ("device", "current_stream", "is_current_stream_capturing"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        for make in (torch.zeros, torch.full):
            monkeypatch.setattr(torch, make.__name__, on_the_host(make))

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device
        yield
        self.current = before

    def current_stream(self, device: torch.device) -> FakeStream:
        return FakeStream(self.streams[device], lambda: self.waited.append(device))

    def is_current_stream_capturing(self) -> bool:
        return self.current in self.capturing


def on_the_host(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def made(*args: Any, device: torch.device | None = None, **kwargs: Any) -> torch.Tensor:
        return make(*args, **kwargs)

    return made

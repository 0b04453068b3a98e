"""One thread of torch: test processes share few cores, and a team of threads that must meet at every small
operation's end waits for whichever core is taken (measured: 60 times slower on two busy cores)."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)

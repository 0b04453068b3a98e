"""What every CUDA stream may share: memory that is filled once is kept only when it is seen to be filled.

Other streams are not ordered behind the one that fills, and to wait for an event at every use is nothing that
a capture can do for work outside it. So whoever fills waits, once.
"""

from __future__ import annotations

import torch


def is_capturing(device: torch.device) -> bool:
    """Whether the current stream of `device`, the current device or not, is captured into a CUDA graph."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def settle(device: torch.device) -> bool:
    """Wait for the current stream of `device`: True when any stream may now read what this one has written.

    False, without waiting, in a capture: its memory belongs to the graph and is filled by replays alone, so
    nothing that was made in it may be kept.
    """
    if is_capturing(device):
        return False
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return True

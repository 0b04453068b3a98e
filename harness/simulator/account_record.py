"""The account of one modelled launch as plain data: what `results` prints and draws."""

from __future__ import annotations

from dataclasses import dataclass

LOAD, STORE, PRODUCT = "TMA load", "TMA store", "tensor core"


@dataclass(frozen=True)
class Span:
    """A unit of SM `sm` at work from `begin` to `end`, moving `size` bytes."""

    kind: str
    sm: int
    begin: float
    end: float
    size: float = 0.0


@dataclass(frozen=True)
class RoleAccount:
    """What the warps of one role did: shares of the wave's time, means over these warps.

    `work`: in which lines of PTX they were busy, and `waits`: at which instructions they waited; each with
    its share, the longest first.
    """

    role: str
    warps_per_cta: float
    busy: float
    idle: float  # after their end
    work: tuple[tuple[str, float], ...]
    waits: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class WaveAccount:
    """One wave of one kernel. `shares`: how busy each unit was, of 1; bytes are of the simulated CTAs."""

    kernel: str
    clusters: int
    simulated_ctas: int
    warps_per_cta: int
    cycles: float
    shares: dict[str, float]
    l2_bytes: float
    memory_bytes: float
    stored_bytes: float
    roles: tuple[RoleAccount, ...]
    spans: tuple[Span, ...]
    lanes: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]  # of the first CTA: role, when it ran


@dataclass(frozen=True)
class LaunchAccount:
    """A launch at one M. Waves that repeat are there once."""

    microseconds: float
    clock_mhz: float
    launch_cycles: float
    waves: tuple[WaveAccount, ...]

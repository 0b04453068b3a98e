"""The kernel families by name. Importing this does not import the DSL: families do so when they compile."""

from __future__ import annotations

from functools import cache

from kernels.family import KernelFamily


@cache
def families() -> dict[str, KernelFamily]:
    """Every family by name, in the order in which they are shown; the same objects at every call."""
    from kernels.sm90.families import FusedSm90, TwoKernelSm90
    from kernels.sm100.families import FusedSm100, TwoKernelSm100

    known = (FusedSm90(), TwoKernelSm90(), FusedSm100(), TwoKernelSm100())
    return {family.name: family for family in known}


def family(name: str) -> KernelFamily:
    """The family called `name`; raises `ValueError` naming the known ones."""
    known = families()
    if name not in known:
        raise ValueError(f"unknown kernel family {name!r}: known are {', '.join(known)}")
    return known[name]

"""The kernels with planted defects as families, so that the harness compiles them like any other kernel.

A config is the real kernel's with the defect's name added. Importing this does not import the DSL: compile
workers do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.problem import RouterProblem
from kernels.sm90.config import Sm90Config
from kernels.sm90.families import FusedSm90
from kernels.sm100.config import Sm100Config
from kernels.sm100.families import FusedSm100

NO_DEFECT = "no_defect"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class PlantedSm90Config(Sm90Config):
    defect: str = NO_DEFECT


class PlantedSm90(FusedSm90):
    """The fused Hopper router with a defect of `mutants`."""

    name = "planted_sm90"
    config_type = PlantedSm90Config

    def planted(self, config: Sm90Config, defect: str) -> PlantedSm90Config:
        return PlantedSm90Config(**vars(config), defect=defect)

    def compile(self, problem: RouterProblem, config: PlantedSm90Config, target: str) -> Any:
        from tests.kernels.mutants import compile_mutant

        return compile_mutant(config.defect, problem, config)

    def source_files(self) -> tuple[Path, ...]:
        return (*super().source_files(), HERE / "mutants.py")


@dataclass(frozen=True)
class PlantedSm100Config(Sm100Config):
    defect: str = NO_DEFECT


class PlantedSm100(FusedSm100):
    """The fused Blackwell router with a defect of `mutants_sm100`."""

    name = "planted_sm100"
    config_type = PlantedSm100Config

    def planted(self, config: Sm100Config, defect: str) -> PlantedSm100Config:
        return PlantedSm100Config(**vars(config), defect=defect)

    def compile(self, problem: RouterProblem, config: PlantedSm100Config, target: str) -> Any:
        from tests.kernels.mutants_sm100 import compile_mutant

        return compile_mutant(config.defect, problem, config)

    def source_files(self) -> tuple[Path, ...]:
        return (*super().source_files(), *sorted(HERE.glob("mutants_sm100*.py")))

"""The two kernel families of Hopper, behind the contract of `kernels.family`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from kernels.family import KernelFamily, ParamValue, Rule, shared_sources
from kernels.problem import RouterProblem
from kernels.sm90 import config as space
from kernels.sm90.config import Sm90Config, TwoKernelConfig

_HERE = Path(__file__).parent
_SOURCES = ("config.py", "epilogue.py", "gemm.py", "launch.py")


class _Sm90Family(KernelFamily):
    targets = ("sm_90a",)

    def source_files(self) -> tuple[Path, ...]:
        return (*shared_sources(), *(_HERE / name for name in _SOURCES))


class FusedSm90(_Sm90Family):
    """The fused router: one kernel from activations to ids and weights."""

    name = "fused_sm90"
    config_type = Sm90Config

    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        return dict(space.SPACE)

    def rules(self) -> tuple[Rule, ...]:
        return space.RULES

    def default_config(self, problem: RouterProblem, m: int) -> Sm90Config:
        return space.default_config(problem, m)

    def compile(self, problem: RouterProblem, config: Sm90Config, target: str) -> Any:
        from kernels.sm90.launch import compile_fused

        return compile_fused(problem, config)

    def workspace_elements(self, problem: RouterProblem, config: Sm90Config, m: int) -> int:
        return space.workspace_elements(problem, config, m)


class TwoKernelSm90(_Sm90Family):
    """The path the fused kernel is compared with: a GEMM that writes fp32 logits, then a gate kernel."""

    name = "two_kernel_sm90"
    config_type = TwoKernelConfig

    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        return space.SPACE | space.GATE_SPACE

    def rules(self) -> tuple[Rule, ...]:
        return space.TWO_KERNEL_RULES

    def default_config(self, problem: RouterProblem, m: int) -> TwoKernelConfig:
        return TwoKernelConfig(**asdict(space.default_config(problem, m, self.rules())))

    def compile(self, problem: RouterProblem, config: TwoKernelConfig, target: str) -> Any:
        from kernels.sm90.launch import compile_two_kernel

        return compile_two_kernel(problem, config, config.gate_warps)

    def workspace_elements(self, problem: RouterProblem, config: TwoKernelConfig, m: int) -> int:
        return m * problem.experts

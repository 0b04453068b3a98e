"""The two kernel families of Blackwell, behind the contract of `kernels.family`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from kernels.family import KernelFamily, OperandFormat, ParamValue, Rule, shared_sources
from kernels.problem import RouterProblem
from kernels.sm100 import config as space
from kernels.sm100.config import Sm100Config, TwoKernelConfig

_HERE = Path(__file__).parent
_SOURCES = (
    "config.py",
    "epilogue.py",
    "exchange.py",
    "gemm.py",
    "grid_merge.py",
    "launch.py",
    "router.py",
    "sync.py",
    "tiles.py",
    "work.py",
)


class _Sm100Family(KernelFamily):
    targets = ("sm_100a", "sm_103a")
    operands = OperandFormat.NVFP4

    def token_tile(self, config: Any) -> int:
        return int(config.token_tile * config.cta_group)

    def source_files(self) -> tuple[Path, ...]:
        return (*shared_sources(), _HERE.parent / "nvfp4_layout.py", *(_HERE / name for name in _SOURCES))


class FusedSm100(_Sm100Family):
    """The fused router: one kernel from quantized activations to ids and weights."""

    name = "fused_sm100"
    config_type = Sm100Config

    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        return dict(space.SPACE)

    def rules(self) -> tuple[Rule, ...]:
        return space.RULES

    def default_config(self, problem: RouterProblem, m: int) -> Sm100Config:
        return space.default_config(problem, m)

    def compile(self, problem: RouterProblem, config: Sm100Config, target: str) -> Any:
        from kernels.sm100.launch import compile_fused

        return compile_fused(problem, config)

    def round_tokens(self, config: Sm100Config) -> int:
        return config.token_tile * config.cluster_m

    def workspace_elements(self, problem: RouterProblem, config: Sm100Config, m: int) -> int:
        return space.workspace_elements(problem, config, m)


class TwoKernelSm100(_Sm100Family):
    """The path the fused kernel is compared with: a GEMM that writes fp32 logits, then a gate kernel."""

    name = "two_kernel_sm100"
    config_type = TwoKernelConfig

    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        return space.SPACE | space.GATE_SPACE

    def rules(self) -> tuple[Rule, ...]:
        return space.TWO_KERNEL_RULES

    def default_config(self, problem: RouterProblem, m: int) -> TwoKernelConfig:
        return TwoKernelConfig(**asdict(space.default_config(problem, m, self.rules(), routes=False)))

    def compile(self, problem: RouterProblem, config: TwoKernelConfig, target: str) -> Any:
        from kernels.sm100.launch import compile_two_kernel

        return compile_two_kernel(problem, config, config.gate_warps)

    def workspace_elements(self, problem: RouterProblem, config: TwoKernelConfig, m: int) -> int:
        return m * problem.experts

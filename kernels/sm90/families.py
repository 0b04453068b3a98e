"""The two kernel families of Hopper, behind the contract of `kernels.family`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from kernels.family import KernelFamily, ParamValue
from kernels.problem import RouterProblem
from kernels.sm90 import config as space
from kernels.sm90.config import Sm90Config, TwoKernelConfig

_HERE = Path(__file__).parent
_SHARED = (
    _HERE.parent / "problem.py",
    _HERE / "score.py",
    _HERE / "topk.py",
    _HERE / "gemm.py",
    _HERE / "launch.py",
)


class FusedSm90(KernelFamily):
    """The fused router: one kernel from activations to ids and weights."""

    name = "fused_sm90"
    targets = ("sm_90a",)
    config_type = Sm90Config

    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        return dict(space.SPACE)

    def illegal_reason(self, problem: RouterProblem, config: Sm90Config, target: str) -> str | None:
        if target not in self.targets:
            return f"target {target}: this kernel is for {', '.join(self.targets)}"
        return space.illegal_reason(problem, config)

    def default_config(self, problem: RouterProblem, m: int) -> Sm90Config:
        return space.default_config(problem, m)

    def compile(self, problem: RouterProblem, config: Sm90Config, target: str) -> Any:
        from kernels.sm90.launch import compile_fused

        return compile_fused(problem, config)

    def workspace_elements(self, problem: RouterProblem, config: Sm90Config, m: int) -> int:
        return 1

    def source_files(self) -> tuple[Path, ...]:
        return (*_SHARED, _HERE / "config.py")


class TwoKernelSm90(KernelFamily):
    """The path the fused kernel is compared with: a GEMM that writes fp32 logits, then a gate kernel."""

    name = "two_kernel_sm90"
    targets = ("sm_90a",)
    config_type = TwoKernelConfig

    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        return space.SPACE | space.GATE_SPACE

    def illegal_reason(self, problem: RouterProblem, config: TwoKernelConfig, target: str) -> str | None:
        if target not in self.targets:
            return f"target {target}: this kernel is for {', '.join(self.targets)}"
        if config.gate_warps not in space.GATE_SPACE["gate_warps"]:
            return f"gate_warps = {config.gate_warps} is not one of 1, 2, 4, 8"
        return space.illegal_reason(problem, config, router=False)

    def default_config(self, problem: RouterProblem, m: int) -> TwoKernelConfig:
        return TwoKernelConfig(**asdict(space.default_config(problem, m)))

    def compile(self, problem: RouterProblem, config: TwoKernelConfig, target: str) -> Any:
        from kernels.sm90.launch import compile_two_kernel

        return compile_two_kernel(problem, config, config.gate_warps)

    def workspace_elements(self, problem: RouterProblem, config: TwoKernelConfig, m: int) -> int:
        return m * problem.experts

    def source_files(self) -> tuple[Path, ...]:
        return (*_SHARED, _HERE / "config.py", _HERE / "gate.py")

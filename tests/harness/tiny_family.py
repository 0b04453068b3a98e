"""A kernel family as small as the contract allows, with every way in which a compile can end.

The kernel itself is in `tiny_kernel`, which imports the DSL.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels.family import KernelFamily, ParamValue
from kernels.problem import RouterProblem

PROBLEM = RouterProblem("tiny", hidden=64, experts=16, top_k=2)
TARGET = "sm_90a"
LOCAL_FLOATS = 200  # an array of 64 still finds room in registers


@dataclass(frozen=True)
class TinyConfig:
    offset: int = 0
    fault: str = "none"


class TinyFamily(KernelFamily):
    name = "tiny"
    targets = (TARGET,)
    config_type = TinyConfig

    def space(self, problem: RouterProblem) -> dict[str, tuple[ParamValue, ...]]:
        return {"offset": (0, 1), "fault": ("none", "error", "crash", "hang", "local")}

    def illegal_reason(self, problem: RouterProblem, config: TinyConfig, target: str) -> str | None:
        return None

    def default_config(self, problem: RouterProblem, m: int) -> TinyConfig:
        return TinyConfig()

    def compile(self, problem: RouterProblem, config: TinyConfig, target: str) -> Any:
        match config.fault:
            case "error":
                raise ValueError("tile does not\nfit")
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                threading.Event().wait()
        from tests.harness.tiny_kernel import compile_tiny

        local_floats = LOCAL_FLOATS if config.fault == "local" else 0
        return compile_tiny(problem.hidden, problem.experts, problem.top_k, config.offset, local_floats)

    def workspace_elements(self, problem: RouterProblem, config: TinyConfig, m: int) -> int:
        return 1

    def source_files(self) -> tuple[Path, ...]:
        return (Path(__file__), Path(__file__).with_name("tiny_kernel.py"))

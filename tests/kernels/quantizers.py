"""The kernels that quantize activations, compiled for tests: in this process, or in one of another target.

    python -m tests.kernels.quantizers TARGET FOLDER

leaves FOLDER/<name>/ for each name in `KERNELS`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.artifact import ENTRY
from harness.compile import CUBIN, LAUNCHER, PTX, link, prepare_process
from harness.simulator.run import Program
from harness.toolchain import TARGETS
from kernels.family import OperandFormat

# Three blocks of a row to a word of scales and a half: rows begin anywhere in a warp.
HIDDEN = 192

# By name: the function of `kernels.quantize.launch` and its arguments.
KERNELS: dict[str, tuple[str, tuple[Any, ...]]] = {
    **{
        f"{output}{', calibrated' * calibrated}": ("compile_quantizer", (HIDDEN, output, calibrated))
        for output in OperandFormat
        for calibrated in (False, True)
    },
    "dequantizer": ("compile_dequantizer", (HIDDEN,)),
    "alpha": ("compile_alpha", ()),
}


def compile_named(name: str) -> Any:
    from kernels.quantize import launch

    function, arguments = KERNELS[name]
    return getattr(launch, function)(*arguments)


class Quantizers:
    """The kernels of one target as launches: on its GPU where there is one, else in the simulator.

    For that they are compiled into `folder`, if it is not there yet.
    """

    def __init__(self, target: str, folder: Path) -> None:
        self.on_gpu = torch.cuda.is_available() and torch.cuda.get_device_capability() == TARGETS[target]
        self.device = "cuda" if self.on_gpu else "cpu"
        self.folder = folder
        self._compiled: dict[str, Callable[..., None]] = {}
        if not (self.on_gpu or folder.exists()):
            command = [sys.executable, "-m", "tests.kernels.quantizers", target, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stderr[-2000:]

    def __getitem__(self, name: str) -> Callable[..., None]:
        if name not in self._compiled:
            self._compiled[name] = compile_named(name) if self.on_gpu else self.program(name)
        return self._compiled[name]

    def program(self, name: str, races: bool = False) -> Program:
        return Program.of_folder(self.folder / name, races=races)

    def find(self, function: str, *arguments: Any) -> Callable[..., None]:
        """What stands in for `kernels.quantize.operands._launcher`."""
        (name,) = (name for name, made_by in KERNELS.items() if made_by == (function, arguments))
        return self[name]


def main(target: str, folder: Path) -> None:
    prepare_process(target)
    for name in KERNELS:
        compiled = compile_named(name)
        home = folder / name
        home.mkdir(parents=True)
        (home / PTX).write_text(compiled.artifacts.PTX)
        (home / CUBIN).write_bytes(compiled.artifacts.CUBIN)
        compiled.export_to_c(str(home / "launch.o"), function_name=ENTRY)
        link(home / "launch.o", home / LAUNCHER)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

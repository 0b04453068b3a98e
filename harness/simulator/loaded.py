"""A kernel made ready to run: its control flow, its code, its costs, and where its names lie."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from harness.simulator.codegen import Code
from harness.simulator.launch import Launch
from harness.simulator.liveness import live_registers
from harness.simulator.machine_constants import RESERVED_SMEM_BYTES
from harness.simulator.padding import padding
from harness.simulator.program import Program
from harness.simulator.ptx import Instruction, Kernel, Module, parse
from harness.simulator.target import Target, target_named
from harness.simulator.timing import BlockCost, block_costs


class LoadedKernel:
    """One entry of a module, compiled once and run any number of times.

    `registers`: that a thread is launched with; None: nobody says.
    """

    def __init__(self, module: Module, kernel: Kernel, registers: int | None = None) -> None:
        self.kernel = kernel
        self.registers = registers
        self.target: Target = target_named(module.target)
        self.program = Program(kernel)
        self.code = Code(self.program)
        self.live = live_registers(self.code)
        self.padding: dict[int, Any] = {}
        if self.live[0]:  # what nobody writes is live at the start: mostly nothing is
            filling = padding(item for item in kernel.body if isinstance(item, Instruction))
            self.padding = {self.code.registers[name]: value for name, value in filling.items()}
        self.costs: list[BlockCost] = block_costs(self.program, self.target)
        self.param_offsets = {param.name: param.offset for param in kernel.params}
        self.param_bytes = max((param.offset + param.size for param in kernel.params), default=0)
        self.shared_offsets: dict[str, int] = {}
        offset = RESERVED_SMEM_BYTES
        dynamic = [variable for variable in module.shared.values() if variable.size == 0]
        for variable in (v for v in module.shared.values() if v.size):
            offset = -(-offset // variable.align) * variable.align
            self.shared_offsets[variable.name] = offset
            offset += variable.size
        for variable in dynamic:
            offset = -(-offset // variable.align) * variable.align
        self.dynamic_offset = offset
        self.shared_offsets |= {variable.name: offset for variable in dynamic}
        self.local_offsets: dict[str, int] = {}
        self.local_bytes = 0
        for variable in kernel.local.values():
            self.local_offsets[variable.name] = -(-self.local_bytes // variable.align) * variable.align
            self.local_bytes = self.local_offsets[variable.name] + variable.size

    def shared_bytes(self, launch: Launch) -> int:
        """Shared memory of a CTA in bytes, the reserved part included."""
        return self.dynamic_offset + launch.dynamic_smem_bytes

    @cached_property
    def labels(self) -> list[str]:
        return [block.label for block in self.program.blocks]

    @cached_property
    def uses_tensor_memory(self) -> bool:
        return any(isinstance(item, Instruction) and item.parts[0] == "tcgen05" for item in self.kernel.body)

    @cached_property
    def halves_quarters(self) -> bool:
        """Whether warps load or store 16 lanes of tensor memory at a time."""
        return any(
            isinstance(item, Instruction)
            and item.parts[:2] in (("tcgen05", "ld"), ("tcgen05", "st"))
            and any(part.startswith("16x") for part in item.parts)
            for item in self.kernel.body
        )

    def parameter_bytes(self, launch: Launch) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """The parameter space as the kernel sees it."""
        space = np.zeros(-(-self.param_bytes // 8) * 8, np.uint8)
        for param, value in zip(self.kernel.params, launch.params, strict=True):
            space[param.offset : param.offset + param.size] = np.frombuffer(value, np.uint8)
        return space


def load(ptx: str, registers: Mapping[str, int] | None = None) -> dict[str, LoadedKernel]:
    """Every kernel of a module by name; `registers`: that a thread is launched with, by kernel name."""
    module = parse(ptx)
    return {
        name: LoadedKernel(module, kernel, (registers or {}).get(name))
        for name, kernel in module.kernels.items()
    }

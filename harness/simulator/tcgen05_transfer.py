"""`tcgen05.ld` and `tcgen05.st`: tensor memory to and from a warp's registers.

A shape says how the lanes and columns of one access are dealt to the 32 threads and their registers; `.num`
repeats it along the columns. Register arrays are uint32 [W, registers, 32], the last index the thread.

Source: PTX ISA "Data Movement Shape", "tcgen05.ld", "tcgen05.st", "Packing and Unpacking", "Access
restrictions"; the thread layouts as formulas from CUTLASS's copy_traits_sm100.hpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.tensor_memory import (
    QUADRANT,
    LaneArray,
    TensorMemory,
    WordArray,
    column_of,
    lane_of,
)


@dataclass(frozen=True)
class Fragment:
    """How the words of one repetition, `lanes` by `columns`, lie in registers.

    The words are split as `split` = (lane factors..., column factors...), of which `lane_axes` belong to the
    lane; `order` takes those axes to (register factors..., thread factors...).
    """

    lanes: int
    columns: int
    split: tuple[int, ...]
    lane_axes: int
    order: tuple[int, ...]

    @property
    def registers(self) -> int:
        return self.lanes * self.columns // 32


# Thread t and register r of one repetition:
#   32x32b   lane t, column 0
#   16x64b   lane t / 4 + 8 (t % 2), column t / 2 % 2
#   16x128b  lane t / 4 + 8 r, column t % 4
#   16x256b  lane t / 4 + 8 (r / 2), column 2 (t % 4) + r % 2
FRAGMENTS = {
    "32x32b": Fragment(32, 1, (32, 1), 1, (1, 0)),
    "16x64b": Fragment(16, 2, (2, 8, 2), 2, (1, 2, 0)),
    "16x128b": Fragment(16, 4, (2, 8, 4), 2, (0, 1, 2)),
    "16x256b": Fragment(16, 8, (2, 8, 4, 2), 2, (0, 3, 1, 2)),
}
MAX_REGISTERS = 128


@dataclass(frozen=True)
class Transfer:
    """A `tcgen05.ld` or `.st`: `shape`, `repeat` (.num), `packed` with `.pack::16b` or `.unpack::16b`.

    `half_split` is the immediate of .16x32bx2: the column distance of the accesses of threads 0 to 15 and of
    threads 16 to 31.
    """

    shape: str
    repeat: int
    packed: bool = False
    half_split: int = 0

    def __post_init__(self) -> None:
        if self.shape not in {*FRAGMENTS, "16x32bx2"}:
            raise SimulationError(f"tcgen05.ld/st .{self.shape} is unknown")
        if self.repeat & (self.repeat - 1) or not 1 <= self.registers <= MAX_REGISTERS:
            raise SimulationError(f"tcgen05.ld/st .{self.shape} has no .x{self.repeat}")

    @property
    def registers(self) -> int:
        """32-bit registers of each thread."""
        return self.repeat * (1 if self.shape == "16x32bx2" else FRAGMENTS[self.shape].registers)

    def load(
        self, memory: TensorMemory, cta: NDArray[Any], quadrant: NDArray[Any], address: NDArray[Any]
    ) -> WordArray:
        """Registers of W warps: `cta`, `quadrant` (warp % 4) and `address`, each [W]."""
        lanes = self._lanes(quadrant, address)
        column = column_of(address)
        if self.shape == "16x32bx2":
            halves = [
                self._read(memory, cta, lanes, column + offset, self.repeat)
                for offset in (0, self.half_split)
            ]
            return np.ascontiguousarray(np.concatenate(halves, axis=1).swapaxes(1, 2))
        fragment = FRAGMENTS[self.shape]
        words = self._read(memory, cta, lanes, column, fragment.columns * self.repeat)
        return self._to_registers(fragment, words)

    def store(
        self,
        memory: TensorMemory,
        cta: NDArray[Any],
        quadrant: NDArray[Any],
        address: NDArray[Any],
        registers: WordArray,
    ) -> None:
        """The inverse of `load`."""
        lanes = self._lanes(quadrant, address)
        column = column_of(address)
        if self.shape == "16x32bx2":
            by_thread = registers.swapaxes(1, 2)
            self._write(memory, cta, lanes, column, by_thread[:, :16])
            self._write(memory, cta, lanes, column + self.half_split, by_thread[:, 16:])
            return
        self._write(memory, cta, lanes, column, self._from_registers(FRAGMENTS[self.shape], registers))

    def _lanes(self, quadrant: NDArray[Any], address: NDArray[Any]) -> LaneArray:
        """Lanes [W, 16 or 32]; they must start in the warp's quadrant, 16 of them also at its middle."""
        count = 32 if self.shape == "32x32b" else 16
        first = lane_of(address)
        outside = (first // QUADRANT != quadrant) | (first % count != 0)
        if outside.any():
            warp = int(np.flatnonzero(outside)[0])
            raise SimulationError(
                f"a warp of lanes {quadrant[warp] * QUADRANT} to {quadrant[warp] * QUADRANT + 31} "
                f"accesses {count} lanes from lane {first[warp]}"
            )
        return first[:, None] + np.arange(count)

    def _read(
        self, memory: TensorMemory, cta: NDArray[Any], lanes: LaneArray, column: NDArray[Any], count: int
    ) -> WordArray:
        """Words [W, L, count]; packed, each is the low halves of two adjacent columns."""
        if not self.packed:
            return memory.read(cta, lanes, column, count)
        words = memory.read(cta, lanes, column, 2 * count)
        return words[..., ::2] & np.uint32(0xFFFF) | words[..., 1::2] << np.uint32(16)

    def _write(
        self,
        memory: TensorMemory,
        cta: NDArray[Any],
        lanes: LaneArray,
        column: NDArray[Any],
        words: WordArray,
    ) -> None:
        if self.packed:
            halves = np.stack([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=-1)
            words = halves.reshape(*words.shape[:2], -1)
        memory.write(cta, lanes, column, words)

    def _axes(self, fragment: Fragment) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The words' shape after [W], repetitions split off the columns, and the order that takes it to
        (W, repetition, register factors, thread factors)."""
        lane_part, column_part = fragment.split[: fragment.lane_axes], fragment.split[fragment.lane_axes :]
        shape = (*lane_part, self.repeat, *column_part)
        position = [1 + i + (i >= fragment.lane_axes) for i in range(len(fragment.split))]
        return shape, (0, 1 + fragment.lane_axes, *(position[i] for i in fragment.order))

    def _to_registers(self, fragment: Fragment, words: WordArray) -> WordArray:
        shape, order = self._axes(fragment)
        split = words.reshape(len(words), *shape)
        return np.ascontiguousarray(split.transpose(order)).reshape(len(words), self.registers, 32)

    def _from_registers(self, fragment: Fragment, registers: WordArray) -> WordArray:
        shape, order = self._axes(fragment)
        whole = (len(registers), *shape)
        split = registers.reshape([whole[axis] for axis in order])
        words = np.ascontiguousarray(split.transpose(np.argsort(order)))
        return words.reshape(len(registers), fragment.lanes, -1)

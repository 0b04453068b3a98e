"""Which registers matter at the start of each block: the others need not be split or merged."""

from __future__ import annotations

from harness.simulator.codegen import Code, destinations_of, names_of
from harness.simulator.effects import effect_of
from harness.simulator.program import Branch, Wait
from harness.simulator.ptx import Instruction, Pair, Reg, Vector


def live_registers(code: Code) -> list[list[int]]:
    """For each block, the numbers of the registers whose value at its start may still be read."""
    blocks = code.program.blocks
    used, defined = zip(*(_block_sets(code, index) for index in range(len(blocks))), strict=True)
    live = [0] * len(blocks)
    changed = True
    while changed:
        changed = False
        for block in reversed(blocks):
            out = 0
            for target in block.successors():
                out |= live[target] if target >= 0 else 0
            now = used[block.index] | (out & ~defined[block.index])
            if now != live[block.index]:
                live[block.index], changed = now, True
    return [[bit for bit in range(bits.bit_length()) if bits >> bit & 1] for bits in live]


def _block_sets(code: Code, index: int) -> tuple[int, int]:
    """(read before written, written whatever happens) in one block, as bit sets."""
    used = defined = 0
    block = code.program.blocks[index]
    for instruction in block.instructions:
        reads, writes = reads_and_writes(instruction)
        for name in reads:
            used |= (1 << code.registers[name]) & ~defined
        for name in writes:
            defined |= 1 << code.registers[name]
    if isinstance(block.end, Wait):
        for name in names_of(block.end.instruction):
            used |= (1 << code.registers[name]) & ~defined
    if isinstance(block.end, Branch):
        register, _ = code.guard_index(block.end.guard)
        used |= (1 << register) & ~defined
    return used, defined


def reads_and_writes(instruction: Instruction) -> tuple[list[str], list[str]]:
    """The registers an instruction may read, and those it writes in every lane."""
    operands = instruction.operands
    effect = effect_of(instruction)
    writes: list[str] = []
    if operands and isinstance(operands[0], Reg | Pair | Vector) and (effect is None or effect.writes):
        writes = destinations_of(operands[0])
    sources = Instruction(0, instruction.parts, operands[1:] if writes else operands, instruction.guard)
    reads = names_of(sources)
    writes = [name for name in writes if name in names_of(instruction)]
    if instruction.guard is not None:
        return reads + writes, []
    return reads, writes

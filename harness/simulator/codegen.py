"""Blocks of PTX as Python functions: one line of source for each instruction.

`add.s32 %r3, %r1, %r2;` becomes `r[3] = f7(r[1], r[2])`, where `r` holds a cohort's registers and `f7` is the
meaning of `add.s32` (`instruction_set.lookup`). What acts on more than registers (memory, barriers,
asynchronous units) is an *effect*, `e9(c, m, ...)`, which also gets the cohort and the mask of active lanes.
A block is generated twice when needed: with all lanes active, and for lanes that diverge, where a result must
leave the registers of the other lanes alone. Registers that live in one block only are exempt from that: no
other lane ever looks at them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from harness.simulator import effects
from harness.simulator.absent import UNWRITTEN
from harness.simulator.errors import NotSimulatedError, SimulationError
from harness.simulator.instruction_set import lookup, reads_carry, writes_carry
from harness.simulator.ops_lanes import ACROSS_LANES
from harness.simulator.program import Block, Branch, Program, Wait
from harness.simulator.ptx import (
    Address,
    Imm,
    Instruction,
    Not,
    Operand,
    Pair,
    Reg,
    Symbol,
    Vector,
    guard_name,
)
from harness.simulator.rounding import select

CARRY = "%carry"
SINK = "_"
# Results of these fill a wider register (PTX ISA, "Operand Size Exceeding Instruction-Type Size").
_EXTENDED = ("ld", "cvt")
_WIDTHS: dict[str, Any] = {"8": np.uint8, "16": np.uint16, "32": np.uint32, "64": np.uint64}
_TYPE = re.compile(r"(?:[subf]|bf)(8|16|32|64)(?:x2)?$")
# Shift counts, bit positions and member masks are 32 bits wide whatever the instruction's type (PTX ISA, shl,
# bfe, bfi, vote.sync, match.sync).
_NARROW = {"shl": (1,), "shr": (1,), "bfe": (1, 2), "bfi": (2, 3), "vote": (1,), "match": (1,)}

BlockFunction = Callable[[list[Any], Any, Any], Any]


def merge(mask: Any, new: Any, old: Any) -> Any:
    """`new` where the lanes in `mask` are, `old` elsewhere; lanes nobody wrote before hold zeros."""
    if old is UNWRITTEN:
        old = np.zeros_like(new) if isinstance(new, np.ndarray) else type(new)(0)
    return select(mask, new, old)


def extended(function: Callable[..., Any], signed: bool, widths: list[Any]) -> Callable[..., Any]:
    """`function` with each of its results extended to a register of `widths`, by the sign or by zeros."""

    def extend(value: Any, width: Any) -> Any:
        if not signed:
            return value.astype(width)
        wide = np.dtype(f"i{np.dtype(width).itemsize}")
        return value.view(f"i{value.dtype.itemsize}").astype(wide).view(width)

    def execute(*operands: Any) -> Any:
        results = function(*operands)
        if isinstance(results, tuple):
            return tuple(extend(value, width) for value, width in zip(results, widths, strict=True))
        return extend(results, widths[0])

    return execute


def both(mask: Any, guard: Any) -> Any:
    """The lanes active in `mask` (None: all) whose guard holds."""
    return guard if mask is None else mask & guard


def broken(instruction: Instruction, error: SimulationError) -> Callable[..., Any]:
    """An instruction that the simulator does not know: an error when a warp reaches it, not before."""

    def fail(*_: Any) -> Any:
        raise NotSimulatedError(str(error))

    return fail


@dataclass
class Code:
    """The generated functions of one program, made when first needed."""

    program: Program
    registers: dict[str, int] = field(default_factory=dict)
    _functions: dict[tuple[int, bool], BlockFunction] = field(default_factory=dict)
    _waits: dict[int, tuple[Any, BlockFunction]] = field(default_factory=dict)
    _single_block: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        homes: dict[str, set[int]] = {}
        for block in self.program.blocks:
            items = list(block.instructions)
            if isinstance(block.end, Wait):
                items.append(block.end.instruction)
            for instruction in items:
                for name in names_of(instruction):
                    homes.setdefault(name, set()).add(block.index)
            if isinstance(block.end, Branch):
                homes.setdefault(guard_name(block.end.guard), set()).add(block.index)
        self.registers = {name: index for index, name in enumerate([*homes, CARRY])}
        first_written = _written_first(self.program)
        self._single_block = {name for name, blocks in homes.items() if len(blocks) == 1} & first_written

    def function(self, block: int, masked: bool) -> BlockFunction:
        """The function `f(r, c, m)` of a block."""
        key = (block, masked)
        if key not in self._functions:
            self._functions[key] = self._generate(self.program.blocks[block], masked)
        return self._functions[key]

    @cached_property
    def fragments(self) -> tuple[int, ...]:
        """The registers that wgmma instructions accumulate into or read A from."""
        products = (
            instruction
            for block in self.program.blocks
            for instruction in block.instructions
            if instruction.parts[:2] == ("wgmma", "mma_async")
        )
        vectors = {item for one in products for item in one.operands if isinstance(item, Vector)}
        return tuple(self.registers[name] for vector in vectors for name in destinations_of(vector))

    def guard_index(self, guard: Reg | Not) -> tuple[int, bool]:
        """A branch's predicate: its register and whether it is negated."""
        return self.registers[guard_name(guard)], isinstance(guard, Not)

    def instruction_at(self, block: int, error: BaseException) -> Instruction | None:
        """The instruction of a block whose generated line raised `error`."""
        lines = self.program.blocks[block].instructions
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename.startswith("<block"):
                index = trace.tb_lineno - 2
                if 0 <= index < len(lines):
                    return lines[index]
            trace = trace.tb_next
        return None

    def wait_operands(self, block: int) -> tuple[Any, BlockFunction]:
        """The wait that ends a block (an `effects.Wait`), and a function giving its operands."""
        if block not in self._waits:
            end = self.program.blocks[block].end
            assert isinstance(end, Wait)
            instruction = end.instruction
            names: dict[str, Any] = {"np": np}
            sources = instruction.operands
            wait = effects.wait_of(instruction)
            arguments = ", ".join(self._effect_source(operand, names) for operand in sources)
            source = f"def block(r, c, m):\n return ({arguments}{',' if arguments else ''})\n"
            exec(compile(source, f"<wait {block}>", "exec"), names)
            self._waits[block] = (wait, names["block"])
        return self._waits[block]

    def _generate(self, block: Block, masked: bool) -> BlockFunction:
        names: dict[str, Any] = {"np": np, "merge": merge, "both": both}
        lines = ["def block(r, c, m):"]
        lines += [self._line(instruction, names, masked) for instruction in block.instructions]
        lines.append(" return")
        # The source holds register numbers and entries of `names`; nothing of the PTX's text is in it.
        exec(compile("\n".join(lines), f"<block {block.index}>", "exec"), names)
        function: BlockFunction = names["block"]
        return function

    def _line(self, instruction: Instruction, names: dict[str, Any], masked: bool) -> str:
        guard = ""
        if instruction.guard is not None:
            index, negated = self.guard_index(instruction.guard)
            guard = f"np.logical_not(r[{index}])" if negated else f"r[{index}]"
        active = f"both(m, {guard})" if guard and masked else guard or ("m" if masked else "None")
        try:
            targets, call = self._call(instruction, names, active)
        except SimulationError as error:
            name = _name(names, "x", broken(instruction, error))
            return f" {name}()"
        if not targets:
            return f" {call}"
        indices: list[int | None] = [None if name == SINK else self.registers[name] for name in targets]
        merging = [
            index is not None and (guard or masked) and (guard or name not in self._single_block)
            for index, name in zip(indices, targets, strict=True)
        ]
        if not any(merging):
            places = ["_" if index is None else f"r[{index}]" for index in indices]
            return f" {', '.join(places)} = {call}"
        temporaries = [f"t{i}" for i in range(len(indices))]
        line = f" {', '.join(temporaries)}{',' if len(indices) > 1 else ''} = {call}; k = {active}"
        for temporary, place, merged in zip(temporaries, indices, merging, strict=True):
            if place is not None:
                value = f"merge(k, {temporary}, r[{place}])" if merged else temporary
                line += f"; r[{place}] = {value}"
        return line

    def _call(self, instruction: Instruction, names: dict[str, Any], active: str) -> tuple[list[str], str]:
        """The registers that an instruction writes, and the expression of their values."""
        parts, operands = instruction.parts, instruction.operands
        if effect := effects.effect_of(instruction):
            return self._effect_call(effect, instruction, names, active)
        if parts[0] == "mov" and (special := self._move(instruction, names)):
            return special
        targets = destinations_of(operands[0])
        sources = list(operands[1:])
        width = _width(instruction)
        narrow = _NARROW.get(parts[0], ())
        arguments = [
            self._source(operand, names, np.uint32 if position in narrow else width)
            for position, operand in enumerate(sources)
        ]
        if parts[0] == "mad" and "wide" in parts:
            arguments[2] = self._source(sources[2], names, _double(width))
        if reads_carry(parts):
            arguments.append(f"r[{self.registers[CARRY]}]")
        if parts[0] in ACROSS_LANES:
            synchronized = "sync" in parts
            arguments.append(
                f"c.members({arguments[-1]}, {active})" if synchronized else f"c.active({active})"
            )
        function = _name(names, "f", self._extended(instruction, targets, lookup(parts, len(targets))))
        if writes_carry(parts):
            targets = [*targets, CARRY]
        return targets, f"{function}({', '.join(arguments)})"

    def _effect_call(
        self, effect: effects.Effect, instruction: Instruction, names: dict[str, Any], active: str
    ) -> tuple[list[str], str]:
        operands = list(instruction.operands)
        targets = destinations_of(operands.pop(0)) if effect.writes else []
        function = _name(names, "e", self._extended(instruction, targets, effect.bind(instruction)))
        if effect.registers:
            indices = [
                tuple(self.registers[item.name] for item in operand.items)  # type: ignore[union-attr]
                if isinstance(operand, Vector)
                else None
                for operand in operands
            ]
            arguments = [
                _name(names, "i", index) if index is not None else self._effect_source(operand, names)
                for index, operand in zip(indices, operands, strict=True)
            ]
            return [], f"{function}(c, {active}, r, {', '.join(arguments)})"
        arguments = [self._effect_source(operand, names) for operand in operands]
        call = f"{function}({', '.join(['c', active, *arguments])})"
        return targets, call

    def _extended(
        self, instruction: Instruction, targets: list[str], function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """`function`, its results extended where a destination is wider than the instruction's type."""
        parts = instruction.parts
        if parts[0] not in _EXTENDED or "pack" in parts:
            return function
        kind = next((part for part in parts[1:] if _TYPE.match(part)), "")
        if not kind or kind.endswith("x2"):
            return function
        declared = [
            _TYPE.match("b16" if name == SINK else self.program.kernel.register_type(name))
            for name in targets
        ]
        widths = [_WIDTHS[match.group(1)] if match else np.uint8 for match in declared]
        # What is narrower than the narrowest register comes extended to that.
        bits = max(16, int(kind.lstrip("subf")))
        if all(8 * width().itemsize <= bits for width in widths):
            return function
        return extended(function, kind[0] == "s", widths)

    def _move(self, instruction: Instruction, names: dict[str, Any]) -> tuple[list[str], str] | None:
        target, source = instruction.operands
        if isinstance(source, Symbol):
            symbol = _name(names, "s", source)
            wide = "b64" in instruction.parts or "u64" in instruction.parts
            return destinations_of(target), f"c.symbol({symbol}, {wide})"
        if isinstance(source, Reg) and source.name not in self.registers:
            return destinations_of(target), self._special(source.name, names)
        if isinstance(target, Vector) or isinstance(source, Vector):
            pieces = list(source.items) if isinstance(source, Vector) else [source]
            width = _width(instruction)
            each = width if len(pieces) == 1 else _part(width, len(pieces))
            arguments = ", ".join(self._source(piece, names, each) for piece in pieces)
            targets = destinations_of(target)
            function = _name(names, "f", effects.mover(len(pieces), len(targets), width))
            return targets, f"{function}({arguments})"
        return None

    def _special(self, name: str, names: dict[str, Any]) -> str:
        return f"c.special({_name(names, 's', name)})"

    def _source(self, operand: Operand, names: dict[str, Any], width: Any) -> str:
        match operand:
            case Reg(name) if name in self.registers:
                return f"r[{self.registers[name]}]"
            case Reg(name) if name.startswith("%"):
                return self._special(name, names)
            case Not(reg):
                return f"np.logical_not({self._source(reg, names, width)})"
            case Imm(bits):
                return _name(names, "k", width(bits & (2 ** (8 * width().itemsize) - 1)))
            case Symbol():
                return f"c.symbol({_name(names, 's', operand)}, {width is np.uint64})"
        raise SimulationError(f"operand {operand} is not known here")

    def _effect_source(self, operand: Operand, names: dict[str, Any]) -> str:
        match operand:
            case Vector(items):
                return f"({', '.join(self._effect_source(item, names) for item in items)},)"
            case Imm(bits):
                return _name(names, "k", bits)
            case Address(base, offset, coordinates):
                address = self._address(base, offset, names)
                if not coordinates:
                    return address
                inner = ", ".join(self._effect_source(item, names) for item in coordinates)
                return f"({address}, ({inner},))"
        return self._source(operand, names, np.uint32)

    def _address(self, base: Reg | Symbol | Imm, offset: int, names: dict[str, Any]) -> str:
        match base:
            case Symbol(name):
                return f"c.symbol({_name(names, 's', Symbol(name, offset))}, True)"
            case Imm(bits):
                return _name(names, "k", np.uint64(bits + offset))
        source = self._source(base, names, np.uint32)
        if offset == 0:
            return source
        wide = self.program.kernel.register_type(base.name).endswith("64")
        constant = np.uint64(offset & (2**64 - 1)) if wide else np.uint32(offset & (2**32 - 1))
        return f"({source} + {_name(names, 'k', constant)})"


def _name(names: dict[str, Any], prefix: str, value: Any) -> str:
    name = f"{prefix}{len(names)}"
    names[name] = value
    return name


def destinations_of(operand: Operand) -> list[str]:
    """The registers that a destination operand names."""
    match operand:
        case Reg(name):
            return [name]
        case Pair(first, second):
            return [first.name, second.name]
        case Vector(items):
            return [item.name for item in items if isinstance(item, Reg)]
    raise SimulationError(f"destination {operand} is not known")


def names_of(instruction: Instruction) -> list[str]:
    """Every register that an instruction names, special registers and the sink left out."""
    found: list[str] = []

    def visit(operand: Operand) -> None:
        match operand:
            case Reg(name):
                found.append(name)
            case Not(reg):
                found.append(reg.name)
            case Pair(first, second):
                found.extend((first.name, second.name))
            case Vector(items):
                for item in items:
                    visit(item)
            case Address(base, _, coordinates):
                visit(base)
                for item in coordinates:
                    visit(item)

    for operand in instruction.operands:
        visit(operand)
    if instruction.guard is not None:
        found.append(guard_name(instruction.guard))
    return [name for name in found if name != SINK and not is_special(name)]


_SPECIAL = re.compile(
    r"%(n?tid|n?ctaid|laneid|n?warpid|n?smid|gridid|clock|clock_hi|clock64|globaltimer\w*|lanemask_\w+|"
    r"cluster_\w+|n?clusterid|is_explicit_cluster|dynamic_smem_size|total_smem_size|aggr_smem_size|envreg\d+|"
    r"reserved_smem_\w+|pm\d+)(\.[xyz])?"
)


@lru_cache(maxsize=4096)
def is_special(name: str) -> bool:
    """Whether `name` is a special register (PTX ISA, "Special registers")."""
    return _SPECIAL.fullmatch(name) is not None


def _written_first(program: Program) -> set[str]:
    """Registers whose first mention, in the order of the text, is an unconditional write."""
    seen: set[str] = set()
    written: set[str] = set()
    for block in program.blocks:
        for instruction in block.instructions:
            targets: list[str] = []
            operands = instruction.operands
            if operands and isinstance(operands[0], Reg | Pair | Vector) and instruction.guard is None:
                effect = effects.effect_of(instruction)
                if effect is None or effect.writes:
                    targets = destinations_of(operands[0])
            sources = Instruction(
                instruction.line, instruction.parts, operands[1:] if targets else operands, instruction.guard
            )
            seen.update(names_of(sources))
            written.update(name for name in targets if name not in seen)
            seen.update(targets)
        if isinstance(block.end, Wait):
            seen.update(names_of(block.end.instruction))
    return written


def _width(instruction: Instruction) -> Any:
    """The width of an immediate operand: the instruction's last type."""
    for part in reversed(instruction.parts[1:]):
        if match := _TYPE.match(part):
            width = _WIDTHS[match.group(1)]
            return _double(width) if part.endswith("x2") and match.group(1) != "64" else width
        if part == "pred":
            return np.bool_
    return np.uint32


def _double(width: Any) -> Any:
    return {np.uint8: np.uint16, np.uint16: np.uint32, np.uint32: np.uint64}[width]


def _part(width: Any, count: int) -> Any:
    return _WIDTHS[str(8 * width().itemsize // count)]

"""The PTX text that the DSL emits, as instructions: a parser of the statements, and nothing of their meaning.

Grammar from the PTX ISA, "Syntax" and "State spaces, types, and variables". Only what compiled kernels
contain is taken: one module, entries without calls, registers, shared variables. Anything else is a
`SimulationError` with its line. Names in a nested scope (inline assembly declares registers and labels there)
are made unique, so that a kernel's body is one flat list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from harness.simulator.errors import NotSimulatedError, SimulationError


@dataclass(frozen=True)
class Reg:
    """A register, special registers (`%tid.x`) included."""

    name: str


@dataclass(frozen=True)
class Imm:
    """A literal: its bits, two's complement in 64 bits; a floating-point literal's bits in its own width."""

    bits: int


@dataclass(frozen=True)
class Symbol:
    """A parameter, a shared variable or a label, plus a byte offset."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Address:
    """`[base + offset]`, with a TMA operand's coordinates if there are any."""

    base: Reg | Symbol | Imm
    offset: int = 0
    coordinates: tuple[Operand, ...] = ()


@dataclass(frozen=True)
class Vector:
    """`{a, b, ...}`."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """`value|predicate`, two destinations; the sink `_` is a register of that name."""

    first: Reg
    second: Reg


@dataclass(frozen=True)
class Not:
    """`!p`, a negated predicate operand."""

    reg: Reg


def guard_name(guard: Reg | Not) -> str:
    """The predicate register of a guard, negated or not."""
    return guard.reg.name if isinstance(guard, Not) else guard.name


Operand = Reg | Imm | Symbol | Address | Vector | Pair | Not


@dataclass(frozen=True)
class Instruction:
    """One instruction. `parts` is the opcode split at the dots; `guard` its predicate, perhaps negated."""

    line: int
    parts: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Reg | Not | None = None
    text: str = ""

    @property
    def opcode(self) -> str:
        return ".".join(self.parts)


@dataclass(frozen=True)
class Label:
    line: int
    name: str


@dataclass(frozen=True)
class Param:
    """A kernel parameter: `size` bytes at `offset` of the parameter space."""

    name: str
    size: int
    align: int
    offset: int


@dataclass(frozen=True)
class Variable:
    """A variable in shared or local memory; of `size` 0, the dynamic part, which the launch sizes."""

    name: str
    size: int
    align: int


@dataclass
class Kernel:
    """One entry point. `registers` maps a declared prefix or name to its type (`b32`, `pred`, ...)."""

    name: str
    params: tuple[Param, ...]
    body: list[Instruction | Label] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)
    local: dict[str, Variable] = field(default_factory=dict)
    required_threads: tuple[int, ...] = ()
    required_cluster: tuple[int, ...] = ()

    def register_type(self, name: str) -> str:
        """The declared type of register `name`; raises `SimulationError` for an undeclared one."""
        if name in self.registers:
            return self.registers[name]
        prefix = name.rstrip("0123456789")
        if prefix + "#" in self.registers:
            return self.registers[prefix + "#"]
        raise SimulationError(f"register {name} is not declared")


@dataclass
class Module:
    target: str
    kernels: dict[str, Kernel]
    shared: dict[str, Variable]


_SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_LABEL = re.compile(r"\s*([$%A-Za-z_][\w$]*)\s*:(?!:)")
_GUARD = re.compile(r"@(!?)\s*([%\w$]+)\s+")
_NAME = r"[$%A-Za-z_][\w$.]*"
_ENTRY = re.compile(r"(?:\.visible|\.weak)?\s*\.entry\s+([\w$]+)\s*\((.*?)\)([^{]*)\{", re.DOTALL)
_PARAM = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.([a-z])(\d+)(?:\s+\.ptr(?:\s+\.align\s+\d+|\s+\.\w+)*)?\s+([\w$]+)(?:\[(\d+)\])?"
)
_SHARED = re.compile(
    r"(?:\.extern|\.visible|\.weak|\.common)?\s*\.shared\s+(?:\.align\s+(\d+)\s+)?\.[a-z](\d+)\s+([\w$]+)(?:\[(\d*)\])?$"
)
_LOCAL = re.compile(r"\.local\s+(?:\.align\s+(\d+)\s+)?\.[a-z](\d+)\s+([\w$]+)(?:\[(\d+)\])?$")
_REG = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.DOTALL)


def parse(text: str) -> Module:
    """The module in `text`; raises `SimulationError` naming the line it cannot take."""
    text = _COMMENT.sub(lambda match: "\n" * match.group().count("\n"), text)
    target = re.search(r"\.target\s+(\w+)", text)
    if target is None:
        raise SimulationError("not PTX: no .target directive")
    shared: dict[str, Variable] = {}
    kernels: dict[str, Kernel] = {}
    outside = 0
    for match in _ENTRY.finditer(text):
        _collect_shared(text[outside : match.start()], shared)
        kernel = Kernel(match.group(1), _params(match.group(2)))
        kernel.required_threads = _dimensions(match.group(3), "reqntid")
        kernel.required_cluster = _dimensions(match.group(3), "reqnctapercluster")
        outside = _Body(text, match.end(), kernel, shared).parse()
        kernels[kernel.name] = kernel
    if not kernels:
        raise SimulationError("not a kernel: no .entry in the PTX")
    return Module(target.group(1), kernels, shared)


def _params(text: str) -> tuple[Param, ...]:
    params: list[Param] = []
    offset = 0
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        match = _PARAM.match(item)
        if match is None:
            raise SimulationError(f"parameter {item!r} is not understood")
        align, _, bits, name, count = match.groups()
        size = _SIZES[bits] * int(count or 1)
        alignment = int(align or _SIZES[bits])
        offset = -(-offset // alignment) * alignment
        params.append(Param(name, size, alignment, offset))
        offset += size
    return tuple(params)


def _dimensions(text: str, directive: str) -> tuple[int, ...]:
    match = re.search(rf"\.{directive}\s+([\d,\s]+)", text)
    return tuple(int(n) for n in match.group(1).split(",")) if match else ()


def _collect_shared(text: str, shared: dict[str, Variable]) -> None:
    for statement in text.split(";"):
        if ".shared" in statement:
            variable = _variable(statement.strip(), _SHARED)
            shared[variable.name] = variable


def _variable(statement: str, form: re.Pattern[str]) -> Variable:
    match = form.search(statement)
    if match is None:
        raise SimulationError(f"variable {statement!r} is not understood")
    align, bits, name, count = match.groups()
    size = _SIZES[bits] * (int(count) if count else 0 if count == "" else 1)
    return Variable(name, size, int(align or _SIZES[bits]))


class _Body:
    """A recursive walk over the statements of one kernel's braces."""

    def __init__(self, text: str, start: int, kernel: Kernel, shared: dict[str, Variable]) -> None:
        self.text, self.position, self.kernel, self.shared = text, start, kernel, shared
        self.line = text.count("\n", 0, start) + 1
        self.counted = start
        self.scopes = 0

    def parse(self) -> int:
        """Take everything up to the closing brace; the position behind it."""
        self._scope({}, "")
        return self.position

    def _scope(self, renamed: dict[str, str], suffix: str) -> None:
        if suffix:
            renamed = renamed | {name: name + suffix for name in self._labels_ahead()}
        while True:
            self._skip_space()
            character = self.text[self.position : self.position + 1]
            if not character:
                raise SimulationError(f"line {self.line}: the kernel {self.kernel.name} does not end")
            if character == "}":
                self.position += 1
                return
            if character == "{":
                self.position += 1
                self.scopes += 1
                self._scope(renamed, f"${self.scopes}")
            elif match := _LABEL.match(self.text, self.position):
                self.position = match.end()
                name = match.group(1)
                self.kernel.body.append(Label(self.line, renamed.get(name, name)))
            elif character == ";":
                self.position += 1
            else:
                end = self.text.index(";", self.position)
                statement = self.text[self.position : end].strip()
                line = self._line_at(self.position)
                self.position = end + 1
                self._statement(statement, line, renamed, suffix)

    def _labels_ahead(self) -> list[str]:
        depth, position = 1, self.position
        while depth:
            depth += {"{": 1, "}": -1}.get(self.text[position], 0)
            position += 1
        inner = self.text[self.position : position]
        return re.findall(r"(?:^|[;{}\n])\s*([$A-Za-z_][\w$]*)\s*:(?!:)", inner)

    def _line_at(self, position: int) -> int:
        self.line += self.text.count("\n", self.counted, position)
        self.counted = position
        return self.line

    def _skip_space(self) -> None:
        while self.text[self.position : self.position + 1].isspace():
            self.position += 1
        self._line_at(self.position)

    def _statement(self, statement: str, line: int, renamed: dict[str, str], suffix: str) -> None:
        try:
            if match := _REG.match(statement):
                self._declare(match.group(1), match.group(2), renamed, suffix)
            elif ".shared" in statement.split("[")[0] and statement.startswith((".shared", ".extern")):
                variable = _variable(statement, _SHARED)
                self.shared[variable.name] = variable
            elif statement.startswith(".local"):
                variable = _variable(statement, _LOCAL)
                self.kernel.local[variable.name] = variable
            elif statement.startswith((".pragma", ".loc", ".file", ".section")):
                pass
            elif statement.startswith("."):
                raise NotSimulatedError(f"directive {statement.split()[0]} is not known")
            else:
                self.kernel.body.append(instruction(statement, line, renamed))
        except SimulationError as error:
            raise error.located(f"PTX line {line}") from None

    def _declare(self, kind: str, names: str, renamed: dict[str, str], suffix: str) -> None:
        for name in (piece.strip() for piece in names.split(",")):
            if match := re.fullmatch(r"(%?[\w$]+)<(\d+)>", name):
                if suffix:
                    raise SimulationError(f"a range of registers {name} in a nested scope")
                self.kernel.registers[match.group(1) + "#"] = kind
            else:
                if suffix:
                    renamed[name] = name + suffix
                self.kernel.registers[name + suffix] = kind


def instruction(statement: str, line: int, renamed: dict[str, str] | None = None) -> Instruction:
    """One statement without its semicolon."""
    guard: Reg | Not | None = None
    text = statement
    if match := _GUARD.match(statement):
        reg = Reg((renamed or {}).get(match.group(2), match.group(2)))
        guard = Not(reg) if match.group(1) else reg
        statement = statement[match.end() :]
    opcode, _, rest = statement.replace("\t", " ").partition(" ")
    operands = _Operands(rest, renamed or {}).parse()
    return Instruction(line, tuple(opcode.strip().split(".")), operands, guard, " ".join(text.split()))


_TOKEN = re.compile(
    rf"\s*(0[fF][0-9a-fA-F]{{8}}|0[dD][0-9a-fA-F]{{16}}|-?0[xX][0-9a-fA-F]+U?|-?\d+U?(?![\w.])|{_NAME}|[-+{{}}\[\],|!])"
)


class _Operands:
    """The operand list of one instruction."""

    def __init__(self, text: str, renamed: dict[str, str]) -> None:
        self.renamed = renamed
        self.tokens: list[str] = []
        position, text = 0, text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise SimulationError(f"operand {text[position:].strip()!r} is not understood")
            self.tokens.append(match.group(1))
            position = match.end()
        self.index = 0

    def parse(self) -> tuple[Operand, ...]:
        operands: list[Operand] = []
        while self.index < len(self.tokens):
            operands.append(self._operand())
            if self.index < len(self.tokens):
                self._expect(",")
        return tuple(operands)

    def _next(self) -> str:
        if self.index >= len(self.tokens):
            raise SimulationError("the operand list ends early")
        self.index += 1
        return self.tokens[self.index - 1]

    def _peek(self) -> str:
        return self.tokens[self.index] if self.index < len(self.tokens) else ""

    def _expect(self, token: str) -> None:
        if (found := self._next()) != token:
            raise SimulationError(f"{token!r} expected, found {found!r}")

    def _operand(self) -> Operand:
        token = self._next()
        if token == "{":
            return self._vector()
        if token == "[":
            return self._address()
        if token == "!":
            return Not(Reg(self._renamed(self._next())))
        if token[0].isdigit() or (token[0] == "-" and len(token) > 1):
            return Imm(_literal(token))
        operand = self._named(token)
        if self._peek() == "|":
            self._next()
            second = Reg(self._renamed(self._next()))
            assert isinstance(operand, Reg)
            return Pair(operand, second)
        if isinstance(operand, Symbol) and self._peek() == "+":
            self._next()
            return Symbol(operand.name, _literal(self._next()))
        return operand

    def _renamed(self, name: str) -> str:
        return self.renamed.get(name, name)

    def _named(self, token: str) -> Reg | Symbol:
        name = self._renamed(token)
        if name.startswith("%") or token == "_" or name != token:
            # A renamed label is only ever a branch target, where a register of that name does as well.
            return Reg(name)
        return Symbol(name)

    def _vector(self) -> Vector:
        items: list[Operand] = []
        while True:
            items.append(self._operand())
            token = self._next()
            if token == "}":
                return Vector(tuple(items))
            if token != ",":
                raise SimulationError(f"',' or '}}' expected in a vector, found {token!r}")

    def _address(self) -> Address:
        base = self._operand()
        assert isinstance(base, Reg | Symbol | Imm)
        offset = 0
        coordinates: tuple[Operand, ...] = ()
        if isinstance(base, Symbol):
            base, offset = Symbol(base.name), base.offset
        while (token := self._next()) != "]":
            if token == "+":
                offset += _literal(self._next())
            elif token == "," and self._next() == "{":
                coordinates = self._vector().items
            else:
                raise SimulationError(f"{token!r} is not understood in an address")
        return Address(base, offset, coordinates)


def _literal(token: str) -> int:
    if token[:2].lower() in ("0f", "0d"):
        return int(token[2:], 16)
    value = int(token.rstrip("Uu"), 0)
    return value if value < 0 else value & 0xFFFF_FFFF_FFFF_FFFF

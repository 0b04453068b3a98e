"""A kernel's control flow: blocks, where they lead, and where diverging lanes meet again.

Blocks end at branches and at every instruction that may have to wait for others, so that a warp always stops
and resumes between blocks. The loop that inline assembly spins in,

    LAB_WAIT: mbarrier.try_wait P, [addr], parity;  @P bra DONE;  bra LAB_WAIT;  DONE:

is one waiting instruction, `mbarrier.wait`: spinning has no effect of its own. So is the same loop as
compiled from a source language, which sets the operands anew at each turn and tests the negated predicate.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property

import networkx as nx  # type: ignore[import-untyped]

from harness.simulator.errors import SimulationError
from harness.simulator.ptx import Imm, Instruction, Kernel, Label, Not, Operand, Reg, Symbol

EXIT = -1
# The longest loop taken for a wait: label, eight instructions that set operands, attempt, test, branch.
SPIN_ITEMS = 12
# What takes a member mask, with `.sync`.
_LANE_WISE = ("shfl", "vote", "match", "redux", "elect")
_SETTING = ("mov", "add", "shl", "setp", "selp")

# What may have to wait for other warps or units, by the parts that the opcode begins with.
WAITING: tuple[tuple[str, ...], ...] = (
    ("mbarrier", "wait"),
    ("bar", "sync"),
    ("barrier", "sync"),
    ("bar", "red"),
    ("barrier", "cta", "sync"),
    ("barrier", "cluster", "wait"),
    ("cp", "async", "bulk", "wait_group"),
    ("tcgen05", "alloc"),
    ("griddepcontrol", "wait"),
    ("setmaxnreg", "inc"),
)


@dataclass(frozen=True)
class Jump:
    target: int


@dataclass(frozen=True)
class Branch:
    """To `taken` where the guard holds, else to `fall`."""

    line: int
    guard: Reg | Not
    taken: int
    fall: int


@dataclass(frozen=True)
class Wait:
    """Execute a waiting instruction, then go on at `target`."""

    instruction: Instruction
    target: int


@dataclass(frozen=True)
class Exit:
    pass


@dataclass
class Block:
    index: int
    label: str
    instructions: list[Instruction] = field(default_factory=list)
    end: Jump | Branch | Wait | Exit = field(default_factory=Exit)

    def successors(self) -> tuple[int, ...]:
        match self.end:
            case Jump(target) | Wait(_, target):
                return (target,)
            case Branch(_, _, taken, fall):
                return (taken, fall)
        return ()


class Program:
    """The control flow graph of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.blocks = _blocks(_with_waits(kernel.body))

    @cached_property
    def _post_dominators(self) -> dict[int, int]:
        graph = nx.DiGraph()
        for block in self.blocks:
            ends = isinstance(block.end, Exit)
            graph.add_edges_from(
                (target, block.index) for target in block.successors() or (EXIT,) if not ends
            )
            if ends:
                graph.add_edge(EXIT, block.index)
        dominators: dict[int, int] = nx.immediate_dominators(graph, EXIT)
        return dominators

    def reconvergence(self, block: int) -> int:
        """The first block that every path from `block` passes: its immediate post-dominator, or EXIT."""
        return self._post_dominators.get(block, EXIT)

    @cached_property
    def gathers(self) -> list[bool]:
        """Of each block, whether it has instructions that the warps of a warpgroup execute together."""
        return [any(one.parts[0] == "wgmma" for one in block.instructions) for block in self.blocks]

    @cached_property
    def synchronizes_lanes(self) -> list[bool]:
        """Of each block, whether lanes there may still come to an instruction with a member mask."""
        found = [
            any("sync" in one.parts and one.parts[0] in _LANE_WISE for one in block.instructions)
            for block in self.blocks
        ]
        changed = True
        while changed:
            changed = False
            for block in reversed(self.blocks):
                if not found[block.index] and any(found[target] for target in block.successors()):
                    found[block.index] = changed = True
        return found

    @cached_property
    def maskable(self) -> dict[int, bool]:
        """For each branching block, whether both sides may run one after the other with lanes masked.

        They may not when something waits on the way to the reconvergence: the other side might be what it
        waits for.
        """
        return {
            block.index: not any(
                isinstance(self.blocks[inner].end, Wait) or self.gathers[inner]
                for inner in self.region(block.index)
            )
            for block in self.blocks
            if isinstance(block.end, Branch)
        }

    def region(self, branch: int) -> set[int]:
        """The blocks between a branch and its reconvergence."""
        stop = self.reconvergence(branch)
        found: set[int] = set()
        todo = [target for target in self.blocks[branch].successors() if target != stop]
        while todo:
            index = todo.pop()
            if index not in found:
                found.add(index)
                todo += [target for target in self.blocks[index].successors() if target != stop]
        return found


def _with_waits(body: list[Instruction | Label]) -> list[Instruction | Label]:
    """The body with every spinning loop replaced by one `mbarrier.wait`."""
    from harness.simulator.codegen import names_of

    out: list[Instruction | Label] = []
    mentions = Counter(name for item in body if isinstance(item, Instruction) for name in names_of(item))
    index = 0
    while index < len(body):
        if spin := _spin(body[index : index + SPIN_ITEMS]):
            loop = [item for item in body[index : index + spin[1]] if isinstance(item, Instruction)]
            inside = Counter(name for item in loop for name in names_of(item))
            # Where nobody else names a predicate, as in inline assembly, nothing need set it.
            outside = mentions - inside
            out += spin[0]
            out += [one for one in _left_by(loop) if outside[names_of(one)[0]]]
            index += spin[1]
        else:
            out.append(body[index])
            index += 1
    return out


def _left_by(loop: list[Instruction]) -> list[Instruction]:
    """What sets the predicates of a spinning loop to what they are behind it."""
    return [
        replace(item, parts=("mov", "pred"), operands=(item.operands[0], Imm(item.parts[0] == "mbarrier")))
        for item in loop
        if item.parts[0] == "mbarrier" or item.parts == ("not", "pred")
    ]


def _spin(window: list[Instruction | Label]) -> tuple[list[Instruction | Label], int] | None:
    """What the loop at the head of `window` amounts to, ending in a wait, and how many items it has."""
    head = window[0]
    if len(window) < 3 or not isinstance(head, Label):
        return None
    first = _operands_set(window[1:])
    found = _attempts(head, window[1 + len(first) :])
    return None if found is None else ([head, *first, found[0]], 1 + len(first) + found[1])


def _operands_set(loop: list[Instruction | Label]) -> list[Instruction]:
    """The instructions at the head of a loop that set its operands, to the same at each turn."""
    first: list[Instruction] = []
    for item in loop:
        if not isinstance(item, Instruction) or item.parts[0] not in _SETTING or item.guard is not None:
            break
        first.append(item)
    later = {item.operands[0] for item in first}
    for item in first:
        # A register that one turn of the loop leaves to the next.
        if later.intersection(item.operands[1:]):
            return []
        later.discard(item.operands[0])
    return first


def _attempts(head: Label, loop: list[Instruction | Label]) -> tuple[Instruction, int] | None:
    """The wait that `loop`, behind its label, amounts to, and how many of its items are the loop's."""
    if len(loop) < 2:
        return None
    attempt, test = loop[:2]
    if not isinstance(attempt, Instruction) or not isinstance(test, Instruction):
        return None
    if attempt.parts[0] != "mbarrier" or attempt.parts[1] not in ("try_wait", "test_wait"):
        return None
    wait = replace(attempt, parts=("mbarrier", "wait", *attempt.parts[2:]), operands=attempt.operands[1:])
    done = attempt.operands[0]
    assert isinstance(done, Reg)
    if test.parts == ("not", "pred") and test.operands[1] == done and len(loop) > 2:
        back = loop[2]
        if not isinstance(back, Instruction) or back.parts[0] != "bra" or back.guard != test.operands[0]:
            return None
        return (wait, 3) if _target(back) == head.name else None
    if test.parts[0] != "bra":
        return None
    if test.guard == Not(done) and _target(test) == head.name:
        return wait, 2
    if not (test.guard == done and len(loop) > 3):
        return None
    again, way_out = loop[2:4]
    if not isinstance(again, Instruction) or again.parts[0] != "bra" or again.guard is not None:
        return None
    if _target(again) != head.name or not isinstance(way_out, Label) or way_out.name != _target(test):
        return None
    return wait, 3


def _target(branch: Instruction) -> str:
    operand: Operand = branch.operands[0]
    assert isinstance(operand, Reg | Symbol)
    return operand.name


def is_waiting(instruction: Instruction) -> bool:
    return any(instruction.parts[: len(prefix)] == prefix for prefix in WAITING)


def _blocks(body: list[Instruction | Label]) -> list[Block]:
    starts: dict[str, int] = {}
    blocks: list[Block] = []
    branches: list[tuple[int, Instruction]] = []
    open_block: Block | None = None

    def begin(label: str) -> Block:
        block = Block(len(blocks), label)
        blocks.append(block)
        return block

    for item in body:
        if isinstance(item, Label):
            fresh = begin(item.name)
            starts[item.name] = fresh.index
            if open_block is not None:
                open_block.end = Jump(fresh.index)
            open_block = fresh
            continue
        if open_block is None:
            open_block = begin(f"after line {item.line}")
        if item.parts[0] == "bra":
            branches.append((open_block.index, item))
            if item.guard is None:
                open_block = None
            else:
                fresh = begin(f"after line {item.line}")
                open_block.end = Branch(item.line, item.guard, EXIT, fresh.index)
                open_block = fresh
        elif item.parts[0] in ("ret", "exit"):
            if item.guard is None:
                open_block.end = Exit()
                open_block = None
            else:
                way_out = begin(f"exit at line {item.line}")
                fresh = begin(f"after line {item.line}")
                open_block.end = Branch(item.line, item.guard, way_out.index, fresh.index)
                open_block = fresh
        elif is_waiting(item):
            waiting = open_block
            if item.guard is not None:
                waiting = begin(f"line {item.line}")
            fresh = begin(f"after line {item.line}")
            if item.guard is not None:
                open_block.end = Branch(item.line, item.guard, waiting.index, fresh.index)
            waiting.end = Wait(replace(item, guard=None), fresh.index)
            open_block = fresh
        else:
            open_block.instructions.append(item)
    for index, branch in branches:
        target = starts.get(_target(branch))
        if target is None:
            raise SimulationError(f"PTX line {branch.line}: no label {_target(branch)}")
        end = blocks[index].end
        blocks[index].end = replace(end, taken=target) if isinstance(end, Branch) else Jump(target)
    return blocks

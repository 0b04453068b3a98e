"""Plain loads and stores in global memory by access pattern: what an SM passes, what the L2 of all at once.

A pattern says how many lines of 128 bytes and sectors of 32 bytes a warp's instruction touches: its lanes lie
in so many rows of a matrix, as an epilogue's lanes do. Each access of a turn touches sectors of its own, and
all of a turn's loads are under way before the first is used.

Parameters: p0 turns, p1 bytes from one CTA's places to the next one's, p2 warps that take part, p3 bytes by
which all places move on after each turn. Columns: cycles until all accesses were issued and all loads used;
of stores also until all were performed.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.simulator.cluster_port import LINE_BYTES, SECTOR_BYTES
from harness.simulator.microbench.micro import Micro, Run, clock, keep, store, timed_loop

LANES = 32
WARPS = 16
PITCH = 1536  # bytes from row to row: fp32 logits of 384 experts
# What the loads of a warp's turn fill: with 16, the assembler uses the first before it issues the last.
TURN_REGISTERS = 12
# Sectors of a warp's turn, at most: 132 SMs access 9 MB, which lie in either half of the L2. At least it is
# 1.5 KB (one sector a load: 384 bytes). So 16 warps have 24 KB under way, and an L2 hit's latency at 64 bytes
# a cycle asks for 18.
TURN_BYTES = 4096
# All warps of a CTA together, however many they are: runs of a micro differ in nothing else.
WARP_TURNS = 512
SMS = 132


@dataclass(frozen=True)
class Pattern:
    """`rows` rows, `PITCH` bytes apart; as many lanes side by side in each, `lane_bytes` of each lane.

    `every`: bytes from lane to lane, more than it accesses where lanes leave gaps; 0: there are none.
    """

    rows: int
    lane_bytes: int
    every: int = 0

    @property
    def name(self) -> str:
        return f"rows{self.rows}_bytes{self.lane_bytes}" + (f"_every{self.every}" if self.every else "")

    def micro(self, op: str) -> str:
        """The name of the micro that accesses memory so, by `op` of `INSTRUCTIONS`."""
        return f"pattern_{op}_{self.name}"

    @property
    def lane_step(self) -> int:
        return self.every or self.lane_bytes

    @property
    def row_bytes(self) -> int:
        """Of a row, gaps included."""
        return LANES // self.rows * self.lane_step

    @property
    def lines(self) -> int:
        return self.rows * -(-self.row_bytes // LINE_BYTES)

    @property
    def sectors(self) -> int:
        return self.rows * -(-self.row_bytes // SECTOR_BYTES)

    @property
    def registers(self) -> int:
        """Of a lane's access: a byte takes a whole one."""
        return max(1, self.lane_bytes // 4)

    @property
    def accesses(self) -> int:
        """Of a warp's turn."""
        return min(TURN_REGISTERS // self.registers, TURN_BYTES // (self.sectors * SECTOR_BYTES))

    @property
    def warp_bytes(self) -> int:
        """From one warp's places to the next one's: whole rows."""
        return -(-self.accesses * self._step // PITCH) * self.rows * PITCH

    def offset(self, number: int) -> int:
        """Bytes of a turn's access behind the first: along the rows, then on in as many rows below them."""
        down, along = divmod(number * self._step, PITCH)
        return down * self.rows * PITCH + along

    @property
    def _step(self) -> int:
        """From an access to the next one along the rows: to sectors of its own. It divides `PITCH`."""
        return max(self.row_bytes, SECTOR_BYTES)


PATTERNS = (
    Pattern(1, 1),  # one sector
    *(Pattern(rows, 4) for rows in (1, 2, 4, 8, 16, 32)),
    Pattern(1, 8),
    Pattern(8, 8),  # an accumulator's fp32: pairs of columns in 8 rows, whole sectors
    *(Pattern(rows, 16) for rows in (1, 8, 16, 32)),
)
# Stores whose lanes leave gaps in sectors: an accumulator's columns one by one; one of a token's six results,
# and two of them; a word of each sector, and a half.
GAPS = (Pattern(8, 4, 8), Pattern(1, 4, 24), Pattern(1, 8, 24), Pattern(1, 4, 32), Pattern(1, 16, 32))
# `ld`: finds in the L1 what an earlier turn loaded. `ld_cg`: "cache at global level", the L2 (PTX ISA, cache
# operators): the same bytes in every turn, and still from there.
INSTRUCTIONS = {"st": "st.global", "ld": "ld.global", "ld_cg": "ld.global.cg"}
# Of the warps that take part.
BARRIER = "bar.sync 0, taking;\n"
TYPES = {1: "u8", 4: "b32", 8: "v2.b32", 16: "v4.b32"}


def micros() -> list[Micro]:
    whole = [_micro(op, pattern) for op in INSTRUCTIONS for pattern in PATTERNS]
    return whole + [_micro("st", pattern) for pattern in GAPS]


def _micro(op: str, pattern: Pattern) -> Micro:
    body = _stores(pattern) if op == "st" else _loads(INSTRUCTIONS[op], pattern)
    return Micro(pattern.micro(op), body, _runs(op, pattern), WARPS * LANES)


def _runs(op: str, pattern: Pattern) -> tuple[Run, ...]:
    """`one`: so many warps of one SM. `new`: every turn accesses what none did before it, so that plain loads
    miss the L1. `own`, `same`: all SMs, each its own bytes or all the same ones.
    """
    whole = WARPS * pattern.warp_bytes
    turns = WARP_TURNS // WARPS
    one = tuple(Run(f"one_{warps}", 1, (WARP_TURNS // warps, 0, warps, 0)) for warps in (1, 4, WARPS))
    new = Run(f"new_{WARPS}", 1, (turns, 0, WARPS, whole))
    own = Run(f"own_{SMS}", SMS, (turns, whole, WARPS, 0))
    match op:
        case "st":
            return (*one, new, own)
        case "ld":
            return (*one, new, Run(f"new_same_{SMS}", SMS, (turns, 0, WARPS, whole)))
        case _:
            return (*one, own, Run(f"same_{SMS}", SMS, (turns, 0, WARPS, 0)))


def _places(pattern: Pattern) -> str:
    """PTX: `at`, each lane's place of the first access, and what `_loop` needs."""
    lanes = LANES // pattern.rows
    return f"""
.reg .b64 at, move;
.reg .b32 warp, taking, row, place, v;
.reg .pred idle;
shr.u32 warp, tid, 5;
mul.lo.u32 place, warp, {pattern.warp_bytes};
and.b32 v, tid, {LANES - 1};
shr.u32 row, v, {lanes.bit_length() - 1};
mad.lo.u32 place, row, {PITCH}, place;
and.b32 v, tid, {lanes - 1};
mad.lo.u32 place, v, {pattern.lane_step}, place;
mov.u32 v, %ctaid.x;
mad.lo.u32 place, v, p1, place;
mad.wide.u32 at, place, 1, src;
cvt.u64.u32 move, p3;
setp.ge.u32 idle, warp, p2;
mul.lo.u32 taking, p2, {LANES};
@idle bra IDLE;
"""


def _loop(setup: str, accesses: str, before: str, finish: str) -> str:
    """Turns of `accesses`, timed behind a first one and `before`: it brings in code and address translations.

    Mostly the places move on by a zero, unknown to the compiler: it leaves no access out.
    """
    step = f"add.u64 at, at, move;\n{accesses}"
    return timed_loop(setup + step + before, step, f"{finish}IDLE:\n", BARRIER)


def _stores(pattern: Pattern) -> str:
    values = _operand([f"p{4 + number}" for number in range(pattern.registers)])
    accesses = "".join(
        f"{INSTRUCTIONS['st']}.{TYPES[pattern.lane_bytes]} [at+{pattern.offset(number)}], {values};\n"
        for number in range(pattern.accesses)
    )
    # Nothing of the first turn is under way any more.
    fence = "fence.acq_rel.gpu;\n"
    # The label begins a block: the simulator's clock shows the end of the block that reads it.
    performed = f"""
ISSUED:
{fence}{BARRIER}
{clock("performed")}
sub.u64 performed, performed, begin;
@writes {store(1, "performed")}
"""
    return _loop(".reg .b64 performed;\n" + _places(pattern), accesses, fence, performed)


def _loads(instruction: str, pattern: Pattern) -> str:
    values = [f"v{number}" for number in range(pattern.accesses * pattern.registers)]
    accesses = ""
    for number in range(pattern.accesses):
        loaded = _operand(values[number * pattern.registers :][: pattern.registers])
        accesses += f"{instruction}.{TYPES[pattern.lane_bytes]} {loaded}, [at+{pattern.offset(number)}];\n"
    # Here the assembler mixes no turn with the next one.
    accesses += "bar.warp.sync 0xffffffff;\n"
    accesses += "".join(f"xor.b32 sum, sum, {value};\n" for value in values)
    setup = f".reg .b32 sum, {', '.join(values)};\nmov.b32 sum, 0;\n{_places(pattern)}"
    return _loop(setup, accesses, "", keep(["sum"]))


def _operand(registers: list[str]) -> str:
    return "{" + ", ".join(registers) + "}" if len(registers) > 1 else registers[0]

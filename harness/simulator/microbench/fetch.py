"""Instruction fetch: straight-line code run twice in one launch; the first pass brings it in."""

from __future__ import annotations

from harness.simulator.microbench.micro import Micro, Run, clock, keep, store

INSTRUCTIONS = (128, 256, 512, 1024, 2048, 4096)
CHAINS = 8
INSTRUCTION_BYTES = 16
SMS = 132


def micros() -> list[Micro]:
    runs = (
        Run("again", 1),
        Run("again_132", SMS),
        Run("cold", 1, flush=True),
        Run("cold_132", SMS, flush=True),
    )
    return [Micro(f"fetch_{count}", _body(_line(count)), runs) for count in INSTRUCTIONS]


def _line(count: int) -> str:
    return "".join(f"fma.rn.f32 x{number % CHAINS}, x{number % CHAINS}, b, c;\n" for number in range(count))


def _body(code: str) -> str:
    """Columns: cycles of the first and of the second pass."""
    registers = [f"x{number}" for number in range(CHAINS)]
    setup = "".join(f"add.u32 {register}, p1, {number};\n" for number, register in enumerate(registers))
    return f"""
.reg .b64 begin, end, first;
.reg .b32 {", ".join(registers)}, b, c, turn;
.reg .pred again;
mov.b32 b, p2;
mov.b32 c, p3;
mov.b64 first, 0;
mov.b32 turn, p4;
{setup}
bar.sync 0;
PASS:
{clock("begin")}
{code}
bar.sync 0;
{clock("end")}
sub.u64 end, end, begin;
setp.eq.u32 again, turn, 0;
@again mov.b64 first, end;
add.u32 turn, turn, 1;
@again bra PASS;
{store(0, "first")}{store(1, "end")}
{keep(registers)}
"""

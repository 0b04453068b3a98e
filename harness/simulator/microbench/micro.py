"""One micro-benchmark: a kernel whose body is PTX, and the launches that measure it.

The body sees these registers: `out` (.b64, the global address of the CTA's row of `OUT_COLUMNS` int64
results), `src` (.b64, the source matrix), `map` (.b64, the source's tensor map), `smem` (.b32, dynamic shared
memory, aligned to 1024 bytes), `tid` (.b32) and `p0` to `p7` (.b32, the run's parameters).
"""

from __future__ import annotations

from dataclasses import dataclass

TARGET = "sm_90a"
OUT_COLUMNS = 16
PARAMETERS = 8
# The source matrix: bf16 [SOURCE_ROWS, SOURCE_COLUMNS], as wide as the router's activations; 20 times the L2.
SOURCE_COLUMNS = 7168
SOURCE_ROWS = 73728
TILE_COLUMNS = 64  # of a box: 128 bytes, one row of the 128-byte swizzle


@dataclass(frozen=True)
class Run:
    """One measurement of a micro: `ctas` CTAs with `parameters`, `repeats` launches; the last ones count.

    `flush`: read more than the L2 holds before each launch. `graph`: time launches in a CUDA graph instead
    of reading what the kernel wrote. `whole`: record what every CTA wrote, of the last launch.
    """

    name: str
    ctas: int = 1
    parameters: tuple[int, ...] = ()
    repeats: int = 5
    flush: bool = False
    graph: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Micro:
    """A kernel: `body` is its PTX; `box_rows` is the height of the tensor map's box, 0 for none."""

    name: str
    body: str
    runs: tuple[Run, ...]
    threads: int = 32
    cluster: int = 1
    smem_bytes: int = 0
    box_rows: int = 0


def store(column: int, register: str) -> str:
    """PTX that writes a .b64 register to a column of the CTA's results."""
    return f"st.global.b64 [out+{8 * column}], {register};\n"


def clock(register: str) -> str:
    """PTX that reads the SM's cycle counter; memory operations stay on their side of it."""
    return f"mov.u64 {register}, %clock64;\n"


def timed_loop(
    setup: str, step: str, finish: str = "", before: str = "bar.sync 0;\n", writer: str = "tid"
) -> str:
    """PTX that runs `step` p0 times and writes the cycles of all to column 0 of the CTA's results.

    `before` holds the threads together at both ends. The clock is read on its far sides: a warp that reads it
    after a barrier may do so long after another one went on. The thread whose `writer` register is 0 writes.
    """
    return f"""
.reg .b64 begin, end;
.reg .b32 turn;
.reg .pred more, writes;
{setup}
mov.u32 turn, 0;
{clock("begin")}{before}
TURN:
{step}
add.u32 turn, turn, 1;
setp.lt.u32 more, turn, p0;
@more bra TURN;
{before}{clock("end")}
sub.u64 end, end, begin;
setp.eq.u32 writes, {writer}, 0;
@writes {store(0, "end")}
{finish}
"""


def keep(registers: list[str]) -> str:
    """PTX that uses 32-bit registers, so that the compiler keeps what computes them."""
    sums = "".join(f"xor.b32 kept, kept, {register};\n" for register in registers)
    return f"""
.reg .b32 kept;
.reg .pred never;
mov.b32 kept, tid;
{sums}
setp.eq.u32 never, kept, 0x7ec0ffee;
@never st.global.b32 [out+120], kept;
"""

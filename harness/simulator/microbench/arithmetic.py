"""Arithmetic: latency from a chain in one warp, issue cycles from sixteen warps with eight chains each."""

from __future__ import annotations

from harness.simulator.microbench.micro import Micro, Run, keep, timed_loop

CHAINS = 8
UNROLL = 32
# Warps for each of the SM's four schedulers when issue is measured.
WARPS_PER_SCHEDULER = 4
LOOPS = 64

# Name, PTX of one link of the chain through {x}; {b}, {c} and {z} hold other numbers, {q} is a predicate.
LINKS: dict[str, str] = {
    "fma": "fma.rn.f32 {x}, {x}, {b}, {c};",
    "add": "add.f32 {x}, {x}, {b};",
    "mul": "mul.f32 {x}, {x}, {b};",
    "mad_int": "mad.lo.s32 {x}, {x}, {b}, {c};",
    "add_xor_int": "add.s32 {x}, {x}, {b}; xor.b32 {x}, {x}, {c};",
    "setp_selp": "setp.gt.f32 {q}, {x}, {b}; selp.b32 {x}, {c}, {z}, {q};",
    "setp_3_selp": "setp.gt.f32 {q}, {x}, {b}; selp.b32 {x}, {c}, {z}, {q}; selp.b32 {y}, {x}, {y}, {q}; "
    "selp.b32 {z}, {y}, {z}, {q};",
    "max_add": "max.f32 {x}, {x}, {b}; add.f32 {x}, {x}, {c};",
    "cvt_bf16x2": "cvt.rn.bf16x2.f32 {x}, {x}, {b};",
    "cvt_int": "cvt.rn.f32.s32 {x}, {x};",
    "ex2": "ex2.approx.ftz.f32 {x}, {x};",
    "ex2_denormal": "ex2.approx.f32 {x}, {x};",
    "lg2": "lg2.approx.ftz.f32 {x}, {x};",
    "rcp_add": "rcp.approx.ftz.f32 {x}, {x}; add.f32 {x}, {x}, {b};",
    "rcp_rn": "rcp.rn.f32 {x}, {x};",
    "rsqrt": "rsqrt.approx.ftz.f32 {x}, {x};",
    "sqrt_approx": "sqrt.approx.ftz.f32 {x}, {x};",
    "sqrt_rn": "sqrt.rn.f32 {x}, {x};",
    "div_rn": "div.rn.f32 {x}, {b}, {x};",
    "div_full": "div.full.f32 {x}, {b}, {x};",
    "shfl": "shfl.sync.bfly.b32 {x}, {x}, 1, 31, -1;",
    "elect": "elect.sync _|{q}, -1; @{q} add.f32 {x}, {x}, {b};",
    "redux": "redux.sync.add.s32 {x}, {x}, -1;",
}


def micros() -> list[Micro]:
    return [micro for name, link in LINKS.items() for micro in (_latency(name, link), _issue(name, link))]


def instructions(name: str) -> int:
    """PTX instructions of one link."""
    return LINKS[name].count(";")


def _latency(name: str, link: str) -> Micro:
    body = _body(link, [0] * UNROLL)
    return Micro(
        f"latency_{name}", body, (Run(name, parameters=(LOOPS, 1073741823, 1065353217, 1065353300)),)
    )


def _issue(name: str, link: str) -> Micro:
    body = _body(link, [number % CHAINS for number in range(UNROLL)])
    run = Run(name, parameters=(LOOPS, 1073741823, 1065353217, 1065353300))
    return Micro(f"issue_{name}", body, (run,), threads=128 * WARPS_PER_SCHEDULER)


def _body(link: str, chains: list[int]) -> str:
    used = sorted(set(chains))
    names = [f"{letter}{chain}" for chain in used for letter in "xyz"]
    setup = f".reg .b32 {', '.join([*names, 'b', 'c'])};\n"
    setup += f".reg .pred {', '.join(f'q{chain}' for chain in used)};\n"
    setup += "mov.b32 b, p2;\nmov.b32 c, p3;\n"
    setup += "".join(f"add.u32 {name}, p1, tid;\n" for name in names)
    step = "\n".join(
        link.format(x=f"x{chain}", y=f"y{chain}", z=f"z{chain}", q=f"q{chain}", b="b", c="c")
        for chain in chains
    )
    return timed_loop(setup, step, keep(names))

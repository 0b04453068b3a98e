"""The account of a modelled launch as text for a terminal."""

from __future__ import annotations

import re

from harness.simulator.account_record import LaunchAccount, WaveAccount
from results.markdown import number

SHOWN = 4  # of each role's longest work and waits
LEAST = 0.001  # of the wave's time
KIB = 1024


def account_text(title: str, account: LaunchAccount) -> str:
    """Where the time of a launch goes, a table for each wave."""
    lines = [
        title,
        f"modelled time: {account.microseconds:.2f} us at {account.clock_mhz:.0f} MHz, of which "
        f"{account.launch_cycles / account.clock_mhz:.2f} us are any launch's",
    ]
    for wave in account.waves:
        lines += ["", *_wave(wave, account.clock_mhz)]
    return "\n".join(lines)


def short_name(kernel: str) -> str:
    """A kernel's class in the name that the compiler makes of its module, class and types."""
    found = re.search(r"[A-Z]\w*?(?=_object_at_)", kernel)
    return found.group() if found else kernel


def _wave(wave: WaveAccount, clock_mhz: float) -> list[str]:
    ctas = f"{wave.simulated_ctas} CTAs simulated of a wave of {wave.clusters} clusters"
    lines = [
        f"{short_name(wave.kernel)}: {wave.cycles / clock_mhz:.2f} us ({wave.cycles:.0f} cycles), {ctas}",
        f"  tile loads {number(wave.l2_bytes / KIB)} KiB from the L2, of which "
        f"{number(wave.memory_bytes / KIB)} KiB came from memory; tile stores write "
        f"{number(wave.stored_bytes / KIB)} KiB",
        f"  {'unit':14} {'busy':>6}",
        *(f"  {unit:14} {share:6.1%}" for unit, share in wave.shares.items()),
        f"  {'warp role':14} {'busy':>6} {'ended':>6} {'waited':>6}  {'warps a CTA':>11}  where",
    ]
    for role in wave.roles:
        waited = sum(share for _, share in role.waits)
        lines.append(
            f"  {role.role:14} {role.busy:6.1%} {role.idle:6.1%} {waited:6.1%}  {role.warps_per_cta:11.4g}"
        )
        lines += [f"  {'':14} {share:6.1%} {'':28}{at}" for at, share in role.work[:SHOWN] if share >= LEAST]
        lines += [f"  {'':28} {share:6.1%} {'':14}{at}" for at, share in role.waits[:SHOWN] if share >= LEAST]
    return lines

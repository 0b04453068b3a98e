"""Simulated cycles of micro-benchmarks, in a process of its own.

Takes a JSON list of [micro, run, column] on standard input; its last line of output is the list of cycles.
"""

from __future__ import annotations

import json
import sys

from harness.simulator.microbench.catalogue import catalogue
from harness.simulator.microbench.simulate import Simulated
from harness.simulator.target import target_named


def main() -> None:
    micros = {micro.name: micro for micro in catalogue()}
    compiled: dict[str, Simulated] = {}
    cycles = []
    for name, run, column in json.load(sys.stdin):
        if name not in compiled:
            compiled[name] = Simulated(micros[name])
        chosen = next(one for one in micros[name].runs if one.name == run)
        cycles.append(compiled[name].cycles(chosen, target_named("sm_90a"), column))
    print(json.dumps(cycles))


if __name__ == "__main__":
    main()

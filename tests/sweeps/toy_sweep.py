"""A sweep of the toy space in a process of its own, for tests that kill it: `python toy_sweep.py DB STOP_AT`.

At the evaluation number STOP_AT (from 1) it says "measuring" and waits to be told to go on, or to be killed;
0: never. The configs measured are written to `DB.measured`, one per line, before each evaluation.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from harness.record import ParamValue
from sweeps.driver import Ending
from sweeps.space import config_id
from sweeps.stop import stop_on_signal
from tests.sweeps.toy_driver import SPEC, Sweep
from tests.sweeps.toys import ToyExecutor


def main(path: Path, stop_at: int) -> Ending:
    with Path(f"{path}.measured").open("a", buffering=1) as log, stop_on_signal() as stop:

        def before(params: dict[str, ParamValue]) -> None:
            log.write(config_id(params) + "\n")
            if len(executor.evaluated) == stop_at:
                print("measuring", flush=True)
                sys.stdin.readline()

        executor = ToyExecutor(before=before)
        spec = replace(SPEC, confirm=replace(SPEC.confirm, rounds=0))
        return Sweep(path, executor=executor, spec=spec, stop=stop).run()


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2])).name)

"""`python -m harness.simulator.witness CHECKOUT [--only TEXT ...] [--out table.jsonl]`.

The DSL compiles for one target in a process, so each target's cases run in a process of their own, one after
the other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import msgspec

from harness.compile import prepare_process
from harness.json_lines import append_line
from harness.simulator.witness.case import Case
from harness.simulator.witness.catalogue import cases
from harness.simulator.witness.execute import Outcome, Verdict, examples_importable, judge

ACCEPTED = (Outcome.PASSED, Outcome.NOT_COMPILED)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m harness.simulator.witness", description=__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout of NVIDIA/cutlass")
    parser.add_argument("--only", nargs="+", default=[], help="cases whose name has all of these texts")
    parser.add_argument("--out", type=Path, help="a file that gets one line of JSON for each case")
    parser.add_argument("--target", help="only this target's cases, in this process")
    arguments = parser.parse_args()
    chosen = [case for case in cases() if all(text in case.name for text in arguments.only)]
    targets = {case.target for case in chosen}
    if arguments.target is None:
        if arguments.out:
            arguments.out.unlink(missing_ok=True)
        command = [sys.executable, "-m", "harness.simulator.witness", *sys.argv[1:]]
        codes = [subprocess.run([*command, "--target", target]).returncode for target in sorted(targets)]
        sys.exit(max(codes, default=0))
    prepare_process(arguments.target)
    try:
        examples_importable(arguments.checkout)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    chosen = [case for case in chosen if case.target == arguments.target]
    agreed = [_report(case, arguments.out) for case in chosen]
    sys.exit(not all(agreed))


def _report(case: Case, out: Path | None) -> bool:
    """Judge a case, print and write its line; whether the simulator agrees with the example."""
    verdict = judge(case)
    order = "" if verdict.strict else "(order implied) "
    line = f"{verdict.outcome:12} {verdict.seconds:6.1f} s  {case.name}  {order}{verdict.reason}"
    print(line, flush=True)
    if out:
        append_line(out, msgspec.json.encode(row(case, verdict)))
    return verdict.outcome in ACCEPTED


def row(case: Case, verdict: Verdict) -> dict[str, object]:
    """A case's line in the table."""
    return {"example": case.example, "target": case.target, "call": case.call()} | asdict(verdict)


if __name__ == "__main__":
    main()

"""`python -m harness.simulator.microbench pack FOLDER` and `... apply microbench.json`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.simulator.errors import SimulationError
from harness.simulator.microbench.micro import TARGET
from harness.simulator.target import TABLES, target_named


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m harness.simulator.microbench")
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="compile all micros into a new folder for a GPU host")
    pack.add_argument("folder", type=Path)
    apply = commands.add_parser("apply", help="write what the GPU host measured into the target's table")
    apply.add_argument("results", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "pack":
            _pack(arguments.folder)
        else:
            _apply(arguments.results)
    except SimulationError as error:
        sys.exit(f"error: {error}")


def _pack(folder: Path) -> None:
    from harness.simulator.microbench.build import write_pack

    if folder.exists():
        raise SimulationError(f"{folder} exists: name a new folder")
    print(f"{write_pack(folder)} micros in {folder}: run `python3 measure.py --out microbench.json` there")


def _apply(path: Path) -> None:
    from harness.simulator.microbench.apply import measured_values, rewrite
    from harness.simulator.microbench.results import Results

    results = Results.read(path)
    values = measured_values(results, target_named(TARGET))
    device, date = results.raw["device"].removeprefix("NVIDIA "), results.raw["date"][:10]
    rewrite(TABLES / f"{TARGET}.toml", values, f"{device}, {date}, harness/simulator/microbench")
    for name, value in values.items():
        print(f"{name:34} {value:10.4g}")


if __name__ == "__main__":
    main()

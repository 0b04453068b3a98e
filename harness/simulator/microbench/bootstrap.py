"""Measure this pack of micro-benchmarks: `python3 measure.py --out microbench.json`.

Needs Linux on x86-64, a Python of `wheels/`, PyTorch and an NVIDIA driver.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from pack_bootstrap import unpack  # type: ignore[import-not-found]

PACK = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="routertune-micro-") as site:
        unpack(Path(site))
        from harness.simulator.microbench.measure import measure_all

        found = measure_all(PACK, (PACK / "commit").read_text().strip())
        arguments.out.write_text(json.dumps(found, indent=None, separators=(",", ":")))


if __name__ == "__main__":
    main()

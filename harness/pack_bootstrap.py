"""Measure this pack: `python3 measure.py --out records.jsonl`.

Needs Linux on x86-64, a Python of `wheels/`, PyTorch and an NVIDIA driver; no network, no compiler, nothing
installed. Run it again with the same --out to go on after an interruption. Bring the file back and give it to
`routertune collect`.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

PACK = Path(__file__).resolve().parent


def unpack(site: Path) -> None:
    """Put the pack's wheels, sources and runtime library where this process and its children find them."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheels = sorted((PACK / "wheels" / version).glob("*.whl"))
    if not wheels:
        known = ", ".join(sorted(path.name for path in (PACK / "wheels").iterdir()))
        sys.exit(f"error: this pack is for Python {known}, and this is {version}: run it with one of those")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    (packed,) = (PACK / "lib").glob("*.gz")
    library = site / packed.stem
    with gzip.open(packed, "rb") as source, library.open("wb") as target:
        shutil.copyfileobj(source, target)
    os.environ["ROUTERTUNE_DSL_RUNTIME"] = str(library)
    sys.path[:0] = [str(PACK / "source"), str(site)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; appended to, so it resumes")
    parser.add_argument(
        "--outputs", type=Path, help="also save every router's answers, as npz, at the M of --at"
    )
    parser.add_argument(
        "--at", type=int, nargs="+", default=[1, 100, 1024], help="M of --outputs (1 100 1024)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="routertune-pack-") as site:
        unpack(Path(site))
        from harness.executor import Executor, ExecutorError
        from harness.executors import make_executor
        from harness.pack import PackError
        from harness.pack_measure import measure_pack
        from harness.record import RecordError, TrialRecord

        def open_executor(target: str) -> Executor:
            return make_executor("cuda", target)

        def report(record: TrialRecord, done: int, total: int) -> None:
            config = " ".join(f"{name}={value}" for name, value in record.config.items())
            print(f"[{done}/{total}] {record.outcome.value:13} {config}  {record.reason}", flush=True)

        try:
            added = measure_pack(PACK, arguments.out, open_executor, report=report)
        except (PackError, RecordError, ExecutorError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(f"stopped: {arguments.out} has what was measured; the same command goes on from there")
        print(f"{added} records added to {arguments.out}")
        if arguments.outputs:
            from harness.pack_outputs import write_outputs

            print(f"{write_outputs(PACK, arguments.outputs, arguments.at)} arrays in {arguments.outputs}")


if __name__ == "__main__":
    main()

"""How far the simulator agrees with a GPU: the same artifacts, run and timed on both.

    python -m sweeps.agreement pack FOLDER                                  # here: compile a sample, pack it
    python3 FOLDER/measure.py --out records.jsonl --outputs outputs.npz     # on the GPU host
    python -m sweeps.agreement compare records.jsonl outputs.npz --output agreement.json         # here again

`compare` runs every artifact in the simulator on the GPU's inputs and models its time at every measured M.
Every other config of a sample may serve for calibration: the figures are given for both halves. A later
sample (`pack --seed`) that nothing was calibrated on is compared with `--held-out`.
"""

from __future__ import annotations

import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from harness.agreement_record import Agreement, Answered, Compared, Timed, summary_lines
from harness.cache import ArtifactCache
from harness.compile import compile_cached
from harness.executor import MeasurePlan
from harness.oneline import one_line
from harness.pack import write_pack
from harness.pack_outputs import answer, digest, inputs_at
from harness.provenance import provenance
from harness.record import TrialRecord
from harness.records import read_records
from harness.runner import Candidate
from harness.simulator.model import Model
from harness.simulator.modelled import ModelledTimes
from harness.simulator.run import Program
from kernels.families import family
from kernels.problem import preset
from sweeps.covering import covering_order
from sweeps.space import Space

SAMPLE_SEED = 11  # of the sample that the table of sm_90a was calibrated on
TIMED_M = (64, 1024, 8192)


@click.group()
def main() -> None:
    """Compare the simulator with a GPU."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--problem", default="deepseek-v4-pro", show_default=True)
@click.option("--configs", default=56, show_default=True, help="how many configs to sample")
@click.option("--seed", default=SAMPLE_SEED, show_default=True, help="another seed draws other configs")
@click.option("--also", type=click.Path(exists=True, path_type=Path), help="JSON list of configs to add")
def pack(folder: Path, problem: str, configs: int, seed: int, also: Path | None) -> None:
    """Compile a sample of the Hopper space and pack it."""
    kernels, target = family("fused_sm90"), "sm_90a"
    space = Space(kernels, preset(problem), target)
    wanted = list(islice(covering_order(space, seed), configs))
    wanted += [params for params in (json.loads(also.read_text()) if also else []) if params not in wanted]
    artifacts = []
    for params in wanted:
        result = compile_cached(
            ArtifactCache().root, kernels, preset(problem), kernels.config(params), target
        )
        if result.artifact is None:
            click.echo(f"left out, {result.reason}: {params}", err=True)
            continue
        artifacts.append(result.artifact)
    summary = write_pack(folder, artifacts, MeasurePlan(m_values=TIMED_M))
    click.echo(f"{summary.artifacts} artifacts, {summary.size_bytes / 2**20:.0f} MiB in {summary.folder}")


@main.command()
@click.argument("records", type=click.Path(exists=True, path_type=Path))
@click.argument("outputs", type=click.Path(exists=True, path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--answers/--no-answers", default=True, help="run the routers, not only the model")
@click.option("--held-out", is_flag=True, help="nothing was calibrated on any config of this sample")
def compare(records: Path, outputs: Path, output: Path, answers: bool, held_out: bool) -> None:
    """Run a measured pack's artifacts in the simulator and write what differs."""
    found = [record for record in read_records(records) if record.measurements]
    gpu = np.load(outputs, allow_pickle=False)
    compared = []
    for place, record in enumerate(found):
        compared.append(_compare(record, gpu, calibrates=not held_out and place % 2 == 0, run=answers))
        click.echo(f"[{place + 1}/{len(found)}] {_line(compared[-1])}")
    device = found[0].device
    agreement = Agreement(
        str(found[0].problem["name"]),
        found[0].target,
        device.name if device else "",
        provenance(),
        tuple(compared),
    )
    output.write_bytes(msgspec.json.format(msgspec.json.encode(agreement)))
    for line in summary_lines(agreement):
        click.echo(line)


def _compare(record: TrialRecord, gpu: Any, *, calibrates: bool, run: bool) -> Compared:
    kernels = family(record.family)
    problem = preset(str(record.problem["name"]))
    config = kernels.config(record.config)
    result = compile_cached(ArtifactCache().root, kernels, problem, config, record.target)
    try:
        assert result.artifact is not None
        program = Program.of_folder(result.artifact.folder)
        candidate = Candidate.of_manifest(result.artifact.manifest, program)
        answered = (
            tuple(_answer(candidate, record.artifact_key, gpu, m) for m in _answered_m(gpu)) if run else ()
        )
        began = time.process_time()
        model = Model(program, {entry.kernel: entry.registers for entry in record.resources})
        modelled = ModelledTimes(model, candidate)
        times = tuple(Timed(at.m, at.cold.median_us, modelled.us(at.m)) for at in record.measurements)
    except Exception as error:  # one config that the simulator cannot run must not hide the others
        return Compared(
            dict(record.config), calibrates, (), (), 0.0, one_line(f"{type(error).__name__}: {error}")
        )
    return Compared(dict(record.config), calibrates, answered, times, time.process_time() - began)


def _answered_m(gpu: Any) -> list[int]:
    return sorted(int(name.split("/")[1]) for name in gpu.files if name.startswith("inputs/"))


def _answer(candidate: Candidate, key: str, gpu: Any, m: int) -> Answered:
    inputs = inputs_at(candidate, m)
    if bytes.fromhex(digest(inputs)) != gpu[f"inputs/{m}"].tobytes():
        raise ValueError(f"the inputs at M = {m} are not the GPU host's: another torch draws other numbers")
    began = time.process_time()
    found = answer(candidate, inputs, m, "cpu")
    seconds = time.process_time() - began
    ids, weights = gpu[f"{key}/{m}/ids"], gpu[f"{key}/{m}/weights"]
    same = ids == found.ids.numpy()
    error = np.abs(found.weights.numpy() - weights) / np.abs(weights)
    return Answered(m, int((~same).sum()), float(error[same].max(initial=0.0)), seconds)


def _line(compared: Compared) -> str:
    if compared.error:
        return f"{compared.error}: {compared.config}"
    times = ", ".join(f"{t.m}: {t.measured_us:.1f} / {t.modelled_us:.1f}" for t in compared.times)
    differ = sum(a.ids_differ for a in compared.answers)
    return f"{differ} ids differ; us measured / modelled at {times}"


if __name__ == "__main__":
    main()

"""The runner without a GPU: compiled code is executed, checked and given a modelled time by the simulator.

A broken rule of the machine (an access out of bounds, a deadlock, a race, a read of what nobody wrote) is the
candidate's fault and costs it its trial, as a CUDA error does. An instruction that the simulator does not
know is its own limit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from harness.artifact import Artifact
from harness.executor import CheckDepth, MeasurePlan
from harness.record import CheckResult, DeviceFacts, Measurement, Rates
from harness.runner import BeyondRunnerError, Candidate, EndlessCandidateError, Runner
from harness.simulator.c_loops import load_loops
from harness.simulator.errors import EndlessError, NotSimulatedError
from harness.simulator.model import Model
from harness.simulator.modelled import ModelledTimes
from harness.simulator.race_launch import search_races
from harness.simulator.recorder import load_recorder
from harness.simulator.run import Program
from harness.simulator.target import target_named
from harness.timing import bytes_moved, floor_us, flops, summarize
from harness.toolchain import TARGETS
from kernels.families import family
from kernels.family import KernelFamily, OperandFormat

FLOPS_PER_MAC = 2
BF16_BITS = 16
# Which arguments of a launch all tokens share: the weight, and its scales.
WEIGHTS = {OperandFormat.BF16: (1,), OperandFormat.NVFP4: (2, 3)}
MODELS = {"sm_90a": "H100 SXM", "sm_100a": "B200", "sm_103a": "B300"}


class SimulatorRunner(Runner):
    """Checks and models candidates of one target, named by the subclass."""

    target: ClassVar[str]
    torch_device = "cpu"
    check_depth = CheckDepth.BRIEF

    def __init__(self) -> None:
        self._table = target_named(self.target)
        # Without these no candidate could run, and that would be none's fault.
        load_recorder()
        load_loops()
        self._loaded: ModelledTimes | None = None

    def device(self) -> DeviceFacts:
        chip, (major, minor) = self._table.chip, TARGETS[self.target]
        return DeviceFacts(
            name=f"simulated {self.target} ({MODELS[self.target]} model)",
            compute_capability=f"{major}.{minor}",
            multiprocessors=self._table.sms,
            l2_bytes=int(chip["l2_capacity_bytes"]),
            max_sm_clock_mhz=int(self._table.clock_mhz),
        )

    def rates(self) -> Rates:
        """What the table says: bandwidth and matrix rate are the model's own."""
        chip, clock_hz = self._table.chip, 1e6 * self._table.clock_mhz
        return Rates(
            copy_bytes_per_s=chip["dram_bytes"] * clock_hz,
            matrix_flop_per_s=FLOPS_PER_MAC * chip["mma_macs"] * self._table.sms * clock_hz,
            empty_launch_us=chip["launch_cycles"] / self._table.clock_mhz,
        )

    def load(self, artifact: Artifact) -> Candidate:
        try:
            program = Program.of_folder(artifact.folder)
        except NotSimulatedError as error:
            raise _beyond(error) from None
        kernels = self.kernels_of(artifact)
        candidate = Candidate.of_manifest(artifact.manifest, program, kernels)
        candidate = replace(candidate, together=program.together)
        registers = {entry.kernel: entry.registers for entry in artifact.manifest.resources}
        model = Model(program, registers, weights=WEIGHTS[candidate.operand_format])
        self._loaded = ModelledTimes(model, candidate)
        return candidate

    def kernels_of(self, artifact: Artifact) -> KernelFamily:
        """The family that the artifact is of."""
        return family(artifact.manifest.family)

    def check(self, candidate: Candidate, seed: int, depth: CheckDepth | None = None) -> CheckResult:
        assert self._loaded is not None
        assert self._loaded.candidate is candidate
        try:
            check = super().check(candidate, seed, depth)
            if check.passed:
                search_races(self._loaded.model.program, candidate, seed)
            return check
        except NotSimulatedError as error:
            raise _beyond(error) from None
        except EndlessError as error:
            raise EndlessCandidateError(str(error)) from None

    def measure(self, candidate: Candidate, m: int, plan: MeasurePlan, rates: Rates) -> Measurement:
        """The modelled times at `m`: one number each, without samples to repeat and without a spread."""
        assert self._loaded is not None
        assert self._loaded.candidate is candidate
        if plan.quantize:
            raise BeyondRunnerError(
                "a limit of the simulator: it does not model the quantization of activations"
            )
        problem, operand_format = candidate.problem, candidate.operand_format
        try:
            cold_us, warm_us = (self._loaded.us(m, warm) for warm in (False, True))
        except NotSimulatedError as error:
            raise _beyond(error) from None
        return Measurement(
            m=m,
            cold=summarize([cold_us]),
            warm=summarize([warm_us]),
            floor_us=floor_us(problem, m, rates, operand_format),
            bytes_moved=bytes_moved(problem, m, operand_format),
            flops=flops(problem, m),
        )


class Sm90aRunner(SimulatorRunner):
    target = "sm_90a"


class Sm100aRunner(SimulatorRunner):
    target = "sm_100a"


class Sm103aRunner(SimulatorRunner):
    target = "sm_103a"


def _beyond(error: NotSimulatedError) -> BeyondRunnerError:
    return BeyondRunnerError(f"a limit of the simulator, not a fault of the config: {error}")

"""The worker process of an executor: `python -m harness.worker FD RUNNER`.

FD is the worker's end of the pipe, RUNNER the runner's class as `module:Class`. The worker ends with its
parent (its standard input is the lifeline) and after the first candidate that ended badly: a device error is
sticky, and what a wrong candidate wrote over is not known.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from harness import protocol
from harness.artifact import load_artifact
from harness.lifeline import die_with
from harness.oneline import one_line
from harness.protocol import Broken, Checked, Evaluate, Finished, Measured, Phase, RatesMeasured, Ready, Reply
from harness.record import Outcome
from harness.runner import BeyondRunnerError, EndlessCandidateError, Runner, WrongResultError

Send = Callable[[Reply], None]


def main(descriptor: int, runner_name: str) -> None:
    """Serve requests until the parent closes the pipe or a candidate ends badly."""
    die_with(sys.stdin)
    connection = Connection(descriptor)

    def send(reply: Reply) -> None:
        connection.send_bytes(protocol.encode(reply))

    try:
        runner = _runner_class(runner_name)()
        send(Ready(runner.device()))
    except Exception as error:  # whatever it is, the parent reports it
        send(Broken(_describe(error)))
        return
    healthy = True
    while healthy:
        try:
            request = protocol.decode_request(connection.recv_bytes())
        except EOFError:
            return
        if isinstance(request, Evaluate):
            finished = _evaluate_safely(runner, request, send)
            send(finished)
            healthy = finished.outcome in (Outcome.OK, Outcome.UNSTABLE)
        else:
            send(RatesMeasured(runner.rates()))


def _evaluate_safely(runner: Runner, request: Evaluate, send: Send) -> Finished:
    phase = ""

    def announce(name: str) -> None:
        nonlocal phase
        phase = name
        send(Phase(name))

    try:
        return _evaluate(runner, request, send, announce)
    except WrongResultError as error:
        return Finished(Outcome.WRONG_RESULT, one_line(str(error)))
    except EndlessCandidateError as error:
        return Finished(Outcome.TIMEOUT, one_line(f"{error} (in {phase})"))
    except BeyondRunnerError as error:
        # Nothing is known of it: it is recorded like what is compiled where nothing can run it.
        return Finished(Outcome.COMPILED, one_line(f"{error} (in {phase})"))
    except Exception as error:  # whatever the candidate does costs this candidate only
        return Finished(Outcome.CRASHED, f"{_describe(error)} (in {phase})")


def _evaluate(runner: Runner, request: Evaluate, send: Send, announce: Callable[[str], None]) -> Finished:
    plan = request.plan
    announce("load")
    candidate = runner.load(load_artifact(Path(request.folder)))
    announce("check")
    check = runner.check(candidate, plan.seed, plan.check_depth)
    send(Checked(check))
    if not check.passed:
        return Finished(Outcome.WRONG_RESULT, one_line(check.first_failure))
    unsteady = []
    for m in plan.m_values:
        assert request.rates is not None
        announce(f"timing at M = {m}")
        measurement = runner.measure(candidate, m, plan, request.rates)
        send(Measured(measurement))
        if not measurement.steady:
            unsteady.append(m)
    if unsteady:
        return Finished(Outcome.UNSTABLE, f"unsteady at M = {', '.join(map(str, unsteady))}")
    return Finished(Outcome.OK)


def _describe(error: Exception) -> str:
    on_the_cpu = "can't allocate memory" in str(error)  # torch's CPU allocator raises a RuntimeError
    if on_the_cpu or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return one_line(f"out of memory: {error}")
    # What follows the first line of a CUDA error is advice on how to debug it.
    return one_line(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def _runner_class(name: str) -> type[Runner]:
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not (isinstance(found, type) and issubclass(found, Runner)):
        raise TypeError(f"{name} is not a Runner")
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

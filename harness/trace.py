"""Trace layers of a model: run them beside their references and name the first step that goes wrong.

Each layer runs twice. Along the **path** it has the previous layer's output and its own intermediates, as in
a model. **Forced**, each of its intermediates is replaced by the exact NVFP4 reference's as soon as it has
been seen, so that the next step has the reference's input and answers for its own error only.

Where the run chooses other experts than the reference, which scores near a tie allow, both references go on
with the run's choice: a different choice is no error of the steps behind it. Whether the router may choose so
is judged by `harness.check_rule`, on the reference's input and on the run's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from harness.check_bounds import weight_errors
from harness.trace_compare import Views, compare_step
from harness.trace_math import Signal, U
from harness.trace_operands import PRODUCT_INPUTS, operand_step, saturated_share
from harness.trace_record import Finding, RouterTrace, StepTrace, Verdict
from harness.trace_reference import Reference, ReferenceWeights, Step, expect_routing, run_reference
from harness.trace_routing import Choice, ids_step, judge, router_trace
from harness.trace_weights import TraceError, check_weights, require_finite
from kernels.moe_layer import MoeLayer, Tap, forward_layer
from kernels.reference import routing_weights

Forward = Callable[[Tensor, MoeLayer, Tap], Tensor]

IDS, WEIGHTS, LOGITS, LAST = "router.ids", "router.weights", "router.logits", "ffn.residual"


@dataclass(frozen=True)
class Traced:
    """What a trace found."""

    verdict: Verdict
    steps: tuple[StepTrace, ...]
    routers: tuple[RouterTrace, ...]


def trace_layers(
    x: Tensor,
    layers: Sequence[MoeLayer],
    weights: Sequence[Mapping[str, Tensor]],
    forward: Forward = forward_layer,
) -> Traced:
    """Trace finalized `layers` one behind the other for the tokens x [M, H] bf16.

    `weights` holds what each layer is meant to compute with, by the names of its state dict, unquantized.
    Raises `TraceError` when these or x cannot be traced, or a layer knows that its quantized weight is stale.
    """
    _require_input(x, layers[0].shape.hidden)
    for index, (layer, own) in enumerate(zip(layers, weights, strict=True)):
        check_weights(layer.shape, own, f"layer {index}")
    path = x
    exact = plain = Signal(x.double(), torch.zeros_like(x, dtype=torch.float64))
    steps: list[StepTrace] = []
    routers: list[RouterTrace] = []
    for index, (layer, own) in enumerate(zip(layers, weights, strict=True)):
        run = _run_layer(layer, ReferenceWeights(own), forward, path, exact, plain)
        found, router = _compare_layer(index, run)
        steps += found
        routers.append(router)
        path, exact, plain = run.output, run.followed.steps[LAST].signal, run.plain.steps[LAST].signal
    return Traced(verdict(steps), tuple(steps), tuple(routers))


def verdict(steps: Sequence[StepTrace]) -> Verdict:
    """The first step out of its band."""
    first = next((step for step in steps if step.finding is not Finding.IN_BAND), None)
    if first is None:
        return Verdict(Finding.IN_BAND)
    if first.finding is Finding.DEFECT:
        return Verdict(
            first.finding, first.layer, first.name, first.step_error, first.step_excess, first.worst
        )
    error = first.path_error if first.finding is Finding.DRIFT else first.total_error
    excess = error / first.expected_error if error is not None and first.expected_error else None
    return Verdict(first.finding, first.layer, first.name, error, excess)


@dataclass(frozen=True, eq=False)
class _LayerRun:
    """One layer's two runs, and the references: `given` for the forced one, the others for the path."""

    layer: MoeLayer
    weights: ReferenceWeights
    forced: dict[str, Tensor]
    path: dict[str, Tensor]
    output: Tensor
    given: Reference
    followed: Reference
    plain: Reference


def _run_layer(
    layer: MoeLayer, weights: ReferenceWeights, forward: Forward, x: Tensor, exact: Signal, plain: Signal
) -> _LayerRun:
    """Run the layer on its path's input x, and the references on what they have come to themselves."""
    reference = partial(run_reference, weights=weights, shape=layer.shape)
    given = reference(exact, quantized=True)
    forced: dict[str, Tensor] = {}
    path: dict[str, Tensor] = {}

    def force(name: str, value: Tensor) -> Tensor:
        forced[name] = value
        return given.ids.to(value.dtype) if name == IDS else given.steps[name].stored

    def record(name: str, value: Tensor) -> Tensor:
        path[name] = value
        # Ids that no expert has would end the run before the trace could name them.
        return given.ids.to(value.dtype) if name == IDS and not _valid(value, layer) else value

    try:
        forward(exact.value.to(x.dtype), layer, force)
        output = forward(x, layer, record)
    except RuntimeError as error:
        if "finalize_weights" not in str(error):
            raise
        raise TraceError(str(error)) from None
    ids = path[IDS].long() if _valid(path[IDS], layer) else given.ids
    followed = given if torch.equal(ids, given.ids) else reference(exact, quantized=True, ids=ids)
    return _LayerRun(
        layer, weights, forced, path, output, given, followed, reference(plain, quantized=False, ids=ids)
    )


def _compare_layer(index: int, run: _LayerRun) -> tuple[list[StepTrace], RouterTrace]:
    """Every step in the order in which the layer takes them, and the router's choices."""
    problem = run.layer.shape.problem
    given = judge(Choice(run.forced[IDS], run.forced[WEIGHTS], run.given.routing), problem)
    expected = expect_routing(run.path["ffn.norm"], run.weights, run.layer.shape)
    own = judge(Choice(run.path[IDS], run.path[WEIGHTS], expected), problem)
    exact, plain = run.followed.routing, run.plain.routing
    router = router_trace(index, run.plain.ids, given, own, exact, plain)
    steps = []
    for name in run.forced:
        if operand := _operand_before(name, run):
            steps.append(operand_step(index, operand, run.layer, run.weights))
        if name == IDS:
            steps.append(ids_step(index, given, own, router, exact, plain))
            continue
        step = compare_step(
            index,
            name,
            _views(name, run),
            partial(_row_name, run, name),
            saturated_share(name, run.path, run.plain.ids),
        )
        if name == WEIGHTS and router.detail and not (given.ids_wrong or own.ids_wrong):
            step = replace(step, finding=Finding.DEFECT, worst=router.detail)
        steps.append(step)
    return steps, router


def _operand_before(name: str, run: _LayerRun) -> str:
    """The quantized weight that the step `name` is the first to use; empty for none."""
    if name == LOGITS or (name == IDS and LOGITS not in run.forced):
        return "router"
    return name if name in PRODUCT_INPUTS and name != LOGITS else ""


def _views(name: str, run: _LayerRun) -> Views:
    given = run.given.steps[name]
    if name == WEIGHTS and _valid(run.forced[IDS], run.layer):
        given = _weights_of(run.forced[IDS].long(), run)
    return Views(run.forced[name], given, run.path[name], run.followed.steps[name], run.plain.steps[name])


def _weights_of(ids: Tensor, run: _LayerRun) -> Step:
    """The reference's weights for the ids that the router chose itself, which a tie may make others."""
    problem, routing = run.layer.shape.problem, run.given.routing
    value = routing_weights(routing.scores, ids, problem)
    allowed = weight_errors(routing, ids, value, problem).norm(dim=1) + U * value.norm(dim=1)
    return Step(value, value.float(), allowed, run.given.steps[WEIGHTS].variance)


def _row_name(run: _LayerRun, name: str, row: int) -> str:
    if not name.startswith("experts."):
        return f"token {row}"
    token, slot = divmod(row, run.layer.shape.problem.top_k)
    return f"token {token}, slot {slot}, expert {int(run.given.ids[token, slot])}"


def _valid(ids: Tensor, layer: MoeLayer) -> bool:
    return bool(((ids >= 0) & (ids < layer.shape.problem.experts)).all())


def _require_input(x: Tensor, hidden: int) -> None:
    if x.ndim != 2 or x.shape[1] != hidden or len(x) == 0 or x.dtype != torch.bfloat16:
        raise TraceError(f"the input is {x.dtype} of shape {list(x.shape)}: want bfloat16 [M, {hidden}]")
    require_finite(x, "the input")

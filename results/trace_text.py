"""A layer trace as text: the steps in a table, the router's choices, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator

from harness.trace_record import Finding, RouterTrace, StepTrace, TraceRecord, Verdict

MEANINGS = {
    Finding.DEFECT: "given the reference's input, this step does not give the reference's result",
    Finding.DRIFT: "each step is right, but the run is further from exact NVFP4 than rounding explains",
    Finding.QUANTIZATION: "exact NVFP4 too is further from the unquantized layer than rounding explains",
    Finding.NOT_FINITE: "the run has a NaN or an infinity here",
}
COLUMNS = (
    f"{'step':24} {'step error':>10} {'/ allowed':>9} {'path':>7} {'total':>7} {'NVFP4':>7} {'band':>7} "
    f"{'norm':>9} {'exact':>9} {'bf16':>9} {'max':>8} {'bf16':>8} {'sat':>5}"
)
LEGEND = (
    "step error: given the reference's input, against exact NVFP4; / allowed: worst row, a defect above 1\n"
    "path, total: error of the run against exact NVFP4 and against the unquantized layer (bf16)\n"
    "NVFP4: error of exact NVFP4 against bf16; band: what NVFP4's rounding explains of path and total\n"
    "norm, max: of the run, beside exact NVFP4's and bf16's; sat: saturated share of the quantized blocks"
)


def trace_text(record: TraceRecord) -> str:
    """The whole report."""
    sizes = ", ".join(f"{name} {value}" for name, value in record.layer_sizes.items())
    head = f"{record.problem['name']}: {sizes}, {record.tokens} tokens, {record.weights}, on {record.device}"
    return "\n".join((head, *_tables(record), LEGEND, "", verdict_text(record.verdict)))


def verdict_text(verdict: Verdict) -> str:
    """One line: the first step out of its band, by how much, and what that means."""
    if verdict.finding is Finding.IN_BAND:
        return "every step is in its band"
    error = "not finite" if verdict.error is None else f"{verdict.error:.2g}"
    excess = "" if verdict.excess is None else f", {verdict.excess:.3g} times what its band allows"
    detail = f" ({verdict.detail})" if verdict.detail else ""
    place = f"layer {verdict.layer}, {verdict.step}"
    return f"first out of band: {place}: error {error}{excess}{detail}: {MEANINGS[verdict.finding]}"


def _tables(record: TraceRecord) -> Iterator[str]:
    broken = False
    for router in record.routers:
        yield ""
        yield f"layer {router.layer}"
        yield COLUMNS
        for step in record.steps:
            if step.layer == router.layer:
                yield _row(step, broken)
                broken |= step.finding is not Finding.IN_BAND
        yield _router(router)
    yield ""


def _row(step: StepTrace, broken: bool) -> str:
    if step.finding is Finding.IN_BAND:
        note = ""
    elif step.finding is Finding.DEFECT or not broken:
        note = f"  <- {step.finding}"
    else:
        note = "  inherited"
    return (
        f"{step.name:24} {_small(step.step_error):>10} {_plain(step.step_excess):>9} "
        f"{_plain(step.path_error):>7} {_plain(step.total_error):>7} {_plain(step.quantization_error):>7} "
        f"{_band(step):>7} {_large(step, step.norm):>9} {_large(step, step.reference_norm):>9} "
        f"{_large(step, step.unquantized_norm):>9} {_large(step, step.peak):>8} "
        f"{_large(step, step.unquantized_peak):>8} {_share(step.saturated):>5}{note}"
    )


def _router(router: RouterTrace) -> str:
    said = (
        f"router: of {router.entries} ids, {router.differ_given_input} differ given the reference's input; "
        f"along the run, {router.differ_on_path} from exact NVFP4's (margin up to "
        f"{router.margin_on_path:.2g}) and {router.differ_unquantized} from bf16's (up to "
        f"{router.margin_unquantized:.2g})"
    )
    return f"{said}; {router.detail}" if router.detail else said


def _small(value: float | None) -> str:
    return "inf" if value is None else f"{value:.1e}" if value else "0"


def _plain(value: float | None) -> str:
    return "inf" if value is None else f"{value:.3f}" if value < 1000 else f"{value:.1e}"


def _band(step: StepTrace) -> str:
    return "-" if step.expected_error is None else _plain(step.expected_error)


def _large(step: StepTrace, value: float | None) -> str:
    if step.reference_norm is None:
        return "-"  # ids have no norm
    return "inf" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"

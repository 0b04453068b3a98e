"""The report of a study: Markdown that a person reads from the top, with links to the figures beside it.

First what came out, then how far it can be trusted: every trial accounted for, the conditions, and what is
not proven.
"""

from __future__ import annotations

from pathlib import Path

from harness.record import Source
from kernels.dispatch_table import write_atomically
from results.choose import Choice, choose_all
from results.report_best import best
from results.report_space import accounting, failures, parameters, resources
from results.report_trust import conditions, not_proven, provenance
from results.stats import Verdict
from results.study import ResultsError, Study, timed_group
from results.style import caption

REPORT = "report.md"


def write_report(study: Study, out_dir: Path) -> Path:
    """Write `report.md` into `out_dir`, linking to the figures that are there; its path.

    Raises `ResultsError` for times of several sources or devices, or when `out_dir` cannot be written.
    """
    path = out_dir / REPORT
    try:
        write_atomically(path, report(study, out_dir).encode())
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror}") from None
    return path


def report(study: Study, plots_in: Path) -> str:
    """The report's text; figures are linked where `plots_in` holds them."""
    choices = choose_all(study)
    sections = (
        _head(study, choices),
        best(study, choices, plots_in),
        accounting(study, plots_in),
        failures(study),
        parameters(study, plots_in),
        resources(study, plots_in),
        conditions(study),
        provenance(study),
        not_proven(study, choices),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(study: Study, choices: tuple[Choice, ...]) -> str:
    info = study.info
    problem = ", ".join(f"{key} {value}" for key, value in info.problem.items() if key != "name")
    title = f"# {info.problem.get('name')} with {info.family} on {info.target}"
    lines = [title, f"*{caption(study)}*", f"The problem: {problem}."]
    group = timed_group(study.records)
    if group is None and study.was_run:
        lines.append("> **Nothing was timed.** No candidate passed the check; the failures below say why.")
    elif group is None:
        lines.append(_nothing_was_run(study))
    elif group.source is Source.MODELLED:
        lines.append(
            "> **Every time in this report is modelled by the simulator. No GPU's clock has confirmed any.**"
        )
    if choices:
        lines.append(_verdict_line(choices))
    return "\n\n".join(lines)


def _nothing_was_run(study: Study) -> str:
    return (
        f"> **Nothing was run.** These configs were compiled for {study.info.target} and no more: whether "
        "they are right, and how fast they are, is not known.\n"
        "> On a host with such a GPU, run `make sweep`. Or carry what was compiled here to one with "
        "`routertune pack`, run `routertune measure` there, and bring the records back with "
        "`routertune collect`."
    )


def _verdict_line(choices: tuple[Choice, ...]) -> str:
    compared = [choice for choice in choices if choice.verdict]
    if not compared:
        return "The two-kernel path was not measured beside the candidates, so nothing is compared with it."
    parts = []
    for verdict, words in (
        (Verdict.FASTER, "faster than"),
        (Verdict.TIE, "as fast as"),
        (Verdict.SLOWER, "slower than"),
    ):
        of_it = [choice for choice in compared if choice.verdict is verdict]
        if of_it:
            tokens = ", ".join(f"{choice.m} ({choice.speedup:.2f}×)" for choice in of_it)
            parts.append(f"{words} the two kernels at M = {tokens}")
    return f"The best fused config is {'; '.join(parts)}."

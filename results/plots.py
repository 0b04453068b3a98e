"""Every figure of a study as a file.

Every figure names its source and device, study, date and commit in its caption; modelled ones are
watermarked besides. Drawing times of several sources or devices raises `ResultsError`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from tqdm import tqdm

from results.plot_space import draw_effects, draw_outcomes, draw_resources
from results.plot_times import draw_latency, draw_progress
from results.study import Study
from results.style import save


def write_plots(study: Study, out_dir: Path) -> list[Path]:
    """Draw every figure that `study` has something for as a PNG in `out_dir`; the files written.

    latency, progress, parameters (all M, the smallest, the largest), outcomes, resources. Raises
    `ResultsError` for mixed sources or devices, or when `out_dir` cannot be written.
    """
    m_values = study.info.m_values
    ends = dict.fromkeys((m_values[0], m_values[-1])) if len(m_values) > 1 else {}
    draws: dict[str, Callable[[Study], Figure | None]] = {
        "latency": draw_latency,
        "progress": draw_progress,
        "parameters": draw_effects,
        **{f"parameters-m{m}": partial(draw_effects, m=m) for m in ends},
        "outcomes": draw_outcomes,
        "resources": draw_resources,
    }
    bar = tqdm(draws.items(), desc="drawing", disable=None, leave=False)
    drawn = ((name, draw(study)) for name, draw in bar)
    return [save(figure, out_dir / f"{name}.png") for name, figure in drawn if figure]

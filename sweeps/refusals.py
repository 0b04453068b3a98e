"""Why the configs of a space are illegal, counted over the whole product of its choices.

Millions of configs need not be looked at one by one: a rule is asked once for each combination of what it
reads, and its verdicts are spread over the product as an array.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.family import KernelFamily, ParamValue, Rule
from kernels.problem import RouterProblem

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Refusal:
    """`configs` of a space that are illegal for one reason first; `example` is the reason of one of them."""

    configs: int
    reason: str
    example: str


def refusals(kernels: KernelFamily, problem: RouterProblem) -> list[Refusal]:
    """Every reason, the one that refuses most configs first. Reasons that differ in numbers only are one."""
    choices = kernels.space(problem)
    alive = np.ones([len(values) for values in choices.values()], np.bool_)
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for rule in kernels.rules():
        verdicts, reasons = _verdicts(rule, kernels, problem, choices)
        refused = np.bincount((verdicts * alive).reshape(-1), minlength=len(reasons))
        for number, reason in enumerate(reasons):
            if number and refused[number]:
                general = _NUMBER.sub("N", reason)
                counts[general] += int(refused[number])
                examples.setdefault(general, reason)
        alive &= verdicts == 0
    return [Refusal(count, reason, examples[reason]) for reason, count in counts.most_common()]


def _verdicts(
    rule: Rule, kernels: KernelFamily, problem: RouterProblem, choices: dict[str, tuple[ParamValue, ...]]
) -> tuple[NDArray[np.intp], list[str]]:
    """The number of the reason with which `rule` refuses each combination, 0 for none, and the reasons.

    The array has a dimension for each parameter, of length 1 where the rule does not read it.
    """
    first = {name: values[0] for name, values in choices.items()}
    read = [range(len(values)) if name in rule.reads else range(1) for name, values in choices.items()]
    reasons = [""]
    verdicts = np.zeros([len(indices) for indices in read], np.intp)
    for place in itertools.product(*read):
        params = {name: values[i] for (name, values), i in zip(choices.items(), place, strict=True)}
        reason = rule.reason(problem, kernels.config_type(**first | params))
        if reason is not None:
            if reason not in reasons:
                reasons.append(reason)
            verdicts[place] = reasons.index(reason)
    return verdicts, reasons

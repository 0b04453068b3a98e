"""The report's second half: under which conditions the times were taken, where they come from, and what
they do not prove."""

from __future__ import annotations

from collections import Counter

from harness.record import Outcome, Source, config_key
from results.choose import Choice
from results.markdown import bullets, number, table
from results.study import Study, timed_group


def conditions(study: Study) -> str:
    """The devices, their rates, and the state they were in while they measured."""
    group = timed_group(study.records)
    if group is None:
        return ""
    devices = {record.device.uuid: record.device for record in study.records if record.device}
    rates = [record.rates for record in study.records if record.rates]
    measured = [at for record in study.records for at in record.measurements]
    rows: list[tuple[str, str]] = [
        (
            f"device {device.uuid}",
            f"{device.name}, compute capability {device.compute_capability or 'unknown'}, driver "
            f"{device.driver or 'unknown'}, CUDA {device.cuda or 'unknown'}, power limit "
            f"{f'{device.power_limit_w:.0f} W' if device.power_limit_w else 'unknown'}",
        )
        for device in devices.values()
    ]
    if rates:
        rows += [
            ("copy bandwidth", _range([each.copy_bytes_per_s / 1e12 for each in rates], "TB/s")),
            ("matrix rate", _range([each.matrix_flop_per_s / 1e12 for each in rates], "TFLOP/s")),
            ("smallest kernel", _range([each.empty_launch_us for each in rates], "µs")),
        ]
    if group.source is Source.MODELLED:
        rows.append(("measurements", f"none: {len(measured)} modelled times, one at each M and cache state"))
        return "\n\n".join(["## Conditions", table(("", ""), rows), _checked(study)]).rstrip()
    throttled = Counter(reason for at in measured for reason in at.conditions.throttle_reasons)
    reasons = ", ".join(f"{reason} {count}×" for reason, count in throttled.most_common())
    rows += [
        ("SM clock", _range([at.conditions.sm_clock_mhz for at in measured], "MHz")),
        ("memory clock", _range([at.conditions.memory_clock_mhz for at in measured], "MHz")),
        ("temperature", _range([at.conditions.temperature_c for at in measured], "°C")),
        ("power", _range([at.conditions.power_w for at in measured], "W")),
        ("measurements", f"{len(measured)}, repeated {sum(at.repeats for at in measured)} times"),
        ("left unsteady", str(sum(not at.steady for at in measured))),
        ("throttled", reasons or "never reported"),
    ]
    return "\n\n".join(["## Conditions", table(("", ""), rows), _checked(study)]).rstrip()


def _checked(study: Study) -> str:
    """How much was checked, and the quality that is recorded and not gated."""
    checks = [record.check for record in study.records if record.check]
    if not checks:
        return ""
    cases = sum(len(check.cases) for check in checks)
    overlaps = [check.bf16_overlap for check in checks if check.bf16_overlap is not None]
    quality = (
        f" Of the experts that the unquantized bf16 reference picks, {min(overlaps):.1%} to "
        f"{max(overlaps):.1%} are picked too: a quality of the number format, recorded and not gated."
        if overlaps
        else ""
    )
    checked = f"{len(checks)} trials were checked against the reference before any timing, in {cases} cases."
    return checked + quality


def _range(values: list[float] | list[int], unit: str) -> str:
    known = [value for value in values if value]
    if not known:
        return "unknown"
    low, high = number(min(known)), number(max(known))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def provenance(study: Study) -> str:
    """Study, command, commits, versions, hosts and dates."""
    known = [record.provenance for record in study.records if record.provenance]
    commits = Counter(each.commit or "unknown" for each in known)
    versions = sorted({f"{name} {version}" for each in known for name, version in each.versions.items()})
    dates = sorted(each.date for each in known)
    hosts = sorted({each.host for each in known if each.host})
    rows = [
        ("study", f"`{study.info.name}`, created {study.info.created or 'at an unknown time'}"),
        ("command", f"`{study.info.command}`" if study.info.command else "unknown"),
        ("executor", study.info.executor or "unknown"),
        (
            "commit",
            ", ".join(f"`{commit}` ({count} records)" for commit, count in commits.items()) or "unknown",
        ),
        ("dates", f"{dates[0]} to {dates[-1]}" if dates else "unknown"),
        ("hosts", ", ".join(hosts) or "unknown"),
        ("versions", ", ".join(versions) or "unknown"),
    ]
    return "\n\n".join(["## Where this comes from", table(("", ""), rows)])


def not_proven(study: Study, choices: tuple[Choice, ...]) -> str:
    """What a reader might take from the report and must not."""
    items = [*_limits_of_source(study), *_limits_of_search(study), *_limits_of_choice(study, choices)]
    return "\n\n".join(["## What is not proven", bullets(items)])


def _limits_of_source(study: Study) -> list[str]:
    group = timed_group(study.records)
    if group is None:
        return ["Anything about speed: nothing was timed." if study.was_run else "Anything: nothing was run."]
    items = []
    if group.source is Source.MODELLED:
        items.append("Any time on a real GPU: the simulator's clock is a model.")
    else:
        items.append(
            f"Anything about another device than {group.device}, or about other clocks and power limits."
        )
    if group.source is Source.MODELLED or not study.info.target.startswith("sm_10"):
        items.append("Anything on Blackwell: no Blackwell GPU has run any of this.")
    items.append(
        "Correctness for every input: the check covers chosen distributions, shapes and seeds, not all."
    )
    if dirty := sum(
        bool(record.provenance and record.provenance.commit.endswith("-dirty")) for record in study.records
    ):
        items.append(
            f"That the commit reproduces it: {dirty} records are from a tree with uncommitted changes."
        )
    return items


def _limits_of_search(study: Study) -> list[str]:
    items = []
    tried = len({config_key(record) for record in study.candidates})
    if not study.info.legal_size:
        items.append("That there is no better config: how large the space is was not recorded.")
    elif tried < study.info.legal_size:
        items.append(
            f"That there is no better config: {study.info.legal_size - tried} legal ones were not tried."
        )
    if unstable := sum(record.outcome is Outcome.UNSTABLE for record in study.candidates):
        items.append(
            f"The speed of {unstable} unstable candidates: their times varied too much to be chosen from."
        )
    return items


def _limits_of_choice(study: Study, choices: tuple[Choice, ...]) -> list[str]:
    group = timed_group(study.records)
    if group is None:
        return []
    items = []
    chosen = {choice.m for choice in choices}
    if missing := [m for m in study.info.m_values if m not in chosen]:
        items.append(f"Anything at M = {_listed(missing)}: no candidate was ok and steady there.")
    # A modelled time is the same each time: there is no luck in it that a confirmation would show.
    measured = group.source is Source.MEASURED
    if measured and (unconfirmed := [choice.m for choice in choices if not choice.confirmed]):
        items.append(
            f"That the winners at M = {_listed(unconfirmed)} are as fast as shown: they were not measured "
            "again, and the fastest of many measurements flatters itself."
        )
    if tied := [choice.m for choice in choices if choice.tied]:
        items.append(f"That the config chosen at M = {_listed(tied)} is the fastest: others tie with it.")
    if alone := [choice.m for choice in choices if choice.baseline is None]:
        items.append(f"That fusing pays at M = {_listed(alone)}: the two-kernel path was not measured there.")
    return items


def _listed(m_values: list[int]) -> str:
    return ", ".join(str(m) for m in m_values)

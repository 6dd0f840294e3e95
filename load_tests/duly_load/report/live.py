"""The report on live runs, one HTML file that opens offline. Whether they can be believed stands above everything.

All numbers and pictures leave out what was due before the scenario's warm-up was over.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from duly_load.report.live_pictures import pictures
from duly_load.report.live_tables import LiveEntry, tables
from duly_load.report.page import Verdict, render
from duly_load.results.record import Ending

ENDINGS_MAX = 5
"""Reasons why streams ended badly that are told, of each run."""


def write_runs(path: Path, title: str, entries: list[LiveEntry], facts: Sequence[tuple[str, str]]) -> None:
    """One page about a run, or several of one scenario that share each picture, in the order given: [(name, run,
    results)], each name once.

    `facts`: (name, value) of what else was run on what, such as versions and machines of targets and
    `Machine.facts()`. The folder of `path` must exist. Raises ValueError where there are no entries or names repeat,
    ModuleNotFoundError without plotly.
    """
    names = [name for name, _, _ in entries]
    if not entries or len(set(names)) < len(names):
        raise ValueError(f"a report should have at least one run, each with a name of its own, got {names}")
    page = render(title, [*_facts(entries), *facts], tables(entries), pictures(entries), _verdict(entries))
    path.write_text(page, "utf-8")


def _facts(entries: list[LiveEntry]) -> list[tuple[str, str]]:
    runs = [run for _, run, _ in entries]
    scenario = runs[0].scenario
    return [
        ("Scenario", _each(run.scenario.name for run in runs)),
        ("Target", _each(run.target for run in runs)),
        ("Seed", _each(run.seed for run in runs)),
        ("Time counted", f"{scenario.warm_s:g} s to {scenario.duration_s:g} s"),
        ("Frames counted", _each(f"{results.frames:,}" for _, _, results in entries)),
        ("Streams", _each(len(results.by_stream) for _, _, results in entries)),
    ]


def _verdict(entries: list[LiveEntry]) -> Verdict:
    """Streams that were refused or broke off are told of too: they make no run invalid by themselves."""
    invalid = [name for name, _, results in entries if results.problems]
    several = len(entries) > 1
    reasons = [
        f"{name}: {problem}" if several else problem for name, _, results in entries for problem in results.problems
    ]
    for name, run, _ in entries:
        reasons += [f"{name}: {told}" if several else told for told in _told(run.endings)]
    if not invalid:
        headline = "Valid" if not several else f"All {len(entries)} runs are valid"
    elif several:
        headline = f"INVALID: {len(invalid)} of {len(entries)} runs; what they show is not the target's doing alone"
    else:
        headline = "INVALID: what this run shows is not the target's doing alone"
    return Verdict(not invalid, headline, tuple(reasons))


def _told(endings: Sequence[Ending]) -> list[str]:
    """Streams that ended alike together."""
    alike: dict[tuple[bool, str], list[Ending]] = {}
    for ending in endings:
        alike.setdefault((ending.refused, ending.reason), []).append(ending)
    told = []
    for (refused, reason), of in list(alike.items())[:ENDINGS_MAX]:
        names = list(dict.fromkeys(ending.stream for ending in of))
        who = f"stream {names[0]}" if len(names) == 1 else f"{len(names):,} streams, {names[0]} first,"
        what = "not let in" if refused else "broken off"
        told.append(f"{who} {'was' if len(names) == 1 else 'were'} {what} at {of[0].at_ns / 1e9:.3f} s: {reason}")
    if len(alike) > ENDINGS_MAX:
        told.append(f"and {len(alike) - ENDINGS_MAX:,} more reasons why streams were not let in or broken off")
    return told


def _each(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))

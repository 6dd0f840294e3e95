"""The report on runs, live or simulated, as one HTML file that opens offline. Whether they can be believed stands above
everything.

All numbers and pictures leave out what was due before the scenario's warm-up was over.
"""

from collections.abc import Sequence
from pathlib import Path

from duly_load.report.page import Verdict, render
from duly_load.report.pictures import pictures
from duly_load.report.tables import tables
from duly_load.report.view import RunView
from duly_load.results.formats import write_text


def write_runs(path: Path, title: str, views: Sequence[RunView], facts: Sequence[tuple[str, str]] = ()) -> None:
    """One page about a run, or several of one scenario that share each picture, in the order given, each under a name
    of its own.

    `facts`: (name, value) of what else was run on what, such as versions and machines of targets and
    `Machine.facts()`. The folder of `path` must exist. Raises ValueError where there are no runs or names repeat,
    ModuleNotFoundError without plotly.
    """
    names = [view.name for view in views]
    if not views or len(set(names)) < len(names):
        raise ValueError(f"a report should have at least one run, each with a name of its own, got {names}")
    verdict = _verdict(views) if any(view.problems is not None for view in views) else None
    write_text(path, render(title, [*_facts(views), *facts], tables(views), pictures(views), verdict))


def _facts(views: Sequence[RunView]) -> list[tuple[str, str]]:
    """What is the same in all runs once."""
    found: dict[str, dict[str, None]] = {}
    for view in views:
        own = (
            ("Time counted", f"{view.start_ns / 1e9:g} s to {view.end_ns / 1e9:g} s"),
            ("Frames counted", f"{view.results.frames:,}"),
            ("Streams", str(len(view.results.by_stream))),
        )
        for name, value in (*view.facts, *own):
            found.setdefault(name, {})[value] = None
    return [(name, ", ".join(values)) for name, values in found.items()]


def _verdict(views: Sequence[RunView]) -> Verdict:
    """Streams that were refused or broke off are listed too: they make no run invalid by themselves."""
    invalid = [view for view in views if view.problems]
    several = len(views) > 1
    problems = [(view.name, problem) for view in views for problem in view.problems or ()]
    reasons = [*problems, *((view.name, note) for view in views for note in view.notes)]
    if not invalid:
        headline = "Valid" if not several else f"All {len(views)} runs are valid"
    elif several:
        headline = f"INVALID: {len(invalid)} of {len(views)} runs; what they show is not the target's doing alone"
    else:
        headline = "INVALID: what this run shows is not the target's doing alone"
    return Verdict(not invalid, headline, tuple(f"{name}: {why}" if several else why for name, why in reasons))

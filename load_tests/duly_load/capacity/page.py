"""What a search for capacities found: as JSON, as CSV with a row a trial, and as a page with all trials in pictures."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from duly_load.capacity.confidence import estimate
from duly_load.capacity.search import CONFIDENCE, Trial, Verdict
from duly_load.capacity.terms import Capacity, Request
from duly_load.report.figures import policy_series
from duly_load.report.layout import Json, log_ticks, numbers, single, x_axis, y_axis
from duly_load.report.page import Column, Picture, Table, render
from duly_load.report.page import Verdict as PageVerdict
from duly_load.results.formats import write_csv, write_json, write_text
from duly_load.results.machine import Machine

HEIGHT_PX = 420
FILES = ("capacity.json", "capacity.csv", "report.html")

TRIAL_COLUMNS = (
    *("target", "version", "term", "trial", "load", "seed", "frames_per_s", "streams"),
    *("sent", "on_time", "ratio_low", "ratio_high", "refused", "problems"),
)
"""The columns of capacity.csv. `frames_per_s` is what was scheduled in the seconds that count."""

LOADS = {
    "streams": "offered, fixed-rate streams (frames/s)",
    "server": "offered, Poisson (frames/s)",
}
"""The title of the axis of each term."""


def write(out: Path, request: Request, machine: Machine, capacities: Sequence[Capacity]) -> None:
    """All files into the folder, the page last. Raises OSError, ModuleNotFoundError where plotly is not installed."""
    content = {
        "scenario": request.scenario.name,
        "seed": request.seed,
        "ratio": request.ratio,
        "seconds": request.seconds,
        "precision": request.precision,
        "confidence": CONFIDENCE,
        "machine": machine.to_json(),
        "capacities": [_json(capacity) for capacity in capacities],
    }
    write_json(out / "capacity.json", content)
    _write_trials(out / "capacity.csv", capacities)
    write_text(out / "report.html", page(request, machine, capacities))


def page(request: Request, machine: Machine, capacities: Sequence[Capacity]) -> str:
    """The whole page."""
    facts = [
        ("Scenario", request.scenario.name),
        ("Asked for", f"{100 * request.ratio:g} % on time"),
        ("Trials", f"{request.seconds:g} s each, first seed {request.seed}"),
        ("Confidence", f"{100 * CONFIDENCE:g} % for each interval"),
        *machine.facts(),
    ]
    by_term = _by_term(capacities)
    tables = [*found_tables(capacities), *(_trials(term, of) for term, of in by_term.items())]
    pictures = [_picture(term, of, request.ratio) for term, of in by_term.items()]
    return render(f"Capacity: {request.scenario.name}", facts, tables, pictures, _verdict(capacities))


def _verdict(capacities: Sequence[Capacity]) -> PageVerdict:
    ended = [capacity for capacity in capacities if capacity.found.ended]
    reasons = tuple(f"{capacity.target}, {capacity.term}: {capacity.found.ended}" for capacity in ended)
    if not ended:
        return PageVerdict(True, f"All searches ended with a figure: {len(capacities)}", ())
    return PageVerdict(False, f"INVALID: {len(ended)} of {len(capacities)} searches ended without a figure", reasons)


def _by_term(capacities: Sequence[Capacity]) -> dict[str, list[Capacity]]:
    terms = dict.fromkeys(capacity.term for capacity in capacities)
    return {term: [capacity for capacity in capacities if capacity.term == term] for term in terms}


def found_tables(capacities: Sequence[Capacity]) -> list[Table]:
    """What was found, a table for each term."""
    return [_found(term, of) for term, of in _by_term(capacities).items()]


def _found(term: str, capacities: Sequence[Capacity]) -> Table:
    columns = [
        Column("held", "Largest load shown to be held; a lower bound where the search ended early", ",.5g", 1),
        Column("failed", "Smallest load shown to fail", ",.5g"),
        Column("streams", "Streams of the load that is held", ",.0f"),
        Column("on time %", "In the fresh trials that confirm it", ".3f"),
        Column("trials", "All that were run", ",.0f"),
    ]
    about = f"{LOADS[term]}. " + " ".join(
        f"{capacity.target}: no figure, {capacity.found.ended}." for capacity in capacities if capacity.found.ended
    )
    rows = [(_named(capacity), _figures(capacity)) for capacity in capacities]
    return Table(f"Capacity, {term}", about, "target", tuple(columns), rows)


def _named(capacity: Capacity) -> str:
    """The name of a row, which says where its figure is only a lower bound."""
    found = capacity.found
    if not found.ended:
        return capacity.target
    return f"{capacity.target} ({'no figure' if found.held is None else 'at least'})"


def _figures(capacity: Capacity) -> tuple[float | None, ...]:
    found = capacity.found
    held, failed, sure = found.held, found.failed, found.confirmation
    return (
        None if held is None else found.frames_per_s(held),
        None if failed is None else found.frames_per_s(failed),
        None if held is None else found.shown(held).streams,
        None if sure is None else 100 * sure.estimate.ratio,
        len(found.trials),
    )


def _trials(term: str, capacities: Sequence[Capacity]) -> Table:
    columns = (
        Column("load", LOADS[term], ",.5g"),
        Column("streams", "That were open", ",.0f"),
        Column("sent", "Frames that count", ",.0f"),
        Column("on time %", "Of those", ".3f"),
        Column("valid", "0: the trial says nothing, and was repeated", ".0f"),
        Column("seed", "Of this trial", ".0f"),
    )
    rows = [
        (
            f"{capacity.target}, trial {number}",
            (
                trial.frames_per_s,
                trial.streams,
                int(trial.counts.sent.sum()),
                100 * trial.counts.ratio,
                int(not trial.problems),
                trial.seed,
            ),
        )
        for capacity in capacities
        for number, trial in enumerate(capacity.found.trials, 1)
    ]
    problems = {problem for capacity in capacities for trial in capacity.found.trials for problem in trial.problems}
    about = "In the order in which they were run." + "".join(f" Invalid: {problem}." for problem in sorted(problems))
    return Table(f"Trials, {term}", about, "trial", columns, rows)


def _picture(term: str, capacities: Sequence[Capacity], ratio: float) -> Picture:
    series = policy_series([capacity.target for capacity in capacities])
    data: list[Json] = []
    shapes: list[Json] = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": ratio, "y1": ratio}
        | {"line": {"color": "--late", "width": 1.5, "dash": "dot"}}
    ]
    for capacity in capacities:
        colour = f"--series-{series[capacity.target]}"
        valid = [trial for trial in capacity.found.trials if not trial.problems]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escape(capacity.target),
                "x": numbers(np.array([trial.frames_per_s for trial in valid])),
                "y": numbers(np.array([trial.counts.ratio for trial in valid])),
                "marker": {"color": colour, "size": 8, "opacity": 0.75},
                "hovertemplate": "%{y:.3~%} at %{x:,.4~g}<extra></extra>",
            }
        )
        held, failed = _figures(capacity)[:2]
        if held is not None and failed is not None:
            ends = {"x0": held, "x1": failed, "yref": "paper", "y0": 0, "y1": 1}
            shapes.append({"type": "rect", "fillcolor": colour, "opacity": 0.15, "line": {"width": 0}} | ends)
    layout = single(HEIGHT_PX) | {"hovermode": "closest", "shapes": shapes}
    xs = [np.array([trial.frames_per_s for trial in capacity.found.trials]) for capacity in capacities]
    layout["xaxis"] = x_axis(LOADS[term], **log_ticks(xs))
    layout["yaxis"] = y_axis("on-time ratio", range=[-0.03, 1.03], tickformat=".0%")
    about = (
        "Each point is a trial. The dotted line is what was asked for; the band of a target reaches from the largest "
        "load shown to be held to the smallest shown to fail."
    )
    return Picture(f"On-time ratio against load, {term}", about, {"data": data, "layout": layout})


def _json(capacity: Capacity) -> dict[str, Any]:
    found = capacity.found
    return {
        "target": capacity.target,
        "version": capacity.version,
        "term": capacity.term,
        "valid": not found.ended,
        "ended": found.ended,
        "held": _end(capacity, found.held),
        "failed": _end(capacity, found.failed),
        "confirmation": _end(capacity, found.confirmation),
        "loads": [_end(capacity, verdict) for verdict in found.verdicts],
        "trials": [_trial(capacity, trial) for trial in found.trials],
    }


def _end(capacity: Capacity, verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    shown, known = capacity.found.shown(verdict), verdict.estimate
    return {
        "load": verdict.load,
        "frames_per_s": capacity.found.frames_per_s(verdict),
        "streams": shown.streams,
        "finding": verdict.finding.value,
        "ratio": known.ratio,
        "ratio_low": known.low,
        "ratio_high": known.high,
        "frames": known.frames,
        "frames_effective": known.effective,
    }


def _write_trials(file: Path, capacities: Sequence[Capacity]) -> None:
    """A row a trial, in their order; `problems` is empty where it is valid."""
    rows = [
        {"target": capacity.target, "version": capacity.version, "term": capacity.term, "trial": number}
        | _trial(capacity, trial)
        | {"problems": "; ".join(trial.problems)}
        for capacity in capacities
        for number, trial in enumerate(capacity.found.trials, 1)
    ]
    write_csv(file, TRIAL_COLUMNS, ([row[name] for name in TRIAL_COLUMNS] for row in rows))


def _trial(capacity: Capacity, trial: Trial) -> dict[str, Any]:
    known = estimate([trial.counts], capacity.rule)
    return {
        "load": trial.load,
        "seed": trial.seed,
        "frames_per_s": trial.frames_per_s,
        "streams": trial.streams,
        "sent": int(trial.counts.sent.sum()),
        "on_time": int(trial.counts.on_time.sum()),
        "ratio_low": known.low,
        "ratio_high": known.high,
        "refused": trial.refused,
        "problems": list(trial.problems),
    }
